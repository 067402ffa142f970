/*
 * main.c
 *	  Starts the gateway, waits for a signal, drains it, frees everything.
 *
 * Threads: this one for signals, one per loop, one for control, one that
 * cancels.  Signals are blocked everywhere and read from a descriptor here.
 *
 *		SIGTERM, SIGINT   finish what is under way, then end; twice: end at once
 *		SIGHUP            load the routes again
 */
#include "canceller.h"
#include "client.h"
#include "control.h"
#include "gateway.h"
#include "guard.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* Client connections of the whole process, if the limit on descriptors allows them. */
#define CONNECTIONS_MAX 10000
#define DESCRIPTORS_MAX 65536
#define BACKLOG 4096

struct Drain
{
	struct GwMail mail; /* one per loop */
};

static int check(void);
static bool prepare(struct GwGateway *gateway);
static void spare_openssl(const struct GwConfig *config);
static bool is_reached_by_socket(const char *conninfo);
static size_t raise_descriptors(void);
static bool open_listeners(struct GwGateway *gateway);
static int open_listener(const struct GwConfig *config, bool is_shared, int *fault);
static bool open_loops(struct GwGateway *gateway);
static int open_signals(void);
static int run(struct GwGateway *gateway, int signals);
static void drain_all(struct GwGateway *gateway, struct Drain *drains);
static void drain_loop(struct GwLoop *loop, struct GwMail *mail);
static void close_all(struct GwGateway *gateway);

int
main(int argc, char **argv)
{
	static struct GwGateway gateway;
	int signals = open_signals();
	int status = EXIT_FAILURE;

	if (argc == 2 && strcmp(argv[1], "--check") == 0)
		return check();
	if (argc > 1)
	{
		fprintf(stderr, "usage: %s [--check]\nIt is configured by environment variables; --check only names their faults.\n", argv[0]);
		return EXIT_FAILURE;
	}
	gateway.loop_ended = -1;
	gateway.started_us = gw_unix_us();
	pthread_mutex_init(&gateway.reason_lock, NULL);
	gw_perip_open(&gateway.connections_per_ip);
	gw_perip_open(&gateway.streams_per_ip);
	(void) gw_gateway_set_state(&gateway, "the database has not been reached yet");
	if (signals >= 0 && prepare(&gateway))
		status = run(&gateway, signals);
	close_all(&gateway);
	if (signals >= 0)
		close(signals);
	return status;
}

/* Names the faults of the environment on standard error; nothing when there are none. */
static int
check(void)
{
	struct GwConfig config;
	bool is_sound = gw_config_load(&config, stderr);

	gw_config_free(&config);
	return is_sound ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Reads the configuration and opens everything but the threads; says on standard error what fails. */
static bool
prepare(struct GwGateway *gateway)
{
	size_t descriptors;

	if (!gw_config_load(&gateway->config, stderr))
		return false;
	gw_log_open();
	spare_openssl(&gateway->config);
	descriptors = raise_descriptors();
	if (!gw_guard_init(descriptors))
	{
		fprintf(stderr, "there is no memory for the guard\n");
		return false;
	}
	if (!gw_guard_verify(stderr))
		return false;
	gateway->nloops = gateway->config.loops;
	gateway->connections_max = (descriptors > CONNECTIONS_MAX + 512 ? CONNECTIONS_MAX : descriptors * 3 / 4) / (size_t) gateway->nloops;
	gateway->loops = calloc((size_t) gateway->nloops, sizeof(*gateway->loops));
	gateway->metrics = calloc((size_t) gateway->nloops, sizeof(struct GwMetrics *));
	gateway->loop_ended = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (gateway->loops == NULL || gateway->metrics == NULL || gateway->loop_ended < 0)
	{
		fprintf(stderr, "there is no memory for the loops\n");
		return false;
	}
	return open_listeners(gateway) && open_loops(gateway);
}

/*
 * Where libpq needs OpenSSL for SCRAM alone, OpenSSL reads no configuration and
 * no texts of errors: 0.7 MiB less.  Over the network TLS wants them.
 */
static void
spare_openssl(const struct GwConfig *config)
{
	if (is_reached_by_socket(config->database_url))
		(void) OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS |
									   OPENSSL_INIT_NO_ADD_ALL_CIPHERS | OPENSSL_INIT_NO_ADD_ALL_DIGESTS,
								   NULL);
}

