/*
 * post_alone.c
 *	  What a courier cannot be faster than: libcurl's multi handle sending the
 *	  same requests to the same receiver, with no database behind it.
 *
 *	  post-alone URL REQUESTS AT_ONCE BYTES
 *
 * Prints seconds and CPU seconds.
 */
#define _GNU_SOURCE
#include <curl/curl.h>
#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#define EVENTS 256

static CURLM *multi;
static int epoll_fd;
static long timeout = -1;
static char *body;
static long left;
static long done;

static int
watch(CURL *easy, curl_socket_t socket, int what, void *arg, void *known)
{
	struct epoll_event event = {.data.fd = socket};

	(void) easy;
	(void) arg;
	event.events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
	epoll_ctl(epoll_fd, what == CURL_POLL_REMOVE ? EPOLL_CTL_DEL : known != NULL ? EPOLL_CTL_MOD
																				 : EPOLL_CTL_ADD,
			  socket, &event);
	if (known == NULL)
		curl_multi_assign(multi, socket, &epoll_fd);
	return 0;
}

static int
set_timer(CURLM *handle, long timeout_ms, void *arg)
{
	(void) handle;
	(void) arg;
	timeout = timeout_ms;
	return 0;
}

static size_t
ignore(char *data, size_t size, size_t count, void *arg)
{
	(void) data;
	(void) arg;
	return size * count;
}

static void
prepare(CURL *easy, const char *url, long bytes, struct curl_slist *lines)
{
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_POST, 1L);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, bytes);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, lines);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, ignore);
}

static void
take_ended(void)
{
	CURLMsg *message;
	int queued;

	while ((message = curl_multi_info_read(multi, &queued)) != NULL)
	{
		CURL *easy = message->easy_handle;

		if (message->data.result != CURLE_OK)
			errx(1, "%s", curl_easy_strerror(message->data.result));
		done++;
		curl_multi_remove_handle(multi, easy);
		if (left-- > 0)
			curl_multi_add_handle(multi, easy);
	}
}

static void
run(long requests)
{
	struct epoll_event events[EVENTS];
	int running;

	while (done < requests)
	{
		int ready = epoll_wait(epoll_fd, events, EVENTS, (int) timeout);

		for (int i = 0; i < ready; i++)
			curl_multi_socket_action(multi, events[i].data.fd,
									 (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
										 (events[i].events & ~EPOLLOUT ? CURL_CSELECT_IN : 0),
									 &running);
		if (ready == 0 || timeout == 0)
		{
			timeout = -1;
			curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
		}
		take_ended();
	}
}

static double
seconds(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
	struct curl_slist *lines = curl_slist_append(NULL, "Content-Type: application/json");
	double began, cpu_began;
	long requests, at_once, bytes;

	if (argc != 5)
		errx(2, "usage: post-alone URL REQUESTS AT_ONCE BYTES");
	requests = atol(argv[2]);
	at_once = atol(argv[3]);
	bytes = atol(argv[4]);
	body = malloc(bytes + 1);
	epoll_fd = epoll_create1(0);
	if (body == NULL || epoll_fd < 0 || at_once > requests || curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK)
		err(1, "start");
	memset(body, 'x', bytes);
	multi = curl_multi_init();
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, at_once);
	left = requests - at_once;
	began = seconds(CLOCK_MONOTONIC);
	cpu_began = seconds(CLOCK_PROCESS_CPUTIME_ID);
	for (long i = 0; i < at_once; i++)
	{
		CURL *easy = curl_easy_init();

		prepare(easy, argv[1], bytes, lines);
		curl_multi_add_handle(multi, easy);
	}
	run(requests);
	fprintf(stderr, "seconds=%.6f cpu=%.6f\n", seconds(CLOCK_MONOTONIC) - began, seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_began);
	return 0;
}
