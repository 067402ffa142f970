# Deliveries: how many a courier sends, signed and logged, to a receiver that answers at once and to one that takes
# 50 ms, beside libcurl alone (bench/post_alone.c) with the same receiver (bench/sink.c); from commit to the first byte;
# what an event adds to its transaction; claims with few and with millions due, and under an old snapshot; neighbours of
# a user whose endpoints hang; memory.

use strict;
use warnings;
use IO::Socket::INET;
use Time::HiRes qw(sleep time);

use Bench;
use Bench::System;

my $at_once = 64;
my $due = $ENV{BENCH_DUE} || 5_000_000;
my $million = $ENV{BENCH_DELIVERIES} || 1_000_000;

aim_ratio('deliveries.0' => [ .385, .257 ], 'deliveries.50' => [ 1.0, .9 ]);
aim_cost(
	'CPU of a delivery over that of libcurl alone'                   => [ 2.05, 2.77 ],
	'commit to first byte on an idle system, p50 ms'                 => [ 5,    5 ],
	'claiming 100 deliveries, ms'                                    => [ 2.4,  2.7 ],
	'claiming 100 deliveries with millions due, ms'                  => [ 2.4,  2.7 ],
	'claiming 100 deliveries under an old snapshot, ms'              => [ 2.4,  2.7 ],
	'p99 beside 200 endpoints that hang over p99 without, %'         => [ 10,   10 ],
	'courier memory after a million deliveries over that before, %'  => [ 5,    5 ]);

aim_cpu('an event with one delivery in its transaction, µs' => [ 60, 60 ]);

my ($sink, $sink_port);
my $receiver;    # the user whose endpoint the deliveries of the benchmark go to
my %endpoints;   # path → endpoint

sub sink
{
	return if $sink;
	$sink_port = PostgreSQL::Test::Cluster::get_free_port();
	($sink) = start_command("$FindBin::Bin/sink", $sink_port);
	KeelsonTest::wait_until(sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $sink_port) }) or die "the sink did not start\n";
	return;
}

END { kill 'TERM', $sink if $sink; }

sub ask_sink
{
	my ($path) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $sink_port) or die "sink: $!";
	print $socket "GET $path HTTP/1.1\r\n\r\n";
	my $said = '';
	sysread $socket, $said, 4096, length $said while $said !~ /\r\n\r\n.*\n/;
	return $said =~ /\r\n\r\n(.*)\n/;
}

# What has come since the last time: count, first, last, p50, p99.
sub figures { my ($said) = ask_sink('/figures'); return $said =~ /(\w+)=([\d.]+)/g; }

sub endpoint
{
	my ($path) = @_;
	sink();
	$receiver ||= (people)[3];
	keelson->sql(q{select keelson.webhook_event_type(n, 'Something.', '{"n": 1}') from unnest('{bench.happened,bench.none}'::text[]) as n});
	return $endpoints{$path} ||= make_endpoint($receiver, $path, 'bench.none');
}

sub make_endpoint
{
	my ($person, $path, $type) = @_;
	my (undef, $id) = split /\n/, keelson->sql(qq{
		begin;
		select keelson.act_as('$person->{email}');
		select (keelson.webhook_create(url => 'http://127.0.0.1:$sink_port$path', events => array['$type'])).id;
		commit;});
	return $id;
}

# So many deliveries to the endpoint that are due and held back; all of one event of 250 bytes.
sub store
{
	my ($endpoint, $count) = @_;
	keelson->sql("select keelson.courier_breaker_set('$endpoint', 'forced_open')");
	my $event = keelson->sql(qq{
		insert into keelson.webhook_events (user_id, id, event_type, endpoint_ids, body)
		values ('$receiver->{id}', keelson.uuid7(), 'bench.happened', '{$endpoint}',
			'{"type":"bench.happened","timestamp":"2026-01-01T00:00:00Z","data":{"text":"' || repeat('x', 171) || '"}}')
		returning id});
	for (my $left = $count; $left > 0; $left -= 500_000)
	{
		my $part = $left < 500_000 ? $left : 500_000;
		keelson->sql(qq{
			set synchronous_commit = off;
			insert into keelson.deliveries (user_id, id, lane, kind, ref, due_at)
			select '$receiver->{id}', keelson.uuid7(), '$endpoint', 'webhook', '$event', clock_timestamp() from generate_series(1, $part)}, timeout => 600);
	}
	keelson->sql('vacuum analyze keelson.deliveries; checkpoint', timeout => 600);
	return;
}

# Lets them go; when so many have come (all, or the first so many) what the sink has seen and what was spent on it.
sub deliver
{
	my ($endpoint, $count) = @_;
	figures();
	my @before = (server_cpu() + process_cpu($sink), claims());
	keelson->sql("select keelson.courier_breaker_set('$endpoint', 'closed')");
	KeelsonTest::wait_until(sub { (ask_sink('/count'))[0] >= $count }, 600) or die "deliveries do not end\n";
	my @after = (server_cpu() + process_cpu($sink), claims());
	my %got = figures();
	return (rate => $got{count} / ($got{last} - $got{first}), cpu_us => ($after[0] - $before[0]) * 1e6 / $got{count},
		claim_ms => ($after[2] - $before[2]) / ($after[1] - $before[1]) / 10);
}

