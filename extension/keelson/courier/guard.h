/*
 * guard.h
 *	  Where requests to the outside may go: URLs, addresses, ports.
 */
#ifndef KS_GUARD_H
#define KS_GUARD_H

#include "postgres.h"

#include <sys/socket.h>

/* May a connection be made to the address? Called inside libcurl: no error, no palloc. */
extern bool ks_guard_allows(const struct sockaddr *address, bool is_trusted);

/* The same for an address in text, as libcurl tells it of a connection that it uses again. */
extern bool ks_guard_allows_text(const char *address, int port, bool is_trusted);

/*
 * Why the URL cannot be a target, or NULL when it can. It is parsed by what
 * connects. `normal` gets the URL as it will be used, palloc-ed.
 */
extern const char *ks_url_check(const char *url, char **normal);

#endif /* KS_GUARD_H */
