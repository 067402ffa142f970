# Metering when something comes in between: a crash between two statements or in the middle of folding, midnight with an
# open transaction, a clock that jumps back, a dump that is restored elsewhere before all was folded; and the live stream.

use strict;
use warnings;

use Fcntl;
use IO::Select;
use KeelsonTest;
use Test::More;
use Time::HiRes qw(time);

my $keelson = KeelsonTest->new('straits', conf => "log_checkpoints = off\njit = off");
my $gateway = $keelson->gateway;
my $ada     = $keelson->user($gateway);
my $lock    = q{x'4b656c736f6e5531'::bigint};

sub record { return "select * from keelson.usage_record('$ada->{id}', 'speech', $_[0]" . (defined $_[1] ? ", key => '$_[1]'" : '') . ')'; }

# All that is committed is folded, here or in another cluster.
sub settle
{
	my ($where) = @_;
	return wait_until(sub {
		my ($status, $answer) = $where->try_sql(q{select keelson.usage_fold() = 0 and not exists (
			select from keelson.usage_events as e, keelson.usage_watermark as w where (e.era, e.xid, e.id) > (w.era, w.xid, w.event_id))});
		$status == 0 && $answer eq 't';
	}, 30);
}

# What a reader sees, and what the events are: minutes of all time.
sub seen   { return $_[0]->sql("select trim_scale(keelson._usage_minutes('$ada->{id}', null, '2000-01-01', '9999-01-01'))"); }
sub events { return $_[0]->sql("select trim_scale(coalesce(sum(minutes), 0)) from keelson.usage_events where user_id = '$ada->{id}'"); }
sub totals { return $_[0]->sql("select trim_scale(sum(minutes)) from keelson.usage_totals where user_id = '$ada->{id}'"); }

sub reconciled { return $_[0]->sql('select count(*) from keelson.usage_reconcile()') eq '0'; }

subtest 'a crash between two statements' => sub {
	my @statements = ('begin', record('1', 'a'), record('2'), 'savepoint nested', record('4', 'b'), record('1', 'a'), 'release nested', 'commit');
	for my $sent (2 .. @statements)
	{
		my $before = seen($keelson);
		my $victim = $keelson->node->background_psql('keelson', on_error_stop => 0);
		my $pid = $victim->query_safe('select pg_backend_pid()');
		$victim->query_safe($_ =~ s/'([ab])'/'$1$sent'/r) for @statements[ 0 .. $sent - 1 ];
		ok($keelson->kill_process($pid), "the backend is killed after \"$statements[ $sent - 1 ]\"");
		is(seen($keelson) - $before, $sent == @statements ? 7 : 0, $sent == @statements ? 'all of it is there' : 'nothing of it is there');
		is(events($keelson), seen($keelson), 'as events too');
	}
	# Who does not know sends it all again.
	my $again = '(' . join(') union all (', map { record('1', "a$_") } 2 .. @statements) . ')';
	is($keelson->sql("select sum(accepted), sum(duplicates) from ($again) as r"), '6|1', 'sent again each key counts once');
	ok(settle($keelson) && reconciled($keelson), 'rollups are what the events are');
};

subtest 'a crash in the middle of folding' => sub {
	ok(settle($keelson), 'something is folded');
	my $folder = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$folder->query_safe("select pg_advisory_lock($lock)");
	$keelson->sql(record('0.5', "fold$_")) for 1 .. 3;
	# Folding has written quarters and days when it comes to this row of the totals.
	my $holder = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$holder->query_safe("begin; select from keelson.usage_totals where user_id = '$ada->{id}' for update");
	$folder->query_safe("select pg_advisory_unlock($lock)");
	my $keeper;
	ok(wait_until(sub {
		$keeper = $keelson->sql(q{select pid from pg_stat_activity where backend_type = 'keelson keeper' and wait_event_type = 'Lock'});
	}, 30), 'the keeper waits in the middle');
	my $before = seen($keelson);
	ok($keelson->kill_process($keeper), 'and is killed');
	is(seen($keelson), $before, 'readers see the same');
	ok(settle($keelson), 'the next one folds');
	is(totals($keelson), $before, 'each event once');
	ok(reconciled($keelson), 'and rollups are what the events are');
};

