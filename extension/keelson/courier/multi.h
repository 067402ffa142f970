/*
 * multi.h
 *	  libcurl's multi handle in one process: its sockets behind one epoll
 *	  descriptor, its timer, and a gate before name look-ups.
 */
#ifndef KS_COURIER_MULTI_H
#define KS_COURIER_MULTI_H

#include "postgres.h"

#include "courier/transfer.h"

/* Make it, for so many transfers at once; returns how many it can have (file descriptors). */
extern int ks_multi_create(int transfers);

/* Readable when libcurl has something to do. */
extern int ks_multi_descriptor(void);

/* Milliseconds until ks_multi_drive() must be called though nothing is readable; -1: never. */
extern long ks_multi_timeout(void);

/* Begin a transfer that was prepared for the URL. It ends by ks_multi_ended(), always. */
extern void ks_multi_start(KsTransfer *transfer, const char *url);

/* Let libcurl do what there is to do. Never waits. */
extern void ks_multi_drive(void);

/* A transfer that has ended, and how; NULL when there are no more. */
extern KsTransfer *ks_multi_ended(CURLcode *code);

#endif /* KS_COURIER_MULTI_H */
