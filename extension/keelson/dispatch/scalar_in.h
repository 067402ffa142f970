/*
 * scalar_in.h
 *	  Strict reading of plain values from text, without raising errors.
 */
#ifndef KS_SCALAR_IN_H
#define KS_SCALAR_IN_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/date.h"

typedef enum KsReading
{
	KS_READ,
	KS_NOT_THAT,     /* not of this kind */
	KS_NOT_INTEGRAL, /* a number with a fraction */
	KS_OUT_OF_RANGE
} KsReading;

/* A number as JSON writes it. 1e2 and 1.0 are integers, 1.5 is not. */
extern KsReading ks_read_integer(const char *text, int len, int64 low, int64 high, int64 *out);

/* The same; what lies beyond numeric is out of range. */
extern KsReading ks_read_numeric(const char *text, int len, Datum *out);
extern KsReading ks_read_double(const char *text, int len, double *out);

/* RFC 3339: 2025-01-15T00:00:00.25Z or with an offset such as +01:00; 2025-01-15. */
extern KsReading ks_read_timestamptz(const char *text, int len, TimestampTz *out);
extern KsReading ks_read_date(const char *text, int len, DateADT *out);

#endif /* KS_SCALAR_IN_H */
