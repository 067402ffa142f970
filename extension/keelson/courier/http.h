/*
 * http.h
 *	  Requests of the server itself, as rows: keelson._http_request().
 */
#ifndef KS_COURIER_HTTP_H
#define KS_COURIER_HTTP_H

extern void ks_http_init(void);

#endif /* KS_COURIER_HTTP_H */
