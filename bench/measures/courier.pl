# Deliveries: how many a courier sends, signed and logged, to a receiver that answers at once and to one that takes
# 50 ms, beside libcurl alone (bench/post_alone.c) with the same receiver (bench/sink.c); from commit to the first byte;
# what an event adds to its transaction; claims with few and with millions due, and under an old snapshot; neighbours of
# a user whose endpoints hang; memory.

use strict;
use warnings;

use Bench;
use Bench::Courier;
use Bench::System;

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

sub remaining { my ($endpoint) = @_; return keelson->sql("select count(*) from (select from keelson.deliveries where lane = '$endpoint' limit 1) as d"); }

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
				perform keelson.webhook_emit('bench.happened', jsonb_build_object('at', (extract(epoch from clock_timestamp()) * 1000000)::bigint), '@{[ receiver->{id} ]}');
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
	my $emit = qq{perform keelson.webhook_emit('bench.happened', '{"text": "0123456789"}', '@{[ receiver->{id} ]}')};
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
	KeelsonTest::wait_until(sub { !remaining($endpoint) }, 60) or die "deliveries do not end\n";
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
			select count(keelson._http_request('bench', 'http://127.0.0.1:@{[ sink_port ]}/never/' || lane, 'bench.hung',
				lane => md5('bench ' || lane)::uuid, timeout => '20 seconds', user_id => '$hanging'))
			from generate_series(1, 200) as lane, generate_series(1, 10) as n});
		KeelsonTest::wait_until(sub { keelson->sql('select in_flight from keelson._courier_status()') >= 100 }, 10) or die "nothing hangs\n";
		my $loud = neighbours_p99(\@neighbours);
		keelson->sql(qq{delete from keelson.http_requests where user_id = '$hanging'; delete from keelson.deliveries where user_id = '$hanging'});
		KeelsonTest::wait_until(sub { keelson->sql('select in_flight from keelson._courier_status()') == 0 }, 60) or die "what hangs does not end\n";
		push @without, $quiet->{p99};
		push @with,    $loud->{p99};
		keep('neighbours.0.keelson',   unit => 'us', value => $quiet->{p99}, p50_ms => $quiet->{p50} / 1000, p99_ms => $quiet->{p99} / 1000);
		keep('neighbours.200.keelson', unit => 'us', value => $loud->{p99},  p50_ms => $loud->{p50} / 1000,  p99_ms => $loud->{p99} / 1000);
	}
	cost('p99 beside 200 endpoints that hang over p99 without, %', 100 * (median(@with) / median(@without) - 1));
});

1;