sub claims { return split /\|/, keelson->sql('select claimed, claim_us from keelson._courier_status()'); }

sub remaining { my ($endpoint) = @_; return keelson->sql("select count(*) from (select from keelson.deliveries where lane = '$endpoint' limit 1) as d"); }

# libcurl alone: requests a second, and CPU time of it and the receiver.
sub alone
{
	my ($path, $count) = @_;
	my $before = process_cpu($sink);
	my ($pid, $said) = start_command("$FindBin::Bin/post-alone", "http://127.0.0.1:$sink_port$path", $count, $at_once, 250);
	my $line = join '', <$said>;
	waitpid $pid, 0;
	my %got = $line =~ /(\w+)=([\d.]+)/g;
	$got{seconds} or die "post-alone: $line";
	return (rate => $count / $got{seconds}, cpu_us => ($got{cpu} + process_cpu($sink) - $before) * 1e6 / $count);
}

sub run_deliveries
{
	my ($ms, $count) = @_;
	return unless wanted("deliveries.$ms");
	my $path = $ms ? "/after/$ms" : '/now';
	my $endpoint = endpoint($path);
	my %alone = alone($path, $count);
	store($endpoint, $count);
	my %got = deliver($endpoint, $count);
	keep("deliveries.$ms.libcurl", unit => 'deliveries/s', value => $alone{rate}, cpu_us => $alone{cpu_us});
	keep("deliveries.$ms.keelson", unit => 'deliveries/s', value => $got{rate}, cpu_us => $got{cpu_us},
		ratio => $got{rate} / $alone{rate}, ratio_to => "deliveries.$ms.libcurl");
	return if $ms;
	cost('CPU of a delivery over that of libcurl alone', $got{cpu_us} / $alone{cpu_us});
	cost('claiming 100 deliveries, ms', $got{claim_ms});
	return;
}

measure('deliveries', sub {
	run_deliveries(0, 20_000);
	run_deliveries(50, 6_000);
});

# One event after the other, each once the one before has come: from before the commit to the first byte.
measure('wake', sub {
	return unless wanted('wake');
	my $endpoint = endpoint('/now');
	keelson->sql("update keelson.webhook_endpoints set events = '{bench.happened}' where id = '$endpoint'");
	figures();
	keelson->sql(qq{
		do \$\$
		begin
			for n in 1 .. 100 loop
				perform keelson.webhook_emit('bench.happened', jsonb_build_object('at', (extract(epoch from clock_timestamp()) * 1000000)::bigint), '$receiver->{id}');
				commit;
				perform pg_sleep(0.01);
			end loop;
		end
		\$\$});
	KeelsonTest::wait_until(sub { !remaining($endpoint) }, 30) or die "deliveries do not end\n";
	my %got = figures();
	keelson->sql("update keelson.webhook_endpoints set events = '{bench.none}' where id = '$endpoint'");
	keep('wake.1.keelson', unit => 'us', value => $got{p50}, p50_ms => $got{p50} / 1000, p99_ms => $got{p99} / 1000);
	cost('commit to first byte on an idle system, p50 ms', $got{p50} / 1000);
});

# What an event adds to a transaction that writes a row: its body, its delivery, the hint.
measure('enqueue', sub {
	return unless wanted('enqueue');
	my $endpoint = endpoint('/now');
	keelson->sql("select keelson.courier_breaker_set('$endpoint', 'forced_open'); update keelson.webhook_endpoints set events = '{bench.happened}' where id = '$endpoint'");
	my $emit = qq{perform keelson.webhook_emit('bench.happened', '{"text": "0123456789"}', '$receiver->{id}')};
	my $turn = join '', map { qq{started := clock_timestamp();
		for n in 1 .. 500 loop insert into bench.enqueued values (n); $_->[1]; commit; end loop;
		insert into timed values ($_->[0], extract(epoch from clock_timestamp() - started) * 1e6 / 500); commit; } } [ 0, 'null' ], [ 1, $emit ];
	my ($without, $with) = split /\n/, keelson->sql(qq{
		set synchronous_commit = off;
		create table if not exists bench.enqueued (n integer);
		truncate bench.enqueued;
		create temporary table timed (which integer, us float8);
		do \$\$ declare started timestamptz; begin for turn in 1 .. 10 loop $turn end loop; end \$\$;
		select percentile_cont(0.5) within group (order by us) from timed group by which order by which});
	keelson->sql("update keelson.webhook_endpoints set events = '{bench.none}' where id = '$endpoint'; select keelson.courier_breaker_set('$endpoint', 'closed')");
	KeelsonTest::wait_until(sub { !remaining($endpoint) }, 60);
	keep('enqueue.1.keelson', unit => 'us', value => $with - $without);
	cost('an event with one delivery in its transaction, µs', $with - $without);
});

