/*
 * jobs.h
 *	  Jobs run in processes of their own.
 */
#ifndef KS_JOBS_H
#define KS_JOBS_H

#include "postgres.h"

extern PGDLLEXPORT void ks_job_main(Datum arg);

#endif /* KS_JOBS_H */
