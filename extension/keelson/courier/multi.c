/*
 * multi.c
 *	  Many transfers in one process, none of which can hold up the others.
 *
 * libcurl says which sockets it waits for; they are put into an epoll
 * descriptor of our own, which stands in the process's wait set beside the
 * latch. All signals but faults are blocked while libcurl runs: it starts a thread for
 * each name look-up, and those inherit the mask.
 *
 * Names are looked up by at most MAX_LOOKUPS threads at a time. A host whose
 * name was found a moment ago needs none; others that want the same host wait
 * for the first; one that was not found is not asked for again at once. So a
 * dead name server costs some threads, and no transfer to a known host.
 */
#include "postgres.h"

#include <sys/epoll.h>
#include <unistd.h>

#include "lib/ilist.h"
#include "storage/fd.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/signals.h"
#include "courier/multi.h"

#define MAX_LOOKUPS 16
#define MAX_HOSTS 4096
#define HOST_LENGTH 256
#define KNOWN_US (50 * USECS_PER_SEC) /* libcurl keeps names for 60 seconds */
#define UNKNOWN_US (5 * USECS_PER_SEC)
#define LONGEST_QUEUED_US (20 * USECS_PER_SEC)
#define EVENTS 256
#define DESCRIPTORS_LEFT 8 /* for wait sets and the like */

typedef struct Host
{
	char name[HOST_LENGTH]; /* the hash key */
	bool is_looked_up;
	TimestampTz known_until;
	TimestampTz unknown_until;
	dlist_head waiting; /* transfers that wait for its look-up */
	int queued;         /* transfers that wait for a look-up to be free */
} Host;

/* A transfer that has not been handed to libcurl, or is looking a name up. */
typedef struct Waiting
{
	dlist_node node;
	KsTransfer *transfer;
	Host *host;
	TimestampTz since;
} Waiting;

/* A transfer that ended without libcurl. */
typedef struct Ended
{
	dlist_node node;
	KsTransfer *transfer;
	CURLcode code;
} Ended;

/* All of this process; made by ks_multi_create(). */
static CURLM *multi;
static int epoll_fd = -1;
static TimestampTz timer_at; /* 0: none */
static HTAB *hosts;
static dlist_head looking; /* Waiting: handed to libcurl, the name not known yet */
static int lookups;
static dlist_head queued; /* Waiting: for a look-up to be free */
static dlist_head ended;

static int watch_socket(CURL *easy, curl_socket_t socket, int what, void *arg, void *known);
static int set_timer(CURLM *handle, long timeout_ms, void *arg);
static void add(KsTransfer *transfer);
static bool needs_lookup(const char *url, char host[HOST_LENGTH]);
static Host *get_host(const char *name);
static void forget_hosts(void);
static void begin_lookup(KsTransfer *transfer, Host *host);
static void check_lookups(void);
static void end_lookup(Waiting *lookup, bool is_known);
static void begin_queued(void);
static void queue(dlist_head *list, KsTransfer *transfer, Host *host);
static void fail(KsTransfer *transfer, CURLcode code);
static void stop_looking(KsTransfer *transfer);

int
ks_multi_create(int transfers)
{
	HASHCTL control = {.keysize = HOST_LENGTH, .entrysize = sizeof(Host), .hcxt = TopMemoryContext};
	int granted = 0;

	ks_transfer_global_init();
	/* Sockets come out of the server's budget of descriptors, all asked for beforehand; the rest of the process needs some. */
	while (granted < transfers + 1 + DESCRIPTORS_LEFT && AcquireExternalFD())
		granted++;
	for (int i = 0; i < DESCRIPTORS_LEFT && granted > 0; i++, granted--)
		ReleaseExternalFD();
	transfers = Max(Min(granted - 1, transfers), 1);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	multi = curl_multi_init();
	if (epoll_fd < 0 || multi == NULL)
		elog(ERROR, "could not start libcurl: %m");
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long) CURLPIPE_MULTIPLEX);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) transfers);
	curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long) transfers);
	hosts = hash_create("keelson courier hosts", 64, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	dlist_init(&looking);
	dlist_init(&queued);
	dlist_init(&ended);
	return transfers;
}

int
ks_multi_descriptor(void)
{
	return epoll_fd;
}

