# The dispatcher's own price. Audit events: what one adds to a call in the dispatcher and to a request through the
# gateway, with nothing stored and with ten million; how fast events are sealed, and found; how long a day of them takes
# to expire. Beside it what tells what the machine is worth: the insert of such a row into a table of the same columns
# and primary key, and into one with all of the indexes; and the call of a function that does nothing, from where the
# event is recorded.

use strict;
use warnings;
use List::Util qw(sum0);
use Time::HiRes qw(time);

use Bench;
use Bench::Sql;
use Bench::System;

my $stored = $ENV{BENCH_EVENTS} || 10_000_000;
my $days = 10;    # that they are spread over

aim_sql(
	'an audit event in the dispatcher, µs'                       => [ 5,    5 ],
	'dispatcher over the bare call, µs'                          => [ 3,    3 ],
	'dispatcher with session, limits and an audit event, µs'     => [ 8,    8 ],
	'an audit event end to end, µs of CPU time'                  => [ 25,   25 ]);
aim_cost(
	'an audit event over such an insert, with its indexes'       => [ 1.25, 1.39 ],
	'an audit event end to end over such an insert'              => [ 1.25, 1.39 ],
	'an audit event end to end, µs'                              => [ 25,   25 ],
	'an audit event with 10 million stored over one with none'   => [ 1.05, 1.11 ],
	'sealing an event, µs (20 are 50,000 a second)'              => [ 20,   20 ],
	'expiry of a day of a million events, ms'                    => [ 100,  100 ],
	'expiry of a day, while others cannot write, ms'             => [ 10,   11 ],
	'expiry of a day over dropping a table of as many rows'      => [ 1.5,  1.67 ],
	'finding an address among 10 million events, ms'             => [ 50,   55 ]);

add_call('audited',   'POST', '/api/bench/audited-events',   'POST bench/audited-events',   '{"feature":"speech","minutes":0.25}');
add_call('unaudited', 'POST', '/api/bench/unaudited-events', 'POST bench/unaudited-events', '{"feature":"speech","minutes":0.25}');
add_call('inserted',  'POST', '/api/bench/inserted-events',  'POST bench/inserted-events',  '{"feature":"speech","minutes":0.25}');

# A call through the dispatcher, as the gateway makes it.
sub call
{
	my ($endpoint) = @_;
	my $caller = q{'{"ip":"127.0.0.1","userAgent":"wrk","requestId":"0194e0a0-0000-7000-8000-000000000000","scheme":"http","via":"bearer"}'::json};
	return sprintf 'perform keelson.dispatch(%d, %s, null, null, %s)', route($endpoint), "'" . (people)[0]{token} . "'", $caller;
}

# A row as an event of a request has it.
my $row = q{values ('01940000-0000-7000-8000-000000000000', keelson.uuid7(), 1, '3', 'bench.use', 'success', 'user',
	'01940000-0000-7000-8000-000000000000', '0194e0a0-0000-7000-8000-000000000000', '{"feature": "speech"}', sha256('x') || sha256('y'), decode(md5('z'), 'hex'))};

# What the code returns while the WAL writer is stopped. The transactions here do not wait for their flush, as a request's
# does; each would wake the WAL writer instead, with a signal that costs it several microseconds. It is stopped where it
# sleeps: anywhere else it may hold a lock that all others need.
sub without_wal_writer
{
	my ($code) = @_;
	my $writer = q{pg_stat_activity where backend_type = 'walwriter'};
	my $pid = keelson->sql("select pid from $writer");
	kill 'STOP', $pid;
	while (keelson->sql("select wait_event from $writer") ne 'WalWriterMain')
	{
		kill 'CONT', $pid;
		kill 'STOP', $pid;
	}
	my @result = eval { $code->() };
	kill 'CONT', $pid;
	die $@ if $@;
	return @result;
}

# What the dispatcher adds to a call; what an event does, and the call of a function that does nothing; what the call is
# with the event, and what inserting the row adds to nothing, with a primary key alone and with all of the indexes.
sub event_us
{
	keelson->sql(q{
		create table if not exists bench.plain_events (like keelson.audit_events, primary key (user_id, id))});
	my ($nothing, $bare, $without, $called, $with, $plain, $indexed) = without_wal_writer(sub {
		return transactions_us(
			'null', 'perform bench.nothing()', call('GET bench/nothing'), call('GET bench/nothing-called'), call('GET bench/nothing-audited'),
			"insert into bench.plain_events $row", "insert into bench.indexed_events $row");
	});
	return (dispatch => $without - $bare, event => $with - $without, call => $called - $without, whole => $with - $bare, plain => $plain - $nothing, indexed => $indexed - $nothing);
}

