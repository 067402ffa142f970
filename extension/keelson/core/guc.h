/*
 * guc.h
 *	  The settings, keelson.*. Their meaning stands in guc.c, where they are
 *	  defined; each variable is written by the server's settings machinery alone.
 */
#ifndef KS_GUC_H
#define KS_GUC_H

#include "postgres.h"

typedef enum KsEnvironment
{
	KS_DEVELOPMENT,
	KS_PRODUCTION
} KsEnvironment;

/* Of connections to a mail server that do not begin with TLS. */
typedef enum KsTlsUse
{
	KS_TLS_REQUIRED,
	KS_TLS_OPTIONAL
} KsTlsUse;

extern int ks_guc_access_key_max;
extern int ks_guc_access_token_lifetime;
extern bool ks_guc_allow_private_targets;
extern char *ks_guc_allowed_origins;
extern char *ks_guc_app_url;
extern int ks_guc_audit_ring_size;
extern char *ks_guc_captcha_function;
extern char *ks_guc_captcha_url;
extern char *ks_guc_courier_ca_file;
extern char *ks_guc_courier_fence_file;
extern int ks_guc_courier_in_flight;
extern int ks_guc_courier_in_flight_lane;
extern int ks_guc_courier_in_flight_user;
extern char *ks_guc_courier_ports;
extern int ks_guc_courier_timeout;
extern int ks_guc_courier_workers;
extern char *ks_guc_database;
extern int ks_guc_delivery_retention;
extern int ks_guc_environment;
extern int ks_guc_erasure_after;
extern int ks_guc_job_history;
extern char *ks_guc_keyring_command;
extern char *ks_guc_keyring_file;
extern int ks_guc_mail_connections;
extern double ks_guc_mail_domain_rate;
extern char *ks_guc_mail_from;
extern int ks_guc_password_hash_slots;
extern int ks_guc_password_min_length;
extern char *ks_guc_public_url;
extern int ks_guc_rate_limit_entries;
extern bool ks_guc_rate_limits;
extern bool ks_guc_reset_sets_first_password;
extern int ks_guc_session_idle;
extern int ks_guc_session_idle_aal2;
extern int ks_guc_session_lifetime;
extern int ks_guc_session_lifetime_aal2;
extern int ks_guc_session_max;
extern int ks_guc_smtp_tls;
extern bool ks_guc_totp_accept_next;
extern int ks_guc_totp_algorithm;
extern int ks_guc_upstream_calls_per_user;
extern int ks_guc_usage_retention;
extern int ks_guc_webhook_handler_timeout;

extern void ks_guc_init(void);

#endif /* KS_GUC_H */