/* libcurl's callback: what it waits for on a socket. */
static int
watch_socket(CURL *easy, curl_socket_t socket, int what, void *arg, void *known)
{
	struct epoll_event event = {.data.fd = socket};

	if (what == CURL_POLL_REMOVE)
	{
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, socket, NULL);
		return 0;
	}
	event.events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
	/* A number that was closed and given out again is still marked as known. */
	if (epoll_ctl(epoll_fd, known != NULL ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, socket, &event) < 0)
		epoll_ctl(epoll_fd, errno == ENOENT ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, socket, &event);
	if (known == NULL)
		curl_multi_assign(multi, socket, &epoll_fd);
	return 0;
}

/* libcurl's callback: when it wants to be called though nothing happens. */
static int
set_timer(CURLM *handle, long timeout_ms, void *arg)
{
	timer_at = timeout_ms < 0 ? 0 : GetCurrentTimestamp() + timeout_ms * 1000;
	return 0;
}

long
ks_multi_timeout(void)
{
	if (!dlist_is_empty(&ended))
		return 0;
	/* What looks a name up or waits for that is looked at now and then. */
	if (!dlist_is_empty(&looking) || !dlist_is_empty(&queued))
		return timer_at == 0 ? 20 : Min(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), timer_at), 20);
	return timer_at == 0 ? -1 : TimestampDifferenceMilliseconds(GetCurrentTimestamp(), timer_at);
}

void
ks_multi_start(KsTransfer *transfer, const char *url)
{
	char name[HOST_LENGTH];
	TimestampTz now;
	Host *host;

	if (!needs_lookup(url, name))
	{
		add(transfer);
		return;
	}
	now = GetCurrentTimestamp();
	host = get_host(name);
	if (host->known_until > now)
		add(transfer);
	else if (host->unknown_until > now)
		fail(transfer, CURLE_COULDNT_RESOLVE_HOST);
	else if (host->is_looked_up)
		queue(&host->waiting, transfer, host);
	else if (lookups < MAX_LOOKUPS)
		begin_lookup(transfer, host);
	else
	{
		host->queued++;
		queue(&queued, transfer, host);
	}
}

static void
add(KsTransfer *transfer)
{
	sigset_t saved;
	CURLMcode code;

	transfer->is_started = true;
	ks_signals_block(&saved);
	code = curl_multi_add_handle(multi, transfer->easy);
	ks_signals_restore(&saved);
	if (code != CURLM_OK)
		fail(transfer, CURLE_OUT_OF_MEMORY);
}

/* The host of a URL that ks_url_check() has written, if it is a name. */
static bool
needs_lookup(const char *url, char host[HOST_LENGTH])
{
	const char *begin = strstr(url, "://");
	const char *last;
	size_t len;

	if (begin == NULL)
		return false;
	begin += 3;
	if (*begin == '[')
		return false;
	len = strcspn(begin, ":/?#");
	if (len == 0 || len >= HOST_LENGTH)
		return false;
	for (size_t i = 0; i < len; i++)
		host[i] = pg_ascii_tolower((unsigned char) begin[i]);
	host[len] = '\0';
	last = strrchr(host, '.');
	return !isdigit((unsigned char) (last == NULL ? host : last + 1)[0]);
}

static Host *
get_host(const char *name)
{
	bool found;
	Host *host;

	if (hash_get_num_entries(hosts) >= MAX_HOSTS)
		forget_hosts();
	host = hash_search(hosts, name, HASH_ENTER, &found);
	if (!found)
	{
		memset((char *) host + HOST_LENGTH, 0, sizeof(*host) - HOST_LENGTH);
		dlist_init(&host->waiting);
	}
	return host;
}

/* Drop what is known of hosts that nobody waits for. */
static void
forget_hosts(void)
{
	HASH_SEQ_STATUS scan;
	Host *host;

	hash_seq_init(&scan, hosts);
	while ((host = hash_seq_search(&scan)) != NULL)
		if (!host->is_looked_up && host->queued == 0)
			hash_search(hosts, host->name, HASH_REMOVE, NULL);
}

static void
begin_lookup(KsTransfer *transfer, Host *host)
{
	host->is_looked_up = true;
	lookups++;
	queue(&looking, transfer, host);
	add(transfer);
}

static void
queue(dlist_head *list, KsTransfer *transfer, Host *host)
{
	Waiting *waiting = MemoryContextAlloc(TopMemoryContext, sizeof(Waiting));

	waiting->transfer = transfer;
	waiting->host = host;
	waiting->since = GetCurrentTimestamp();
	dlist_push_tail(list, &waiting->node);
}

