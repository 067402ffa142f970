/*
 * config: the gateway's settings, from the environment.
 *
 * One table names every variable that Keelson knows, those of other parts
 * included, so that a misspelt one is found. Nothing is read from elsewhere.
 */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "config.h"

/*
 * Database connections where KEELSON_POOL is unset: of all loops together, and
 * of each at least and at most.  Who writes waits for the disk, and those who
 * wait at the same time are served by one flush.
 */
#define POOL_TOGETHER 32
#define POOL_LEAST 4
#define POOL_MOST 16

/* What a bearer token is made of (RFC 6750, 2.1), and how long one must be that nobody is to guess. */
#define TOKEN_CHARACTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="
#define METRICS_TOKEN_LEAST 16

extern char **environ;

/* The load under way. */
struct Load
{
	struct GwConfig *config;
	FILE *faults;
	bool is_good;
};

typedef void (*Reader)(struct Load *load, const char *name, const char *value);

static void read_listen(struct Load *load, const char *name, const char *value);
static void read_port(struct Load *load, const char *name, const char *value);
static void read_database_url(struct Load *load, const char *name, const char *value);
static void read_env(struct Load *load, const char *name, const char *value);
static void read_public_url(struct Load *load, const char *name, const char *value);
static void read_app_url(struct Load *load, const char *name, const char *value);
static void read_tls(struct Load *load, const char *name, const char *value);
static void read_proxies(struct Load *load, const char *name, const char *value);
static void read_origins(struct Load *load, const char *name, const char *value);
static void read_log_level(struct Load *load, const char *name, const char *value);
static void read_drain(struct Load *load, const char *name, const char *value);
static void read_metrics_token(struct Load *load, const char *name, const char *value);
static void read_loops(struct Load *load, const char *name, const char *value);
static void read_pool(struct Load *load, const char *name, const char *value);
static void read_pool_rows(struct Load *load, const char *name, const char *value);
static void read_pool_slow(struct Load *load, const char *name, const char *value);
static void read_pool_upstream(struct Load *load, const char *name, const char *value);
static void read_captcha_url(struct Load *load, const char *name, const char *value);
static void read_mail_from(struct Load *load, const char *name, const char *value);
static void read_pgport(struct Load *load, const char *name, const char *value);
static void read_smtp_url(struct Load *load, const char *name, const char *value);
static void read_other(struct Load *load, const char *name, const char *value);
static void read_rate_limits(struct Load *load, const char *name, const char *value);
static void read_switch(struct Load *load, const char *name, const char *value);
static bool read_int(struct Load *load, const char *name, const char *value, int low, int high, int *out);
static void find_unknown(struct Load *load);
static void check_together(struct Load *load);
static int usual_pool(int loops);
static void fault(struct Load *load, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool is_http_url(const char *url, bool only_origin);
static char *copy(struct Load *load, const char *text, size_t len);
static int cores(void);

/*
 * What belongs to the door or the database is only known here, not read. The
 * default is read like a given value; NULL: nothing happens when unset.
 */
static const struct
{
	const char *name;
	const char *unset;
	Reader read;
} variables[] = {
	{"KEELSON_ALLOW_PRIVATE_TARGETS", NULL, read_switch},
	{"KEELSON_APP_URL", NULL, read_app_url},
	{"KEELSON_CAPTCHA_SECRET", NULL, read_other},
	{"KEELSON_CAPTCHA_URL", NULL, read_captcha_url},
	{"KEELSON_DATABASE_URL", "", read_database_url},
	{"KEELSON_DRAIN_SECONDS", "30", read_drain},
	{"KEELSON_ENV", "development", read_env},
	{"KEELSON_LISTEN", "127.0.0.1", read_listen},
	{"KEELSON_LOG_LEVEL", "info", read_log_level},
	{"KEELSON_LOOPS", NULL, read_loops},
	{"KEELSON_MAIL_FROM", NULL, read_mail_from},
	{"KEELSON_METRICS_TOKEN", NULL, read_metrics_token},
	{"KEELSON_PGPORT", NULL, read_pgport},
	{"KEELSON_POOL", NULL, read_pool},
	{"KEELSON_POOL_ROWS", "2", read_pool_rows},
	{"KEELSON_POOL_SLOW", "2", read_pool_slow},
	{"KEELSON_POOL_UPSTREAM", "4", read_pool_upstream},
	{"KEELSON_PORT", "8080", read_port},
	{"KEELSON_PUBLIC_URL", NULL, read_public_url},
	{"KEELSON_RATE_LIMITS", NULL, read_rate_limits},
	{"KEELSON_SMTP_URL", NULL, read_smtp_url},
	{"KEELSON_TLS", "off", read_tls},
	{"KEELSON_TRUSTED_PROXIES", NULL, read_proxies},
	{"KEELSON_VAR", NULL, read_other},
	{"ALLOWED_ORIGINS", NULL, read_origins},
};

#define VARIABLES (sizeof(variables) / sizeof(variables[0]))

bool
gw_config_load(struct GwConfig *config, FILE *faults)
{
	struct Load load;
	size_t i;

	memset(config, 0, sizeof(*config));
	load = (struct Load){config, faults, true};
	config->loops = cores();
	for (i = 0; i < VARIABLES; i++)
	{
		const char *value = getenv(variables[i].name);

		/* An empty value is how many launchers spell "unset". */
		if (value != NULL && value[0] != '\0')
			variables[i].read(&load, variables[i].name, value);
		else if (variables[i].unset != NULL)
			variables[i].read(&load, variables[i].name, variables[i].unset);
	}
	find_unknown(&load);
	check_together(&load);
	return load.is_good;
}

void
gw_config_free(struct GwConfig *config)
{
	size_t i;

	for (i = 0; i < config->norigins; i++)
		free(config->origins[i]);
	free(config->origins);
	free(config->proxies);
	free(config->listen_address);
	free(config->database_url);
	free(config->public_url);
	free(config->app_url);
	free(config->metrics_token);
	memset(config, 0, sizeof(*config));
}

static void
read_listen(struct Load *load, const char *name, const char *value)
{
	struct GwNetwork network;

	if (strchr(value, '/') != NULL || !gw_network_parse(&network, value, strlen(value)))
		fault(load, "%s: \"%s\" is not an IPv4 or IPv6 address", name, value);
	else
		load->config->listen_address = copy(load, value, strlen(value));
}

static void
read_port(struct Load *load, const char *name, const char *value)
{
	read_int(load, name, value, 1, 65535, &load->config->port);
}

/* The value may hold a password: it is never repeated. */
static void
read_database_url(struct Load *load, const char *name, const char *value)
{
	if (value[0] == '\0')
		fault(load, "%s is not set: it names the database, for instance postgresql://keelson_gateway@/keelson?host=/run/postgresql", name);
	else if (strncmp(value, "postgresql://", 13) != 0 && strncmp(value, "postgres://", 11) != 0 && strchr(value, '=') == NULL)
		fault(load, "%s is not a connection URL that begins with postgresql://", name);
	else
		load->config->database_url = copy(load, value, strlen(value));
}

static void
read_env(struct Load *load, const char *name, const char *value)
{
	load->config->is_production = strcmp(value, "production") == 0;
	if (!load->config->is_production && strcmp(value, "development") != 0)
		fault(load, "%s: \"%s\" is neither development nor production", name, value);
}

static void
read_url(struct Load *load, const char *name, const char *value, char **out)
{
	size_t len = strlen(value);

	while (len > 0 && value[len - 1] == '/')
		len--;
	if (!is_http_url(value, false))
		fault(load, "%s: \"%s\" is not an http or https URL", name, value);
	else
		*out = copy(load, value, len);
}

static void
read_public_url(struct Load *load, const char *name, const char *value)
{
	read_url(load, name, value, &load->config->public_url);
}

static void
read_app_url(struct Load *load, const char *name, const char *value)
{
	read_url(load, name, value, &load->config->app_url);
}

static void
read_tls(struct Load *load, const char *name, const char *value)
{
	load->config->is_behind_tls = strcmp(value, "proxy") == 0;
	if (!load->config->is_behind_tls && strcmp(value, "off") != 0)
		fault(load, "%s: \"%s\" is neither off nor proxy", name, value);
}

/* Steps through a comma list; returns the next item without white space, NULL at the end. */
static const char *
next_item(const char **list, size_t *len)
{
	const char *begin = *list;
	const char *end;

	while (*begin == ',' || isspace((unsigned char) *begin))
		begin++;
	if (*begin == '\0')
		return NULL;
	end = begin + strcspn(begin, ",");
	*list = end;
	while (end > begin && isspace((unsigned char) end[-1]))
		end--;
	*len = (size_t) (end - begin);
	return begin;
}

static void
read_proxies(struct Load *load, const char *name, const char *value)
{
	struct GwConfig *config = load->config;
	const char *item;
	size_t len;

	config->proxies = calloc(strlen(value) / 2 + 1, sizeof(*config->proxies));
	if (config->proxies == NULL)
	{
		fault(load, "%s: out of memory", name);
		return;
	}
	while ((item = next_item(&value, &len)) != NULL)
	{
		if (gw_network_parse(&config->proxies[config->nproxies], item, len))
			config->nproxies++;
		else
			fault(load, "%s: \"%.*s\" is not a network such as 10.0.0.0/8", name, (int) len, item);
	}
}

static void
read_origins(struct Load *load, const char *name, const char *value)
{
	struct GwConfig *config = load->config;
	const char *item;
	size_t len;

	config->origins = calloc(strlen(value) / 2 + 1, sizeof(*config->origins));
	if (config->origins == NULL)
	{
		fault(load, "%s: out of memory", name);
		return;
	}
	while ((item = next_item(&value, &len)) != NULL)
	{
		char *origin = copy(load, item, len);

		if (origin == NULL)
			return;
		if (is_http_url(origin, true))
			config->origins[config->norigins++] = origin;
		else
		{
			fault(load, "%s: \"%s\" is not an origin such as https://app.example.com", name, origin);
			free(origin);
		}
	}
}

static void
read_log_level(struct Load *load, const char *name, const char *value)
{
	static const char *const levels[] = {"debug", "info", "warn", "error"};
	int i;

	for (i = 0; i < 4; i++)
		if (strcmp(value, levels[i]) == 0)
		{
			load->config->log_level = (enum GwLogLevel) i;
			return;
		}
	fault(load, "%s: \"%s\" is none of debug, info, warn, error", name, value);
}

static void
read_drain(struct Load *load, const char *name, const char *value)
{
	read_int(load, name, value, 0, 3600, &load->config->drain_seconds);
}

/* The value is a secret: it is never repeated. */
static void
read_metrics_token(struct Load *load, const char *name, const char *value)
{
	size_t len = strlen(value);

	if (len < METRICS_TOKEN_LEAST || strspn(value, TOKEN_CHARACTERS) < len)
		fault(load, "%s is no token: at least %d letters, digits or any of -._~+/=", name, METRICS_TOKEN_LEAST);
	else
		load->config->metrics_token = copy(load, value, len);
}

static void
read_loops(struct Load *load, const char *name, const char *value)
{
	read_int(load, name, value, 1, 64, &load->config->loops);
}

static void
read_pool(struct Load *load, const char *name, const char *value)
{
	read_int(load, name, value, 1, 64, &load->config->pool);
}

static void
read_pool_rows(struct Load *load, const char *name, const char *value)
{
	read_int(load, name, value, 1, 64, &load->config->pool_rows);
}

static void
read_pool_slow(struct Load *load, const char *name, const char *value)
{
	read_int(load, name, value, 1, 64, &load->config->pool_slow);
}

static void
read_pool_upstream(struct Load *load, const char *name, const char *value)
{
	read_int(load, name, value, 1, 64, &load->config->pool_upstream);
}

/*
 * The next four are the database's.  It would tell of a fault when the server
 * has been stopped for it, in its log, or not until they are used.
 */
static void
read_captcha_url(struct Load *load, const char *name, const char *value)
{
	if (!is_http_url(value, false))
		fault(load, "%s: \"%s\" is not an http or https URL", name, value);
}

/* As keelson.mail_from wants it: printable ASCII, an address at its end. */
static void
read_mail_from(struct Load *load, const char *name, const char *value)
{
	const char *at = strrchr(value, '@');
	const char *c;

	for (c = value; *c >= ' ' && *c <= '~'; c++)
		continue;
	if (*c != '\0' || at == NULL || at == value || at[1] == '\0' || at[1] == '>')
		fault(load, "%s: \"%s\" is not as no-reply@example.com or Product <no-reply@example.com>, in ASCII", name, value);
}

static void
read_pgport(struct Load *load, const char *name, const char *value)
{
	int port;

	read_int(load, name, value, 1, 65535, &port);
}

/* The value may hold a password: it is never repeated. */
static void
read_smtp_url(struct Load *load, const char *name, const char *value)
{
	const char *rest = strncmp(value, "smtp://", 7) == 0 ? value + 7 : strncmp(value, "smtps://", 8) == 0 ? value + 8
																										  : "";
	const char *at = strrchr(rest, '@');

	if (at != NULL)
		rest = at + 1;
	if (!isalnum((unsigned char) rest[0]) && rest[0] != '[')
		fault(load, "%s is not as smtps://user:password@host:465 or smtp://host:587", name);
}

/* Somebody else's variable. */
static void
read_other(struct Load *load, const char *name, const char *value)
{
	(void) load, (void) name, (void) value;
}

static void
read_switch(struct Load *load, const char *name, const char *value)
{
	if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
		fault(load, "%s: \"%s\" is neither on nor off", name, value);
}

static void
read_rate_limits(struct Load *load, const char *name, const char *value)
{
	read_switch(load, name, value);
	if (strcmp(value, "off") == 0 && load->config->is_production)
		fault(load, "%s must not be off in production", name);
}

static bool
read_int(struct Load *load, const char *name, const char *value, int low, int high, int *out)
{
	char *end;
	long number;

	errno = 0;
	number = strtol(value, &end, 10);
	if (errno != 0 || end == value || *end != '\0' || !isdigit((unsigned char) value[0]) || (value[0] == '0' && value[1] != '\0') || number < low || number > high)
	{
		fault(load, "%s: \"%s\" is not a whole number from %d to %d", name, value, low, high);
		return false;
	}
	*out = (int) number;
	return true;
}

static void
find_unknown(struct Load *load)
{
	char **entry;

	for (entry = environ; *entry != NULL; entry++)
	{
		size_t len = strcspn(*entry, "=");
		size_t i;

		if (strncmp(*entry, "KEELSON_", 8) != 0)
			continue;
		for (i = 0; i < VARIABLES; i++)
			if (strlen(variables[i].name) == len && memcmp(variables[i].name, *entry, len) == 0)
				break;
		if (i == VARIABLES)
			fault(load, "%.*s is not a setting of Keelson", (int) len, *entry);
	}
}

/* What follows from several variables, and what they demand of each other. */
static void
check_together(struct Load *load)
{
	struct GwConfig *config = load->config;
	char url[64];

	if (config->pool == 0)
		config->pool = usual_pool(config->loops);

	/* A reader that failed has left nothing: the message is out already. */
	if (config->public_url == NULL && getenv("KEELSON_PUBLIC_URL") == NULL)
	{
		int len = snprintf(url, sizeof(url), "http://127.0.0.1:%d", config->port);

		config->public_url = copy(load, url, (size_t) len);
	}
	if (config->public_url != NULL && config->app_url == NULL)
		config->app_url = copy(load, config->public_url, strlen(config->public_url));
	config->sends_hsts = config->is_behind_tls ||
						 (config->public_url != NULL && strncmp(config->public_url, "https://", 8) == 0);
	if (config->is_production && !config->is_behind_tls)
		fault(load, "KEELSON_TLS must be proxy in production: passwords must not travel in clear text");
}

static int
usual_pool(int loops)
{
	int each = POOL_TOGETHER / loops;

	if (each < POOL_LEAST)
		return POOL_LEAST;
	return each > POOL_MOST ? POOL_MOST : each;
}

static void
fault(struct Load *load, const char *fmt, ...)
{
	va_list args;

	load->is_good = false;
	va_start(args, fmt);
	vfprintf(load->faults, fmt, args);
	va_end(args);
	fputc('\n', load->faults);
}

/* Whether url is http(s)://host[:port], and, unless only_origin, a path without query. */
static bool
is_http_url(const char *url, bool only_origin)
{
	const char *host = strncmp(url, "http://", 7) == 0 ? url + 7 : strncmp(url, "https://", 8) == 0 ? url + 8
																									: "";
	size_t len = strcspn(host, "/");
	const char *at;

	if (len == 0 || host[0] == ':' || (only_origin && host[len] != '\0'))
		return false;
	for (at = host; *at != '\0'; at++)
		if (!isalnum((unsigned char) *at) && strchr(at < host + len ? "-._:[]" : "-._~/%", *at) == NULL)
			return false;
	return true;
}

/* A copy to be freed with the configuration; NULL is a fault already told. */
static char *
copy(struct Load *load, const char *text, size_t len)
{
	char *made = strndup(text, len);

	if (made == NULL)
		fault(load, "out of memory");
	return made;
}

static int
cores(void)
{
	long online = sysconf(_SC_NPROCESSORS_ONLN);

	return online < 1 ? 1 : online > 64 ? 64
										: (int) online;
}

bool
gw_config_allows_origin(const struct GwConfig *config, const char *origin)
{
	size_t i;

	for (i = 0; i < config->norigins; i++)
		if (strcmp(config->origins[i], origin) == 0)
			return true;
	return false;
}