# Claims while somebody holds a snapshot, so that nothing that was delivered can be cleared away.
measure_once('claims under a snapshot', sub {
	return unless wanted('claims');
	my $endpoint = endpoint('/now');
	my $holder = keelson->node->background_psql('keelson');
	$holder->query_safe('begin isolation level repeatable read; select 1');
	my %got;
	for (1 .. 3) { store($endpoint, 100_000); %got = deliver($endpoint, 100_000); }
	$holder->query_safe('commit');
	$holder->quit;
	keep('claims.snapshot.keelson', unit => 'deliveries/s', value => $got{rate}, cpu_us => $got{cpu_us});
	cost('claiming 100 deliveries under an old snapshot, ms', $got{claim_ms});
});

# What is the process's own, without the buffers that it shares.
sub private_kib { return KeelsonTest::slurp("/proc/$_[0]/status") =~ /^RssAnon:\s+(\d+)/m ? $1 : 0; }

sub courier_pid { return keelson->sql("select pid from pg_stat_activity where backend_type = 'keelson courier'"); }

# A million deliveries out of many more that are due: what the courier's memory does, and what claims cost then.
measure_once('claims with millions due', sub {
	return unless wanted('claims');
	my $endpoint = endpoint('/now');
	store($endpoint, 20_000);
	deliver($endpoint, 20_000);
	my $before = private_kib(courier_pid());
	store($endpoint, $due);
	my %got = deliver($endpoint, $million);
	my $after = private_kib(courier_pid());
	keelson->sql('truncate keelson.deliveries', timeout => 600);
	keep("claims.$due.keelson", unit => 'deliveries/s', value => $got{rate}, cpu_us => $got{cpu_us});
	keep("memory.$million.keelson", unit => 'KiB', value => $after);
	cost('claiming 100 deliveries with millions due, ms', $got{claim_ms});
	cost('courier memory after a million deliveries over that before, %', 100 * ($after / $before - 1));
});

# p99 of the deliveries of many users at an easy pace, with and without one whose 200 endpoints never answer.
sub neighbours_p99
{
	my ($neighbours) = @_;
	figures();
	keelson->sql(qq{
		do \$\$
		declare
			everybody uuid[] := '{@{[ join ',', @$neighbours ]}}';
		begin
			for n in 1 .. 3000 loop
				perform keelson.webhook_emit('bench.happened', jsonb_build_object('at', (extract(epoch from clock_timestamp()) * 1000000)::bigint),
					everybody[1 + n % cardinality(everybody)]);
				commit;
				perform pg_sleep(0.001);
			end loop;
		end
		\$\$});
	KeelsonTest::wait_until(sub { my $left = keelson->sql("select count(*) from keelson.deliveries where user_id = any ('{@{[ join ',', @$neighbours ]}}')"); $left == 0 }, 60);
	my %got = figures();
	$got{count} == 3000 or die "$got{count} deliveries of 3000 came\n";
	return \%got;
}

measure_once('neighbours', sub {
	return unless wanted('neighbours');
	sink();
	my @neighbours = map { $_->{id} } (people)[ 10 .. 29 ];
	my $hanging = (people)[4]{id};
	keelson->sql(qq{select keelson.webhook_event_type('bench.happened', 'Something.', '{"n": 1}')});
	keelson->sql(q{
		create or replace function bench.hung(context jsonb, status int, body text, error text, cache_control text, is_last bool)
		returns void language sql as '';
		grant usage on schema bench to keelson_system});
	make_endpoint($_, '/now', 'bench.happened') for (people)[ 10 .. 29 ];
	my (@without, @with);
	neighbours_p99(\@neighbours);
	for my $round (1 .. 3)
	{
		my $quiet = neighbours_p99(\@neighbours);
		keelson->sql(qq{
			select count(keelson._http_request('bench', 'http://127.0.0.1:$sink_port/never/' || lane, 'bench.hung',
				lane => md5('bench ' || lane)::uuid, timeout => '20 seconds', user_id => '$hanging'))
			from generate_series(1, 200) as lane, generate_series(1, 10) as n});
		KeelsonTest::wait_until(sub { keelson->sql('select in_flight from keelson._courier_status()') >= 100 }, 10) or die "nothing hangs\n";
		my $loud = neighbours_p99(\@neighbours);
		keelson->sql(qq{delete from keelson.http_requests where user_id = '$hanging'; delete from keelson.deliveries where user_id = '$hanging'});
		KeelsonTest::wait_until(sub { keelson->sql('select in_flight from keelson._courier_status()') == 0 }, 60);
		push @without, $quiet->{p99};
		push @with,    $loud->{p99};
		keep('neighbours.0.keelson',   unit => 'us', value => $quiet->{p99}, p50_ms => $quiet->{p50} / 1000, p99_ms => $quiet->{p99} / 1000);
		keep('neighbours.200.keelson', unit => 'us', value => $loud->{p99},  p50_ms => $loud->{p50} / 1000,  p99_ms => $loud->{p99} / 1000);
	}
	cost('p99 beside 200 endpoints that hang over p99 without, %', 100 * (median(@with) / median(@without) - 1));
});

1;