measure('audit', sub {
	return unless wanted('audit') || wanted('dispatch');
	my %us = event_us();
	keep('dispatch.1.keelson', unit => 'us', value => $us{dispatch});
	cost('dispatcher over the bare call, µs', $us{dispatch});
	keep('audit.1.keelson', unit => 'us', value => $us{event});
	keep('audit.1.call', unit => 'us', value => $us{call});
	keep('audit.1.insert', unit => 'us', value => $us{plain});
	yardstick('insert', $us{plain});
	keep('audit.1.insert-indexed', unit => 'us', value => $us{indexed});
	cost('an audit event over an insert of the same row', $us{event} / $us{plain});
	cost('an audit event over such an insert, with its indexes', $us{event} / $us{indexed});
	cost('an audit event in the dispatcher, µs', $us{event});
	cost('an audit event but for calling a function, µs', $us{event} - $us{call});
	cost('dispatcher with session, limits and an audit event, µs', $us{whole});
});

# CPU seconds of all the backends that the gateway has.
sub backends_cpu
{
	return sum0(map { process_cpu($_) } split /\n/, keelson->sql(q{select pid from pg_stat_activity where usename = 'keelson_gateway'}));
}

# What the code returns while nobody's commit waits for its flush. A request waits for the disk longer than it computes, and
# the longer it waits, the colder it finds its caches: what two requests differ by would be what the disk did meanwhile.
sub without_flush
{
	my ($code) = @_;
	keelson->sql('alter system set synchronous_commit = off; select pg_reload_conf()');
	my @result = eval { $code->() };
	keelson->sql('alter system reset synchronous_commit; select pg_reload_conf()');
	die $@ if $@;
	return @result;
}

# CPU microseconds of a request through the gateway on one connection, of client, gateway and backend. Sealing comes later,
# and is measured by itself.
sub request_cpu_us
{
	my ($what) = @_;
	my $before = backends_cpu();
	my $sample = unkept(sub { run_gateway($what, 1) });
	return $sample->{client_us} + $sample->{gateway_us} + (backends_cpu() - $before) * 1e6 / $sample->{requests};
}

# What a request with an event takes longer, which moves with the disk; what CPU time it takes more, and what one takes more
# that inserts such a row: one after the other, three times in turn.
measure('audit end to end', sub {
	return unless wanted('audit');
	my (@events, @inserts);
	for (1 .. 3)
	{
		my ($with, $without) = map { 1e6 / run_gateway($_, 1)->{value} } qw(audited unaudited);
		my ($with_cpu, $without_cpu, $inserted_cpu) = without_flush(sub { return map { request_cpu_us($_) } qw(audited unaudited inserted) });
		keep('audit.request.keelson', unit => 'us', value => $with - $without, cpu_us => $with_cpu - $without_cpu);
		cost('an audit event end to end, µs', $with - $without);
		cost('an audit event end to end, µs of CPU time', $with_cpu - $without_cpu);
		cost('such an insert end to end, µs of CPU time', $inserted_cpu - $without_cpu);
		push @events, $with_cpu - $without_cpu;
		push @inserts, $inserted_cpu - $without_cpu;
	}
	cost('an audit event end to end over such an insert', median(@events) / median(@inserts));
});

measure('audit.seal', sub {
	return unless wanted('audit');
	my $user_id = (people)[0]{id};
	keelson->sql('select keelson.audit_seal() from generate_series(1, 100)');
	keelson->sql(qq{select count(keelson.audit('auth.login', '{"n": 1}', 'success', '$user_id')) from generate_series(1, 40000)});
	my $started = time;
	my $sealed = keelson->sql('select sum(keelson.audit_seal(4096)) from generate_series(1, 10)');
	my $lasted = time - $started;
	# The keeper may have come between.
	return if $sealed < 20_000;
	keep('audit.seal.keelson', unit => 'events/s', value => $sealed / $lasted);
	cost('sealing an event, µs (20 are 50,000 a second)', $lasted * 1e6 / $sealed);
});

# Many events of days gone by. Their transaction is older than any that was sealed, so the keeper leaves them alone.
sub store_events
{
	my $each = $stored / $days;
	keelson->sql(qq{
		select keelson.audit_seal();
		select keelson.audit_partitions_make(0, date_trunc('day', now()) - make_interval(days => 95 + d)) from generate_series(1, $days) as d});
	for my $day (1 .. $days)
	{
		keelson->sql(qq{
			set synchronous_commit = off;
			insert into keelson.audit_events (user_id, id, era, xid, event_type, outcome, actor, data, personal, address_hash)
			select u.ids[1 + n % cardinality(u.ids)],
				overlay(keelson._uuid7_floor(day.at + make_interval(secs => n * 86400.0 / $each))::text placing
					'7' || lpad(to_hex(n % 4096), 3, '0') || '-8' || lpad(to_hex(n % 4096), 3, '0') || '-' || lpad(to_hex(n), 12, '0') from 15)::uuid,
				1, '3', 'bench.use', 'success', 'user', '{"feature": "speech"}', sha256('x') || sha256('y'), decode(md5('z'), 'hex')
			from (select date_trunc('day', now(), 'UTC') - make_interval(days => 95 + $day) as at) as day,
				(select array_agg(id) as ids from keelson.users) as u,
				generate_series(0, $each - 1) as n});
	}
	# What the load leaves to do is not part of what is measured.
	keelson->sql("vacuum (analyze) keelson.$_") for split /\n/, keelson->sql(qq{
		select name from keelson.audit_partitions where until_at < now() - interval '90 days' order by 1});
	keelson->sql('select keelson._audit_partitions_index(), keelson._audit_partitions_index()');
	keelson->sql('checkpoint');
	return;
}