static void
fail(KsTransfer *transfer, CURLcode code)
{
	Ended *end = MemoryContextAlloc(TopMemoryContext, sizeof(Ended));

	end->transfer = transfer;
	end->code = code;
	dlist_push_tail(&ended, &end->node);
}

void
ks_multi_drive(void)
{
	struct epoll_event events[EVENTS];
	sigset_t saved;
	int running;
	int count;

	ks_signals_block(&saved);
	count = epoll_wait(epoll_fd, events, EVENTS, 0);
	for (int i = 0; i < count; i++)
	{
		int what = (events[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) |
				   (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
				   (events[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);

		curl_multi_socket_action(multi, events[i].data.fd, what, &running);
	}
	if (timer_at != 0 && timer_at <= GetCurrentTimestamp())
	{
		timer_at = 0;
		curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	ks_signals_restore(&saved);
	if (!dlist_is_empty(&looking) || !dlist_is_empty(&queued))
	{
		check_lookups();
		begin_queued();
	}
}

/* Whose names have been found: others may use them. */
static void
check_lookups(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &looking)
	{
		Waiting *lookup = dlist_container(Waiting, node, iter.cur);

		if (lookup->transfer->is_named)
			end_lookup(lookup, true);
	}
}

/* A look-up is over; what waited for the host goes on, or fails as it did. */
static void
end_lookup(Waiting *lookup, bool is_known)
{
	Host *host = lookup->host;
	TimestampTz now = GetCurrentTimestamp();
	dlist_mutable_iter iter;

	host->is_looked_up = false;
	host->known_until = is_known ? now + KNOWN_US : 0;
	host->unknown_until = is_known ? 0 : now + UNKNOWN_US;
	lookups--;
	dlist_delete(&lookup->node);
	pfree(lookup);
	dlist_foreach_modify(iter, &host->waiting)
	{
		Waiting *waiting = dlist_container(Waiting, node, iter.cur);

		dlist_delete(&waiting->node);
		if (is_known)
			add(waiting->transfer);
		else
			fail(waiting->transfer, CURLE_COULDNT_RESOLVE_HOST);
		pfree(waiting);
	}
}

/* Look-ups have become free; or the wait for one has been too long. */
static void
begin_queued(void)
{
	TimestampTz now = GetCurrentTimestamp();

	while (!dlist_is_empty(&queued))
	{
		Waiting *first = dlist_head_element(Waiting, node, &queued);
		Host *host = first->host;

		if (now - first->since > LONGEST_QUEUED_US)
			fail(first->transfer, CURLE_OPERATION_TIMEDOUT);
		else if (host->known_until > now)
			add(first->transfer);
		else if (host->unknown_until > now)
			fail(first->transfer, CURLE_COULDNT_RESOLVE_HOST);
		else if (host->is_looked_up)
			queue(&host->waiting, first->transfer, host);
		else if (lookups < MAX_LOOKUPS)
			begin_lookup(first->transfer, host);
		else
			return;
		host->queued--;
		dlist_delete(&first->node);
		pfree(first);
	}
}

KsTransfer *
ks_multi_ended(CURLcode *code)
{
	CURLMsg *message;
	KsTransfer *transfer = NULL;
	sigset_t saved;
	int left;

	if (!dlist_is_empty(&ended))
	{
		Ended *end = dlist_container(Ended, node, dlist_pop_head_node(&ended));

		transfer = end->transfer;
		*code = end->code;
		pfree(end);
		return transfer;
	}
	ks_signals_block(&saved);
	while (transfer == NULL && (message = curl_multi_info_read(multi, &left)) != NULL)
		if (message->msg == CURLMSG_DONE)
		{
			/* The message is gone once its handle is removed. */
			*code = message->data.result;
			curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
			curl_multi_remove_handle(multi, message->easy_handle);
		}
	ks_signals_restore(&saved);
	if (transfer != NULL && !dlist_is_empty(&looking))
		stop_looking(transfer);
	return transfer;
}

/* A transfer has ended while its name was being looked up: then the name is not known, unless it was used. */
static void
stop_looking(KsTransfer *transfer)
{
	dlist_iter iter;

	dlist_foreach (iter, &looking)
	{
		Waiting *lookup = dlist_container(Waiting, node, iter.cur);

		if (lookup->transfer != transfer)
			continue;
		end_lookup(lookup, transfer->is_named);
		return;
	}
}
