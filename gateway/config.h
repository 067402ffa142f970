/*
 * config: the gateway's settings, from the environment.
 *
 * Read once, before any thread starts; read-only afterwards, so shared freely.
 */
#ifndef GW_CONFIG_H
#define GW_CONFIG_H

#include "network.h"

#include <stdio.h>

enum GwLogLevel
{
	GW_LOG_DEBUG,
	GW_LOG_INFO,
	GW_LOG_WARN,
	GW_LOG_ERROR
};

struct GwConfig
{
	char *listen_address;      /* KEELSON_LISTEN, an IPv4 or IPv6 address */
	int port;                  /* KEELSON_PORT */
	char *database_url;        /* KEELSON_DATABASE_URL, never logged */
	bool is_production;        /* KEELSON_ENV=production */
	char *public_url;          /* KEELSON_PUBLIC_URL without trailing slash */
	char *app_url;             /* KEELSON_APP_URL without trailing slash */
	char *metrics_token;       /* KEELSON_METRICS_TOKEN, never logged; NULL: anybody may read the metrics */
	bool is_behind_tls;        /* KEELSON_TLS=proxy */
	bool sends_hsts;           /* TLS in front, or the public URL is https */
	struct GwNetwork *proxies; /* KEELSON_TRUSTED_PROXIES */
	size_t nproxies;
	char **origins; /* ALLOWED_ORIGINS */
	size_t norigins;
	enum GwLogLevel log_level; /* KEELSON_LOG_LEVEL */
	int drain_seconds;         /* KEELSON_DRAIN_SECONDS */
	int loops;                 /* KEELSON_LOOPS */
	int pool;                  /* KEELSON_POOL: fast connections of each loop */
	int pool_rows;             /* KEELSON_POOL_ROWS: of the whole gateway */
	int pool_slow;             /* KEELSON_POOL_SLOW: of the whole gateway */
	int pool_upstream;         /* KEELSON_POOL_UPSTREAM: of the whole gateway */
};

/*
 * Reads the environment. Writes one line per fault to "faults" (every fault,
 * not only the first) and returns false if there was any.
 */
bool gw_config_load(struct GwConfig *config, FILE *faults) __attribute__((warn_unused_result));

/* Frees what gw_config_load allocated. */
void gw_config_free(struct GwConfig *config);

/* Says whether origin (the header's value) is allowed by ALLOWED_ORIGINS. */
bool gw_config_allows_origin(const struct GwConfig *config, const char *origin);

#endif