# Milliseconds of a look for an address from which there was nothing, in all days.
sub find_ms
{
	return split /\n/, keelson->sql(q{
		set search_path = pg_catalog, pg_temp;
		create temporary table found (ms float8);
		do $$
		declare
			started timestamptz;
			page record;
		begin
			for turn in 1 .. 5 loop
				started := clock_timestamp();
				page := keelson._audit_search('{"ip": "192.0.2.99"}', 100, null);
				insert into found values (extract(epoch from clock_timestamp() - started) * 1000);
			end loop;
		end
		$$;
		select ms from found});
}

# Milliseconds of dropping a table that holds what a day does.
sub drop_ms
{
	my $day = keelson->sql("select name from keelson.audit_partitions where from_at = date_trunc('day', now(), 'UTC') - make_interval(days => 95 + $days)");
	keelson->sql("create table bench.day (like keelson.$day including indexes); insert into bench.day select * from keelson.$day; checkpoint");
	return keelson->sql(q{
		create temporary table dropped (ms float8);
		do $$
		declare
			started timestamptz := clock_timestamp();
		begin
			drop table bench.day;
			commit;
			insert into dropped values (extract(epoch from clock_timestamp() - started) * 1000);
		end
		$$;
		select ms from dropped});
}

# Leaves every second day's files to the disk alone, as those of a day of three months ago are: the kernel then has no pages
# of them to give back.
sub evict_days
{
	for my $day (grep { $_ % 2 == 0 } 1 .. $days)
	{
		my @files = split /\n/, keelson->sql(qq{
			select pg_relation_filepath(c.oid)
			from keelson.audit_partitions as p
			cross join lateral (select to_regclass('keelson.' || p.name) as day) as d
			join pg_class as c on c.oid = d.day or c.oid in (select indexrelid from pg_index where indrelid = d.day)
			where p.from_at = date_trunc('day', now(), 'UTC') - make_interval(days => 95 + $day)});
		system('dd', "if=$_", 'iflag=nocache', 'count=0', 'status=none') for map { keelson->node->data_dir . "/$_" } @files;
	}
	return;
}

# Milliseconds of each day that is due and dropped, one after the other in one session, as the keeper does it, and how many
# of them others cannot write in: the files go when the locks have gone. The first one plans the statements and does not
# count.
sub expire_days
{
	my ($first, @days) = split /\n/, keelson->sql(qq{
		set search_path = pg_catalog, pg_temp;
		create temporary table expired (day integer, ms float8, locked_ms float8);
		do \$\$
		declare
			started timestamptz;
			taken timestamptz;
		begin
			for day in reverse $days .. 1 loop
				started := clock_timestamp();
				perform keelson.audit_expire(moment => date_trunc('day', now(), 'UTC') - make_interval(days => 95 + day) + interval '91 days 1 hour');
				taken := clock_timestamp();
				commit;
				insert into expired values (day, extract(epoch from clock_timestamp() - started) * 1000, extract(epoch from taken - started) * 1000);
				commit;
			end loop;
		end
		\$\$;
		select day, ms, locked_ms from expired order by day desc});
	return map { [ split /\|/ ] } @days;
}

measure_once('audit with many stored', sub {
	return unless wanted('audit');
	my @before = map { +{ event_us() } } 1 .. 5;
	store_events();
	my @after = map { +{ event_us() } } 1 .. 5;
	cost('finding an address among 10 million events, ms', $_) for find_ms();
	my $drop = drop_ms();
	keep("audit.$stored.keelson", unit => 'us', value => $_->{event}) for @after;
	# Each over the insert beside it: the machine is not the same before and after.
	my ($with_none, $with_many) = map { my $measured = $_; median(map { $_->{event} / $_->{plain} } @$measured) } \@before, \@after;
	cost('an audit event with 10 million stored over one with none', $with_many / $with_none);
	evict_days();
	for my $expired (expire_days())
	{
		my ($day, $ms, $locked_ms) = @$expired;
		cost('expiry of a day, while others cannot write, ms', $locked_ms);
		if ($day % 2 == 0)
		{
			keep('audit.expire.keelson', unit => 'ms', value => $ms);
			cost('expiry of a day of a million events, ms', $ms);
		}
		else
		{
			keep('audit.expire-cached.keelson', unit => 'ms', value => $ms);
			cost('expiry of a day that was just written, ms', $ms);
			cost('expiry of a day over dropping a table of as many rows', $ms / $drop);
		}
	}
});

1;