subtest 'metrics' => sub {
	$gateway->wait_ready;
	$keelson->sql(record('1', 'metered')) for 1 .. 2;
	my $text = $gateway->get('/metrics')->{content};
	like($text, qr/^keelson_usage_events_total [1-9]/m, 'events');
	like($text, qr/^keelson_usage_duplicates_total 1$/m, 'duplicates, since the server started');
	ok(wait_until(sub { settle($keelson); $gateway->get('/metrics')->{content} =~ /^keelson_usage_fold_lag_seconds 0$/m }, 20), 'nothing waits to be folded');
	my $holder = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$holder->query_safe("select pg_advisory_lock($lock)");
	$keelson->sql(record('1'));
	ok(wait_until(sub { $gateway->get('/metrics')->{content} =~ /^keelson_usage_fold_lag_seconds (?!0$)/m }, 20), 'and it shows when something does');
	$holder->quit;
};

subtest 'savepoints' => sub {
	my $counted = sub {
		my ($events, $duplicates) = split /\|/, $keelson->sql('select recorded, duplicates from keelson._usage_counters()');
		return [ $events, $duplicates ];
	};
	my $before = $counted->();
	# Twice in depth; what is rolled back in between is neither an event nor a duplicate.
	$keelson->sql(join '; ', 'begin', record('1', 'kept'), 'savepoint one', record('1'), record('1', 'kept'), 'savepoint two', record('1'),
		'rollback to two', record('1'), 'release two', 'rollback to one', 'savepoint three', 'savepoint four', record('1', 'kept'), record('1', 'four'),
		'release four', 'release three', 'savepoint five', record('1'), 'commit');
	my $after = $counted->();
	is_deeply([ map { $after->[$_] - $before->[$_] } 0, 1 ], [ 3, 1 ], 'what was rolled back to a savepoint does not count');
	$keelson->sql(join '; ', 'begin', record('1'), 'savepoint one', record('1'), 'rollback');
	is_deeply($counted->(), $after, 'nor what was rolled back as a whole');
};

subtest 'much that is recorded' => sub {
	# The keeper comes every two seconds, and is woken besides by whoever records the last of 8,192 events.
	my $is_folded = sub {
		return $keelson->sql(q{select not exists (select from keelson.usage_events as e, keelson.usage_watermark as w
			where (e.era, e.xid, e.id) > (w.era, w.xid, w.event_id))}) eq 't';
	};
	my $wait = sub {
		my ($events) = @_;
		my $began = time;
		$keelson->sql("select count(keelson.usage_record('$ada->{id}', 'speech', 1)) from generate_series(1, $events)");
		wait_until($is_folded, 30) or die 'nobody folds';
		return time - $began;
	};
	my ($last, $other);
	# Each begins when all before it is folded, which is when the keeper goes away for two seconds; until nothing comes between.
	for (1 .. 4)
	{
		$wait->(8191 - $keelson->sql('select recorded % 8192 from keelson._usage_counters()'));
		($last, $other) = map { $wait->(1) } 1 .. 2;
		last if $last < $other / 2;
	}
	cmp_ok($last, '<', $other / 2, 'is not left until the keeper comes');
	ok(reconciled($keelson), 'and folded rightly');
};

subtest 'a migration while the keeper folds' => sub {
	ok(settle($keelson), 'all is folded');
	# Folding has the events open, and comes to the tiers after the totals; a migration comes to the tiers first.
	my $folder = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$folder->query_safe("select pg_advisory_lock($lock)");
	$keelson->sql(record('1'));
	my $holder = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$holder->query_safe("begin; select from keelson.usage_totals where user_id = '$ada->{id}' for update");
	$folder->quit;
	my $waits = sub {
		my ($who) = @_;
		return wait_until(sub { $keelson->sql("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and ($who)") eq '1' }, 30);
	};
	ok($waits->(q{backend_type = 'keelson keeper' and wait_event <> 'advisory'}), 'the keeper is in the middle');
	my $migration = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$migration->query_until(qr/begun/, "\\echo begun\nselect count(*) as migrations from keelson.migrate(anew => true);\n\\echo over\n");
	ok($waits->(q{query like '%keelson.migrate(%' and wait_event = 'advisory' and pid <> pg_backend_pid()}), 'a migration waits for it, and has nothing yet');
	$holder->query_safe('commit');
	$holder->quit;
	like($migration->query('select 1'), qr/^0$/m, 'it is done');
	unlike($migration->{stderr}, qr/deadlock/, 'and neither has stood in the other\'s way');
	$migration->quit;
	unlike($keelson->server_log, qr/deadlock detected/, 'nor anybody');
	ok(settle($keelson) && reconciled($keelson), 'what was recorded is folded');
};

