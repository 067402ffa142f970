/*
 * guc.c
 *	  The settings, in alphabetical order.
 *
 * What guards anything can be set at server start or by reload only, never by
 * a role or a session. Secrets are never settings.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"

#include "core/guc.h"

int ks_guc_access_key_max;
int ks_guc_access_token_lifetime;
bool ks_guc_allow_private_targets;
char *ks_guc_allowed_origins;
char *ks_guc_app_url;
int ks_guc_audit_ring_size;
char *ks_guc_captcha_function;
char *ks_guc_captcha_url;
char *ks_guc_courier_ca_file;
char *ks_guc_courier_fence_file;
int ks_guc_courier_in_flight;
int ks_guc_courier_in_flight_lane;
int ks_guc_courier_in_flight_user;
char *ks_guc_courier_ports;
int ks_guc_courier_timeout;
int ks_guc_courier_workers;
char *ks_guc_database;
int ks_guc_delivery_retention;
int ks_guc_environment;
int ks_guc_erasure_after;
int ks_guc_job_history;
char *ks_guc_keyring_command;
char *ks_guc_keyring_file;
int ks_guc_mail_connections;
double ks_guc_mail_domain_rate;
char *ks_guc_mail_from;
int ks_guc_password_hash_slots;
int ks_guc_password_min_length;
char *ks_guc_public_url;
int ks_guc_rate_limit_entries;
bool ks_guc_rate_limits;
bool ks_guc_reset_sets_first_password;
int ks_guc_session_idle;
int ks_guc_session_idle_aal2;
int ks_guc_session_lifetime;
int ks_guc_session_lifetime_aal2;
int ks_guc_session_max;
int ks_guc_smtp_tls;
bool ks_guc_totp_accept_next;
int ks_guc_totp_algorithm;
int ks_guc_upstream_calls_per_user;
int ks_guc_usage_retention;
int ks_guc_webhook_handler_timeout;

static bool check_mail_from(char **new_value, void **extra, GucSource source);
static bool check_rate_limits(bool *new_value, void **extra, GucSource source);

static const struct config_enum_entry environments[] = {
	{"development", KS_DEVELOPMENT, false},
	{"production", KS_PRODUCTION, false},
	{NULL, 0, false}};

static const struct config_enum_entry tls_uses[] = {
	{"required", KS_TLS_REQUIRED, false},
	{"optional", KS_TLS_OPTIONAL, false},
	{NULL, 0, false}};

static const struct config_enum_entry totp_algorithms[] = {
	{"SHA1", 0, false},
	{"SHA256", 1, false},
	{"SHA512", 2, false},
	{NULL, 0, false}};

/* It becomes a header: one line, ASCII, one address at its end. */
static bool
check_mail_from(char **new_value, void **extra, GucSource source)
{
	const char *at = strrchr(*new_value, '@');

	for (const char *c = *new_value; *c != '\0'; c++)
		if (*c < ' ' || *c > '~')
		{
			GUC_check_errdetail("A sender is printable ASCII.");
			return false;
		}
	if (**new_value == '\0' || (at != NULL && at > *new_value && at[1] != '\0' && at[1] != '>'))
		return true;
	GUC_check_errdetail("A sender is \"no-reply@example.com\" or \"Product <no-reply@example.com>\".");
	return false;
}

/* The environment is defined, and so has its value, before this. */
static bool
check_rate_limits(bool *new_value, void **extra, GucSource source)
{
	if (*new_value || ks_guc_environment != KS_PRODUCTION || source == PGC_S_DEFAULT)
		return true;
	GUC_check_errdetail("Rate limits cannot be off in production.");
	return false;
}

