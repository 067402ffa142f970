/*
 * image.h
 *	  What a picture says of itself.
 */
#ifndef KS_IMAGE_H
#define KS_IMAGE_H

#include "postgres.h"

typedef struct KsImage
{
	const char *content_type;
	uint32 width;
	uint32 height;
} KsImage;

/*
 * Read the head of a PNG, JPEG or WebP picture and follow its structure to the
 * end. Returns NULL and fills the image, or says as a sentence what is wrong.
 * Pixels are not decoded.
 */
extern const char *ks_image_read(const uint8 *data, size_t len, KsImage *image);

#endif /* KS_IMAGE_H */
