/*
 * turns.c
 *	  A thread's long computing in turns, between which others have theirs.
 *
 * A computation of tens of milliseconds delays whoever needs a fraction of one:
 * the scheduler lets a thread go on for some milliseconds, at whatever
 * priority, when those that wake beside it have had their share. So the thread
 * itself stops after each short turn of computing if others want the processor,
 * which it sees by how much longer the turn has lasted than it has computed;
 * alone it computes on. Whoever sleeps is let in when it wakes, so that a
 * machine that is kept busy slows the thread down to the pauses, no further.
 *
 * The turns end by a timer's signal, which the thread handles between any two
 * of its instructions: the handler makes calls to the kernel only.
 */
#include "postgres.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "port/atomics.h"

#include "core/clock.h"
#include "secrets/turns.h"

#define TURN_NS INT64CONST(200000)
#define PAUSE_NS INT64CONST(1000000)

/* What a turn may last longer than its computing, for interrupts and for waking up. */
#define LOST_NS INT64CONST(100000)

/* So many turns after others were seen, the thread looks whether it is alone again: a twelfth of a second. */
#define WARY_TURNS 64

/* Of real-time signals the server uses none, and the C library those below. */
#define TURN_SIGNAL SIGRTMIN

/* Of the thread: written by it, outside of turns or in the handler. */
typedef struct Turn
{
	timer_t timer;
	bool has_timer;
	int64 began_at; /* by the clock */
	int64 computed; /* by then, in all */
} Turn;

static __thread Turn turn;

/* How many turns end in a pause yet. Written by all threads, of which each tells the next what it has met. */
static pg_atomic_uint32 wary;

static void end_turn(int number);
static void judge_turn(int64 now, int64 computed);
static void begin_turn(int64 began_at, int64 computed);
static void set_timer(int64 ns);
static void signal_mask(int how);

void
ks_turns_init(void)
{
	struct sigaction action = {.sa_handler = end_turn, .sa_flags = SA_RESTART};

	pg_atomic_init_u32(&wary, 0);
	(void) sigaction(TURN_SIGNAL, &action, NULL);
}

void
ks_turns_begin(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = TURN_SIGNAL};

	event._sigev_un._tid = (pid_t) syscall(SYS_gettid);
	turn.has_timer = timer_create(CLOCK_MONOTONIC, &event, &turn.timer) == 0;
	if (!turn.has_timer)
		return;
	/* A pause is to last what it says, not 50 microseconds more. */
	(void) prctl(PR_SET_TIMERSLACK, 1000);
	begin_turn(ks_clock_ns(CLOCK_MONOTONIC), ks_clock_ns(CLOCK_THREAD_CPUTIME_ID));
	signal_mask(SIG_UNBLOCK);
}

void
ks_turns_end(void)
{
	if (!turn.has_timer)
		return;
	signal_mask(SIG_BLOCK);
	(void) timer_delete(turn.timer);
	turn.has_timer = false;
}

/* The timer's signal. */
static void
end_turn(int number)
{
	int saved_errno = errno;

	/* Somebody may send it to another thread. */
	if (turn.has_timer)
		judge_turn(ks_clock_ns(CLOCK_MONOTONIC), ks_clock_ns(CLOCK_THREAD_CPUTIME_ID));
	errno = saved_errno;
}

/* A turn is over, unless others had most of it; then it goes on. */
static void
judge_turn(int64 now, int64 computed)
{
	const struct timespec pause = {.tv_nsec = PAUSE_NS};
	int64 used = computed - turn.computed;
	uint32 left = pg_atomic_read_u32(&wary);

	if (now - turn.began_at - used > LOST_NS)
		left = WARY_TURNS;
	if (used < TURN_NS / 2)
		set_timer(TURN_NS - used);
	else if (left > 0)
	{
		left--;
		(void) nanosleep(&pause, NULL);
		/* To wake late is to have lost time too. */
		begin_turn(now + PAUSE_NS, computed);
	}
	else
		begin_turn(now, computed);
	pg_atomic_write_u32(&wary, left);
}

static void
begin_turn(int64 began_at, int64 computed)
{
	turn.began_at = began_at;
	turn.computed = computed;
	set_timer(TURN_NS);
}

static void
set_timer(int64 ns)
{
	const struct itimerspec when = {.it_value = {.tv_nsec = ns}};

	(void) timer_settime(turn.timer, 0, &when, NULL);
}

/* Block or unblock the timer's signal in the thread. */
static void
signal_mask(int how)
{
	sigset_t only;

	(void) sigemptyset(&only);
	(void) sigaddset(&only, TURN_SIGNAL);
	(void) pthread_sigmask(how, &only, NULL);
}
