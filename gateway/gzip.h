/*
 * gzip: compression of reply bodies. One compressor per thread, kept.
 */
#ifndef GW_GZIP_H
#define GW_GZIP_H

#include <stdbool.h>
#include <stddef.h>

#define GW_GZIP_MIN 1024 /* bodies up to this size are not compressed */

/* Returns a malloc'ed gzip of data with its size in *out_len; NULL if it would not be smaller, or no memory. */
char *gw_gzip(const char *data, size_t len, size_t *out_len);

/* Frees the calling thread's compressor; a loop calls it before its thread ends. */
void gw_gzip_end(void);

#endif
