/*
 * statement.h
 *	  What a request may not say to the server.
 */
#ifndef KS_STATEMENT_H
#define KS_STATEMENT_H

/* For _PG_init: be asked before each statement that is not a query. */
extern void ks_statement_init(void);

#endif /* KS_STATEMENT_H */