/* Says whether every host that the connection string names is the folder of a socket. */
static bool
is_reached_by_socket(const char *conninfo)
{
	PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
	bool is_socket = false;

	for (const PQconninfoOption *option = options; option != NULL && option->keyword != NULL; option++)
	{
		if (option->val == NULL || option->val[0] == '\0')
			continue;
		if (strcmp(option->keyword, "hostaddr") == 0)
			is_socket = false;
		else if (strcmp(option->keyword, "host") == 0)
			is_socket = option->val[0] == '/' && strchr(option->val, ',') == NULL;
	}
	PQconninfoFree(options);
	return is_socket;
}

/* Allows this process as many descriptors as it may have; returns how many. */
static size_t
raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return 1024;
	limit.rlim_cur = limit.rlim_max < DESCRIPTORS_MAX ? limit.rlim_max : DESCRIPTORS_MAX;
	(void) setrlimit(RLIMIT_NOFILE, &limit);
	(void) getrlimit(RLIMIT_NOFILE, &limit);
	return limit.rlim_cur < DESCRIPTORS_MAX ? (size_t) limit.rlim_cur : DESCRIPTORS_MAX;
}

/*
 * Opens a listener for each loop.  They share the port, which would let a second
 * gateway take part in it unnoticed: so one that does not share is tried first.
 */
static bool
open_listeners(struct GwGateway *gateway)
{
	const struct GwConfig *config = &gateway->config;
	int fault = 0;
	int fd = open_listener(config, false, &fault);

	if (fd >= 0)
		close(fd);
	for (int i = 0; i < gateway->nloops; i++)
	{
		gateway->loops[i].listener = -1;
		if (fault == 0)
			gateway->loops[i].listener = open_listener(config, true, &fault);
	}
	if (fault != 0)
		fprintf(stderr, "could not listen on %s, port %d: %s\n", config->listen_address, config->port, strerror(fault));
	return fault == 0;
}

static int
open_listener(const struct GwConfig *config, bool is_shared, int *fault)
{
	union
	{
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} address = {0};
	bool is_v6 = strchr(config->listen_address, ':') != NULL;
	socklen_t len = is_v6 ? sizeof(address.v6) : sizeof(address.v4);
	int yes = 1;
	int fd;

	if (is_v6)
	{
		address.v6.sin6_family = AF_INET6;
		address.v6.sin6_port = htons((uint16_t) config->port);
		(void) inet_pton(AF_INET6, config->listen_address, &address.v6.sin6_addr);
	}
	else
	{
		address.v4.sin_family = AF_INET;
		address.v4.sin_port = htons((uint16_t) config->port);
		(void) inet_pton(AF_INET, config->listen_address, &address.v4.sin_addr);
	}
	fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) == 0 &&
		(!is_shared || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof(yes)) == 0) &&
		bind(fd, &address.any, len) == 0 && (!is_shared || listen(fd, BACKLOG) == 0))
		return fd;
	*fault = errno;
	if (fd >= 0)
		close(fd);
	return -1;
}

