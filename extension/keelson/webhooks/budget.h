/*
 * budget.h
 *	  A bound on the time that what users have written may take: filters and
 *	  templates, which are evaluated in the transactions of others.
 */
#ifndef KS_WEBHOOKS_BUDGET_H
#define KS_WEBHOOKS_BUDGET_H

#include "postgres.h"

/* Of processor time, in microseconds: all filters of one event, one rendering of a template. */
#define KS_WEBHOOK_FILTER_BUDGET 250000
#define KS_WEBHOOK_RENDER_BUDGET 100000

/*
 * Do the work in a subtransaction with at most *left_us of processor time,
 * and take off what it has used. False, and the work undone, when that was
 * not enough (*error is NULL then), or when what users have written fails:
 * then *error says how. Errors of any other kind are raised.
 */
extern bool ks_budget_run(int64 *left_us, void (*work)(void *arg), void *arg, ErrorData **error);

#endif /* KS_WEBHOOKS_BUDGET_H */