subtest 'midnight, with a transaction that is open' => sub {
	ok(settle($keelson), 'all is folded');
	my $before = seen($keelson);
	my $late = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$late->query_safe('begin; ' . record('8', 'late'));
	# As if it had begun the day before yesterday.
	$keelson->sql(q{update keelson.usage_watermark set tail_from = (now() at time zone 'UTC')::date - 2});
	# The keeper, which sees nothing recorded, would come in a minute.
	$keelson->sql('select keelson.usage_fold()');
	ok(wait_until(sub { $keelson->sql(q{select next_from = (now() at time zone 'UTC')::date from keelson.usage_watermark}) eq 't' }, 30), 'the floor is on its way');
	$keelson->sql(record('16', 'early'));
	is(seen($keelson), $before + 16, 'what is recorded meanwhile is seen');
	$keelson->sql('select keelson.usage_fold()') for 1 .. 3;
	is($keelson->sql(q{select tail_from = (now() at time zone 'UTC')::date - 2 from keelson.usage_watermark}), 't', 'and it waits for whoever began before');
	$late->query_safe('commit');
	$late->quit;
	is(seen($keelson), $before + 24, 'who commits late is seen');
	ok(wait_until(sub { $keelson->sql(q{select tail_from = (now() at time zone 'UTC')::date and next_from is null from keelson.usage_watermark}) eq 't' }, 30), 'then it is today');
	is(seen($keelson), $before + 24, 'with the same to be seen');
	ok(settle($keelson) && reconciled($keelson), 'and folded');
};

subtest 'a clock that jumps back' => sub {
	ok(settle($keelson), 'all is folded');
	# As if it had been the day after tomorrow: what is behind the floor is never looked at again, so nothing may come there.
	$keelson->sql(q{update keelson.usage_watermark set tail_from = (now() at time zone 'UTC')::date + 2, next_from = null, next_era = null, next_xid = null});
	$keelson->node->stop('immediate');
	$keelson->node->start;
	my $before = seen($keelson);
	is($keelson->sql(record('32', 'jump')), '1|0', 'an event is recorded');
	is($keelson->sql(record('32', 'jump')), '0|1', 'once');
	is($keelson->sql(q{select count(*) from keelson.usage_events where id >= keelson._uuid7_floor((date_trunc('day', now(), 'UTC') + interval '2 days'))}), '1', 'in the day of the floor');
	is(seen($keelson), $before + 32, 'and seen at once');
	is($keelson->sql(qq{select sum(t.minutes) = (select sum(e.minutes) from keelson.usage_events as e where e.user_id = '$ada->{id}')
		from unnest(keelson._usage_timeline('$ada->{id}', 'UTC', now())) as t}), 't', 'on the day on which it occurred');
	ok(settle($keelson) && reconciled($keelson), 'and folded');
	is(totals($keelson), $before + 32, 'once');
};

# A library in front of the C library's puts the clock forward, by as many seconds as stand in a file.
sub make_clock
{
	my ($folder) = @_;
	open my $source, '>', "$folder/clock.c" or die $!;
	print $source <<'END';
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *ahead;

__attribute__((constructor)) static void
look(void)
{
	ahead = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, open(getenv("CLOCK_AHEAD"), O_RDONLY), 0);
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = syscall(SYS_clock_gettime, clock, now);

	if (clock == CLOCK_REALTIME)
		now->tv_sec += *ahead;
	return result;
}

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	int result = syscall(SYS_gettimeofday, now, zone);

	now->tv_sec += *ahead;
	return result;
}
END
	close $source;
	system("cc -shared -fPIC -o $folder/clock.so $folder/clock.c") == 0 or die 'no library';
	return "$folder/clock.so";
}