static bool
open_loops(struct GwGateway *gateway)
{
	bool is_open = gw_lane_open(&gateway->shared[GW_LANE_SLOW], GW_LANE_SLOW, gateway->config.pool_slow) &&
				   gw_lane_open(&gateway->shared[GW_LANE_UPSTREAM], GW_LANE_UPSTREAM, gateway->config.pool_upstream) &&
				   gw_lane_open(&gateway->shared[GW_LANE_ROWS], GW_LANE_ROWS, gateway->config.pool_rows);

	for (int i = 0; is_open && i < gateway->nloops; i++)
	{
		gateway->metrics[i] = &gateway->loops[i].metrics;
		is_open = gw_loop_open(&gateway->loops[i], gateway, i);
	}
	gateway->canceller = is_open ? gw_canceller_start() : NULL;
	if (gateway->canceller == NULL)
		fprintf(stderr, "could not set up the loops: %s\n", strerror(errno));
	return gateway->canceller != NULL;
}

/* Blocks the signals that this process reads, before there are other threads. */
static int
open_signals(void)
{
	sigset_t set;

	(void) signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
		return -1;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Starts the threads and waits until all loops have ended. */
static int
run(struct GwGateway *gateway, int signals)
{
	struct pollfd fds[2] = {{.fd = signals, .events = POLLIN}, {.fd = gateway->loop_ended, .events = POLLIN}};
	struct Drain *drains = calloc((size_t) gateway->nloops, sizeof(*drains));
	bool is_draining = false;
	int running = 0;

	gw_log_event(&gateway->loops[0].log, GW_LOG_INFO, "listening", "%s port %d", gateway->config.listen_address, gateway->config.port);
	gateway->control = gw_control_start(gateway);
	while (drains != NULL && gateway->control != NULL && running < gateway->nloops && gw_loop_start(&gateway->loops[running]))
		running++;
	if (running < gateway->nloops)
	{
		fprintf(stderr, "could not start the threads\n");
		_exit(EXIT_FAILURE);
	}
	for (int ended = 0; ended < running;)
	{
		struct signalfd_siginfo signal_info;
		uint64_t count;

		(void) poll(fds, 2, -1);
		while (read(signals, &signal_info, sizeof(signal_info)) == sizeof(signal_info))
		{
			if (signal_info.ssi_signo == SIGHUP)
				gw_control_reload(gateway->control);
			else if (is_draining)
				_exit(EXIT_FAILURE);
			else
			{
				drain_all(gateway, drains);
				is_draining = true;
			}
		}
		if (read(gateway->loop_ended, &count, sizeof(count)) == sizeof(count))
			ended += (int) count;
	}
	for (int i = 0; i < running; i++)
		pthread_join(gateway->loops[i].thread, NULL);
	free(drains);
	return EXIT_SUCCESS;
}

static void
drain_all(struct GwGateway *gateway, struct Drain *drains)
{
	for (int i = 0; i < gateway->nloops; i++)
	{
		drains[i].mail.deliver = drain_loop;
		gw_loop_post(&gateway->loops[i], &drains[i].mail);
	}
}

static void
drain_loop(struct GwLoop *loop, struct GwMail *mail)
{
	(void) mail;
	if (loop->index == 0)
		gw_log_event(&loop->log, GW_LOG_INFO, "draining", "no new connections; %zu requests under way", loop->nactive);
	gw_loop_drain(loop);
}

/* Frees everything; all loops have ended or were never started. */
static void
close_all(struct GwGateway *gateway)
{
	gw_control_stop(gateway->control);
	gw_canceller_stop(gateway->canceller);
	for (int i = 0; gateway->loops != NULL && i < gateway->nloops; i++)
		gw_loop_close(&gateway->loops[i]);
	for (int i = 0; i < GW_LANES; i++)
		gw_lane_close(&gateway->shared[i]);
	gw_metrics_free_slots();
	gw_guard_free();
	if (gateway->loop_ended >= 0)
		close(gateway->loop_ended);
	free(gateway->loops);
	free(gateway->metrics);
	gw_perip_close(&gateway->connections_per_ip);
	gw_perip_close(&gateway->streams_per_ip);
	pthread_mutex_destroy(&gateway->reason_lock);
	gw_config_free(&gateway->config);
}
