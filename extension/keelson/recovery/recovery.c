/*
 * recovery.c
 *	  The keeper's duties: to answer who asked for a mail of recovery, to have
 *	  mails sent that waited for a mail server, and to record what came of those
 *	  that were locked when they had been sent.
 *
 * A request is a row that is committed before anybody looks whether the
 * address is held by anyone. The transaction that wrote it wakes the keeper
 * when it commits; the duty's interval stands behind that.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"

#include "core/compat.h"
#include "core/keeper.h"
#include "core/spi.h"
#include "recovery/recovery.h"
#include "recovery/smtp.h"

#define INTERVAL_MS 5000
#define BATCH 100
#define MAILS_INTERVAL_MS 30000

/* The keeper's duty; set when it is registered. */
static int duty;

/* Whether this transaction has asked for it; set by _recovery_wake(), cleared at its end. */
static bool is_asked;

static void answer(void);
static void look_after_mails(void);
static void at_end(XactEvent event, void *unused);

void
ks_recovery_init(void)
{
	duty = ks_keeper_register("mails of recovery", INTERVAL_MS, true, answer);
	(void) ks_keeper_register("mails that wait", MAILS_INTERVAL_MS, true, look_after_mails);
	RegisterXactCallback(at_end, NULL);
	ks_smtp_init();
}

PG_FUNCTION_INFO_V1(ks__recovery_wake);

/* keelson._recovery_wake() */
Datum
ks__recovery_wake(PG_FUNCTION_ARGS)
{
	is_asked = true;
	PG_RETURN_VOID();
}

static void
at_end(XactEvent event, void *unused)
{
	if (!is_asked || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	is_asked = false;
	if (event == XACT_EVENT_COMMIT)
		ks_keeper_wake_duty(duty);
}

/* A batch; more at once when there was as much as fits into it. */
static void
answer(void)
{
	static KsPlan plan = {
		.sql = "select keelson._recovery_requests_answer($1)",
		.nargs = 1,
		.argtypes = {INT4OID}};
	Datum values[] = {Int32GetDatum(BATCH)};
	bool is_null;

	ks_spi_connect();
	(void) ks_spi_execute(&plan, values, NULL, false, 1);
	if (DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null)) == BATCH)
		ks_keeper_wake_duty(duty);
	ks_spi_finish();
}

/* What was written while there was no mail server, and what was locked when it had been sent. */
static void
look_after_mails(void)
{
	static KsPlan plan = {"select keelson._mails_deliver(), keelson._mails_catch_up()", 0, {0}};

	ks_spi_run(&plan, NULL);
}
