/*
 * splice: header fields of any size, and bodies of any size, ours and the
 * library's, through the real library and sockets that take a little at a time.
 */
#include <microhttpd.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guard.h"
#include "tap.h"

static struct GwGuard guard;
static char *fields;
static size_t fields_len;
static char *body;
static size_t body_len;
static bool is_chunked;
static unsigned status = 200;
static char *got;
static size_t got_len, got_size;

static ssize_t
read_body(void *cls, uint64_t position, char *out, size_t size)
{
	size_t left = body_len - position;

	(void) cls;
	if (left == 0)
		return MHD_CONTENT_READER_END_OF_STREAM;
	if (left > size)
		left = size;
	memcpy(out, body + position, left);
	return (ssize_t) left;
}

static enum MHD_Result
answer(void *cls, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
	   const char *data, size_t *size, void **state)
{
	struct GwText our_fields = {.data = fields, .len = fields_len};
	struct GwText our_body = {.data = body, .len = body_len};
	struct MHD_Response *response;
	enum MHD_Result result;

	(void) cls, (void) url, (void) version, (void) data, (void) size;
	/* Answered on the first call, a connection is closed. */
	if (*state == NULL)
	{
		*state = &guard;
		return MHD_YES;
	}
	response = is_chunked ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, read_body, NULL, NULL)
						  : MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
	if (status != 200)
		our_body.len = 0;
	result = MHD_queue_response(connection, gw_guard_put_reply(&guard, (int) status, &our_fields, is_chunked ? NULL : &our_body, strcmp(method, "HEAD") == 0), response);
	MHD_destroy_response(response);
	return result;
}

static void
completed(void *cls, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode why)
{
	(void) cls, (void) connection, (void) state, (void) why;
	gw_guard_reply_done(&guard);
}

/* Lets the library send until nothing more comes; reads at most so many bytes each time. */
static void
take(struct MHD_Daemon *server, int fd, size_t step)
{
	int idle = 0;

	got_len = 0;
	while (idle < 20)
	{
		ssize_t n;

		MHD_run(server);
		if (got_size - got_len < step + 1)
			got = realloc(got, got_size = got_size * 2 + step + 1);
		n = read(fd, got + got_len, step);
		got_len += n > 0 ? (size_t) n : 0;
		idle = n > 0 ? 0 : idle + 1;
	}
	got[got_len] = '\0';
}

/* Says whether what came is a head with the true length, the fields in front of its end, and so much of the body. */
static bool
is_whole(size_t sent)
{
	const char *end = fields_len > 0 ? strstr(got, "\r\nX-Test: ") : strstr(got, "\r\n\r\n");
	const char *length = strstr(got, "\r\nContent-Length: ");
	const char *at;

	if (strncmp(got, "HTTP/1.1 ", 9) != 0 || strtoul(got + 9, NULL, 10) != status || end == NULL)
		return false;
	if (is_chunked || status != 200 ? length != NULL : length == NULL || strtoull(length + 18, NULL, 10) != body_len)
		return false;
	at = end + 2;
	if (fields_len > 0 && ((size_t) (got + got_len - at) < fields_len || memcmp(at, fields, fields_len) != 0))
		return false;
	at += fields_len;
	if (strncmp(at, "\r\n", 2) != 0)
		return false;
	at += 2;
	if (is_chunked)
		return (size_t) (got + got_len - at) > sent && memcmp(got + got_len - 5, "0\r\n\r\n", 5) == 0;
	return (size_t) (got + got_len - at) == sent && memcmp(at, body, sent) == 0;
}

static bool
works(struct MHD_Daemon *server, int fd, const char *request, size_t nfields, size_t nbody, size_t step)
{
	bool is_good = true;

	fields_len = nfields;
	memset(fields, 'f', nfields);
	if (nfields > 0)
	{
		memcpy(fields, "X-Test: ", 8);
		memcpy(fields + nfields - 2, "\r\n", 2);
	}
	body_len = nbody;
	/* One reply after the other on a connection. */
	for (int i = 0; i < 2; i++)
	{
		if (write(fd, request, strlen(request)) < 0)
			abort();
		take(server, fd, step);
		is_good &= is_whole(strncmp(request, "HEAD", 4) == 0 || status != 200 ? 0 : nbody);
	}
	return is_good;
}

int
main(void)
{
	static const char get[] = "GET / HTTP/1.1\r\nHost: self\r\n\r\n";
	static const char head[] = "HEAD / HTTP/1.1\r\nHost: self\r\n\r\n";
	static const size_t sizes[] = {0, 12, 700, 5000, 300000};
	static const size_t steps[] = {17, 4096, 1 << 20};
	struct sockaddr_storage nowhere = {.ss_family = AF_UNIX};
	struct MHD_Daemon *server = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, answer, NULL,
												 MHD_OPTION_NOTIFY_COMPLETED, completed, NULL, MHD_OPTION_END);
	int small = 4096;
	int pair[2];

	fields = malloc(300000);
	body = malloc(300000);
	memset(body, 'b', 300000);
	if (!gw_guard_init(256) || server == NULL || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0)
		abort();
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	if (!gw_guard_attach(&guard, pair[0], NULL, NULL, NULL) ||
		MHD_add_connection(server, pair[0], (struct sockaddr *) &nowhere, sizeof(nowhere.ss_family)) != MHD_YES)
		abort();
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
	{
		bool is_good = true;

		for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++)
			for (size_t k = 0; k < sizeof(steps) / sizeof(steps[0]); k++)
				if (steps[k] > 100 || (sizes[i] < 10000 && sizes[j] < 10000))
					is_good &= works(server, pair[1], get, sizes[i], sizes[j], steps[k]);
		ok(is_good, "%zu bytes of fields in front of bodies of every size", sizes[i]);
		ok(works(server, pair[1], head, sizes[i], 12, 4096), "and without the body, for HEAD");
		status = 204;
		ok(works(server, pair[1], get, sizes[i], 12, 4096), "and without one, for a status that has none");
		status = 304;
		ok(works(server, pair[1], get, sizes[i], 12, 4096), "and for one that tells nothing of a length either");
		status = 200;
		is_chunked = true;
		ok(works(server, pair[1], get, sizes[i], 9000, 4096), "and with one in chunks");
		is_chunked = false;
	}
	MHD_stop_daemon(server);
	close(pair[1]);
	gw_guard_detach(&guard);
	ok(gw_guard_verify(stderr), "the proof at start sees it");
	free(fields);
	free(body);
	free(got);
	gw_guard_free();
	return done();
}
