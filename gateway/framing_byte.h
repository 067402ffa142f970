/*
 * framing_byte: what each byte of a head may be part of. For framing alone.
 */
#ifndef GW_FRAMING_BYTE_H
#define GW_FRAMING_BYTE_H

#define GW_IN_TOKEN 1 /* a method or a field name */
#define GW_IN_VALUE 2
#define GW_IN_TARGET 4
#define GW_IN_HOST 8

extern const unsigned char gw_framing_classes[256];

#define GW_FRAMING_IS(byte, mask) ((gw_framing_classes[(unsigned char) (byte)] & (mask)) != 0)

/* The first byte that is not in the mask, or the end. */
static inline const char *
gw_framing_skip(const char *at, const char *end, unsigned char mask)
{
	while (at < end && GW_FRAMING_IS(*at, mask))
		at++;
	return at;
}

#endif