subtest 'a clock that was a month ahead for a moment' => sub {
	my $file = $keelson->node->basedir . '/ahead';
	my $put = sub {
		sysopen my $out, $file, O_RDWR | O_CREAT or die $!;
		syswrite $out, pack('q', $_[0]);
		close $out;
	};
	$put->(0);
	local $ENV{CLOCK_AHEAD} = $file;
	# Sanitizers have to come first.
	local $ENV{LD_PRELOAD} = join ' ', grep { $_ } $ENV{LD_PRELOAD}, make_clock($keelson->node->basedir);
	$keelson->node->restart;
	my $session = $keelson->node->background_psql('keelson', on_error_stop => 0);
	is($session->query_safe(record('64')), '1|0', 'before it');
	$put->(30 * 86400);
	is($session->query_safe(q{select keelson.uuid7() > keelson._uuid7_floor(now() - interval '1 day')}), 't', 'in it, ids are of that month');
	$put->(0);
	is($session->query_safe(q{select keelson.uuid7() < keelson._uuid7_floor(now() + interval '1 day')}), 't', 'after it, of this one again');
	is($session->query_safe(record('128')), '1|0', 'and usage is recorded');
	$session->quit;
	is(events($keelson), seen($keelson), 'and seen');
	ok(settle($keelson) && reconciled($keelson), 'and folded');
	delete $ENV{LD_PRELOAD};
	$keelson->node->restart;
};

subtest 'restored elsewhere, with events that are not folded' => sub {
	my $holder = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$holder->query_safe("select pg_advisory_lock($lock)");
	$keelson->sql(record('0.125', "tail$_")) for 1 .. 8;
	is(seen($keelson), totals($keelson) + 1, 'a tail is left');
	my $dump = $keelson->node->basedir . '/dump';
	PostgreSQL::Test::Utils::system_or_bail('pg_dump', '-h', $keelson->node->host, '-p', $keelson->node->port, '-Fc', '-f', $dump, 'keelson');
	my $expected = seen($keelson);
	$holder->quit;
	my $other = KeelsonTest->new('elsewhere', uninstalled => 1, conf => 'jit = off');
	$other->node->stop;
	PostgreSQL::Test::Utils::system_or_bail('cp', '-p', $keelson->{keyring}, $other->{keyring});
	$other->node->start;
	# A young cluster: its transaction ids are below those in the dump.
	PostgreSQL::Test::Utils::system_log('pg_restore', '-h', $other->node->host, '-p', $other->node->port, '-d', 'keelson', $dump);
	is(seen($other), $expected, 'readers see the same there');
	is($other->sql(record('0.125', 'tail1')), '0|1', 'keys are known');
	is($other->sql(record('64', 'after')), '1|0', 'and more is recorded');
	is(seen($other), $expected + 64, 'and seen');
	ok(settle($other), 'all is folded');
	is($other->sql('select count(distinct era) from keelson.usage_events'), '2', 'of both eras');
	is(totals($other), $expected + 64, 'each event once');
	ok(reconciled($other), 'and rollups are what the events are');
	$other->stop;
};

subtest 'the live stream' => sub {
	$gateway->wait_ready;
	my $socket = $gateway->connect;
	syswrite $socket, "GET /api/user/usage/stream HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nAuthorization: Bearer $ada->{token}\r\n\r\n";
	my $select = IO::Select->new($socket);
	my $all    = '';
	my $told   = sub { return map { 0 + $_ } $all =~ /"allTime":\{"totalMinutes":([\d.]+)/g };
	my $see    = sub {
		my ($minutes) = @_;
		return wait_until(sub { $select->can_read(0) && sysread($socket, $all, 65536, length $all); grep { $_ == $minutes } $told->() }, 20);
	};
	my $now = seen($keelson);
	ok($see->($now), 'what is used comes at once') or diag $all;
	like($all, qr{Content-Type: text/event-stream}i, 'as an event stream');
	my $writer = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$writer->query_safe('begin; ' . record('100'));
	my $other = $keelson->node->background_psql('keelson', on_error_stop => 0);
	$other->query_safe("begin; " . record('1000'));
	is($keelson->sql(qq{select count(*) from pg_stat_activity where wait_event_type = 'Lock'}), '0', 'a reader holds up no writer, nor does one the other');
	$other->query_safe('commit');
	ok($see->($now + 1000), 'what another has committed follows') or diag $all;
	$writer->query_safe('commit');
	ok($see->($now + 1100), 'until it is');
	is_deeply([ $told->() ], [ $now, $now + 1000, $now + 1100 ], 'each change once, and none that was not committed');
	close $socket;
	$_->quit for $writer, $other;
};

done_testing();
$keelson->stop;
