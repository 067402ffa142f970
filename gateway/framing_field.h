/*
 * framing_field: the header fields that framing itself reads. For framing alone.
 */
#ifndef GW_FRAMING_FIELD_H
#define GW_FRAMING_FIELD_H

#include "framing.h"

#define GW_FRAMING_LENGTH_DIGITS 18 /* of a Content-Length; more: 413 */

enum GwField
{
	GW_FIELD_OTHER,
	GW_FIELD_HOST,
	GW_FIELD_CONTENT_LENGTH,
	GW_FIELD_TRANSFER_ENCODING,
	GW_FIELD_X_REQUEST_ID,
	GW_FIELD_CONNECTION,
	GW_FIELD_EXPECT
};

/* Recognises the field whose name is complete; a fault if it may not be here. */
enum GwFramingFault gw_framing_field_begin(struct GwFraming *framing);

/* Takes what there is of a host, up to a byte that is no part of one; returns where that is. */
const char *gw_framing_host_bytes(struct GwFraming *framing, const char *at, const char *end);

/* Takes a byte of the value of a field that is not GW_FIELD_OTHER. */
enum GwFramingFault gw_framing_value_byte(struct GwFraming *framing, unsigned char byte);

/* Judges the value of a field that has ended. */
enum GwFramingFault gw_framing_value_end(struct GwFraming *framing);

#endif