void
ks_guc_init(void)
{
	/* A server that has not loaded us at its start can only be told to: see ks_require_shmem(). */
	GucContext at_start = process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP;

	DefineCustomIntVariable("keelson.access_key_max",
							"How many access keys a user has at once.",
							"Those that have ended or been replaced do not count.",
							&ks_guc_access_key_max, 50, 1, 10000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.access_token_lifetime",
							"How long an access token is good.",
							"Its session is looked up at every request besides; clients refresh before this is over.",
							&ks_guc_access_token_lifetime, 900, 60, 3600, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomBoolVariable("keelson.allow_private_targets",
							 "Whether requests to users' URLs may go to loopback and private addresses.",
							 "For tests and for networks where every user may reach what the server can.",
							 &ks_guc_allow_private_targets, false, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.allowed_origins",
							   "Origins of web pages that may use cookie sessions, besides those of the public and app URLs.",
							   "A comma-separated list such as \"https://app.example.com\".",
							   &ks_guc_allowed_origins, "", PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.app_url",
							   "Where the product's pages are; links in mails start with it.",
							   "Empty: the same as keelson.public_url.",
							   &ks_guc_app_url, "", PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.audit_ring_size",
							"Shared memory for audit events of requests that were refused.",
							"They wait there, for a moment, for the keeper to write them; what finds no room is counted.",
							&ks_guc_audit_ring_size, 1024, 64, 1024 * 1024, at_start, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.captcha_function",
							   "A function of SQL that tells whether a CAPTCHA was solved.",
							   "Its name with its schema; it takes the response (text) and the client's address (inet) and returns a boolean.",
							   &ks_guc_captcha_function, "", PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.captcha_url",
							   "Where the CAPTCHA's provider verifies responses.",
							   "Empty: no CAPTCHA is asked for, unless keelson.captcha_function is set.",
							   &ks_guc_captcha_url, "", PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.courier_ca_file",
							   "The certificates of authorities that outgoing TLS trusts, in PEM.",
							   "Empty: the system's.",
							   &ks_guc_courier_ca_file, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.courier_fence_file",
							   "The file by which the courier knows that the database came back from a backup.",
							   "Outside the data directory. Empty: beside the keyring file, with .fence added; where the keyring comes from a command it must be set.",
							   &ks_guc_courier_fence_file, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.courier_in_flight",
							"How many requests a courier has under way at once.",
							"Each takes a file descriptor of the server's; a third of max_files_per_process is the most.",
							&ks_guc_courier_in_flight, 256, 1, 10000, at_start, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.courier_in_flight_lane",
							"How many of these may go to one endpoint.",
							"A lane of its own in keelson.courier_lanes says otherwise; fewer go to one that is slow.",
							&ks_guc_courier_in_flight_lane, 64, 1, 10000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.courier_in_flight_user",
							"How many of these may be one user's.",
							"So that a user whose endpoints hang leaves room for the others.",
							&ks_guc_courier_in_flight_user, 128, 1, 10000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.courier_ports",
							   "The ports that users' URLs may name.",
							   "A comma-separated list. Any, where keelson.allow_private_targets is on.",
							   &ks_guc_courier_ports, "80,443,8080,8443", PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.courier_timeout",
							"How long a delivery may take, from name look-up to the end of the response.",
							"Connecting may take 10 seconds of it.",
							&ks_guc_courier_timeout, 20, 1, 120, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.courier_workers",
							"How many couriers there are.",
							"Users are spread over them.",
							&ks_guc_courier_workers, 1, 1, 8, at_start, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.database",
							   "The one database of the cluster that Keelson lives in.",
							   "The background workers connect to it; elsewhere Keelson's functions refuse.",
							   &ks_guc_database, "keelson", at_start, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.delivery_retention",
							"How many days deliveries and their attempts can be looked at and replayed.",
							"Then the partitions of their log are dropped.",
							&ks_guc_delivery_retention, 30, 5, 3650, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("keelson.environment",
							 "Whether this is a development or a production installation.",
							 "In development some replies carry what would otherwise be mailed.",
							 &ks_guc_environment, KS_PRODUCTION, environments, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.erasure_after",
							"How long a deleted user is kept before everything of theirs is erased.",
							"Until then an administrator can restore them.",
							&ks_guc_erasure_after, 30 * 86400, 3600, 365 * 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.job_history",
							"How long the runs of jobs are kept.",
							"The job housekeeping removes older ones, see the table keelson.job_runs.",
							&ks_guc_job_history, 90 * 86400, 86400, 3650 * 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.keyring_command",
							   "A command that prints the keyring, instead of a file.",
							   "It is run at start and at reload, for at most 10 seconds.",
							   &ks_guc_keyring_command, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.keyring_file",
							   "The file with the master keys, readable by the server's user alone.",
							   "It must lie outside the data directory. Read at start and at reload.",
							   &ks_guc_keyring_file, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.mail_connections",
							"How many connections to the mail server there are at once.",
							"Each sends one mail after the other.",
							&ks_guc_mail_connections, 8, 1, 100, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomRealVariable("keelson.mail_domain_rate",
							 "How many mails a second go to one recipients' domain.",
							 "0: as many as the mail server takes.",
							 &ks_guc_mail_domain_rate, 10, 0, 10000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.mail_from",
							   "Sender of mails, as \"Product <no-reply@example.com>\".",
							   "The name is what mails call the product, the domain is that of their Message-ID.",
							   &ks_guc_mail_from, "", PGC_SIGHUP, 0, check_mail_from, NULL, NULL);
	DefineCustomIntVariable("keelson.password_hash_slots",
							"How many passwords may be hashed at once.",
							"0 means one less than the machine's cores, and at least one.",
							&ks_guc_password_hash_slots, 0, 0, 64, at_start, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.password_min_length",
							"The fewest code points that a new password may have.",
							"NIST SP 800-63B-4 asks for 15 where a password is the only factor.",
							&ks_guc_password_min_length, 12, 8, 64, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("keelson.public_url",
							   "Where clients reach the gateway: issuer of tokens, base of OpenAPI and problem types.",
							   "Without a slash at its end.",
							   &ks_guc_public_url, "http://127.0.0.1:8080", PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.rate_limit_entries",
							"How many counters of rate limits shared memory has room for.",
							"A quarter is kept for signing in and recovery. A counter in use takes 200 bytes, and 9 more for each request that it counts beyond 15.",
							&ks_guc_rate_limit_entries, 65536, 4096, 16777216, at_start, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("keelson.rate_limits",
							 "Whether rate limits hold.",
							 "Off is for benchmarks, and refused in production.",
							 &ks_guc_rate_limits, true, PGC_SIGHUP, 0, check_rate_limits, NULL, NULL);
	DefineCustomBoolVariable("keelson.reset_sets_first_password",
							 "Whether a reset may give a password to a user who has none.",
							 "Such as one that an administrator has added, or who came by an external issuer.",
							 &ks_guc_reset_sets_first_password, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.session_idle",
							"How long a session lasts without being refreshed.",
							"Counted from the last refresh, or from the login.",
							&ks_guc_session_idle, 14 * 86400, 3600, 365 * 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.session_idle_aal2",
							"How long a session with a second factor lasts without being refreshed.",
							"NIST SP 800-63B-4 asks for an hour at most at AAL2.",
							&ks_guc_session_idle_aal2, 3600, 300, 365 * 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.session_lifetime",
							"How long a session lasts, however often it is refreshed.",
							"NIST SP 800-63B-4 allows 30 days where a password is the only factor.",
							&ks_guc_session_lifetime, 30 * 86400, 3600, 365 * 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.session_lifetime_aal2",
							"How long a session with a second factor lasts, however often it is refreshed.",
							"NIST SP 800-63B-4 asks for 24 hours at most at AAL2.",
							&ks_guc_session_lifetime_aal2, 86400, 900, 365 * 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.session_max",
							"How many sessions a user has at once.",
							"A login beyond that ends the oldest.",
							&ks_guc_session_max, 20, 1, 1000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("keelson.smtp_tls",
							 "Whether mails go to a mail server that offers no TLS.",
							 "Of smtp:// URLs: with \"required\" they do not; smtps:// is TLS from the start.",
							 &ks_guc_smtp_tls, KS_TLS_REQUIRED, tls_uses, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("keelson.totp_accept_next",
							 "Whether a code of an authenticator is taken up to 30 seconds before its time.",
							 "For clocks that are ahead. The present code and the one before are always taken.",
							 &ks_guc_totp_accept_next, false, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("keelson.totp_algorithm",
							 "The digest of the codes of authenticators that are enrolled from now on.",
							 "Many apps know SHA1 alone.",
							 &ks_guc_totp_algorithm, 0, totp_algorithms, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.upstream_calls_per_user",
							"How many calls of other services one user may have under way at once.",
							"One more is refused.",
							&ks_guc_upstream_calls_per_user, 2, 1, 64, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.usage_retention",
							"How long usage events and their keys are kept.",
							"Rollups of days and totals are kept for good.",
							&ks_guc_usage_retention, 400 * 86400, 36 * 86400, 20 * 365 * 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("keelson.webhook_handler_timeout",
							"How long a handler of an incoming webhook event may take.",
							"Then it is cancelled, and has failed.",
							&ks_guc_webhook_handler_timeout, 30, 1, 3600, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	MarkGUCPrefixReserved("keelson");
}
