# Metering: batches with keys against a plain bulk insert, single events against a plain insert of the same row, folding
# beside writers, analytics.

use strict;
use warnings;
use Time::HiRes qw(time);

use Bench;
use Bench::System;

my $events_at_most = $ENV{BENCH_USAGE_EVENTS} || 10_000_000;
my $clients = 16;

aim_ratio('usage.1' => [ .90, .90 ], 'usage.fold.writers' => [ .90, .90 ]);
aim_cpu(
	'a usage event in a batch with keys, µs'            => [ 10, 11.1 ],
	'analytics of a user, CPU µs'                       => [ 80, 88.9 ]);
aim_cost(
	'a usage event in a batch over a plain bulk insert' => [ 3.8, 4.3 ],
	'folding 100,000 usage events, s'                   => [ 2,  2 ],
	'analytics at many events over those at 10,000, %'  => [ 10, 10 ]);

# Batches of 1,000 events with keys, of all people, in one backend: microseconds an event.
sub batch_us
{
	return keelson->sql(q{
		set synchronous_commit = off;
		create temporary table timed (us float8);
		do $$
		declare
			everybody uuid[] := array(select id from keelson.users where kind = 'person');
			events keelson.usage_event[];
			started timestamptz;
			taken interval := '0';
		begin
			for turn in 1 .. 60 loop
				events := array(
					select row(everybody[1 + n % cardinality(everybody)], 'speech', n * 0.25, null, null, keelson.uuid7()::text)::keelson.usage_event
					from generate_series(1, 1000) as n);
				started := clock_timestamp();
				perform keelson.usage_record(events => events);
				commit;
				if turn > 10 then
					taken := taken + (clock_timestamp() - started);
				end if;
			end loop;
			insert into timed values (extract(epoch from taken) * 1e6 / 50000);
		end
		$$;
		select us from timed});
}

# The same rows into a table that has its primary key and nothing else: microseconds a row.
sub bulk_us
{
	return keelson->sql(q{
		set synchronous_commit = off;
		drop table if exists bench.usage_rows;
		create table bench.usage_rows (user_id uuid, id uuid, era integer, xid xid8, feature text, minutes numeric,
			requests integer, occurred_at timestamptz, primary key (user_id, id));
		create temporary table timed (us float8);
		do $$
		declare
			person uuid := (select id from keelson.users where kind = 'person' limit 1);
			started timestamptz;
			taken interval := '0';
		begin
			for turn in 1 .. 60 loop
				started := clock_timestamp();
				insert into bench.usage_rows
				select person, keelson.uuid7(), 1, pg_current_xact_id(), 'speech', n * 0.25, 1, now() from generate_series(1, 1000) as n;
				commit;
				if turn > 10 then
					taken := taken + (clock_timestamp() - started);
				end if;
			end loop;
			insert into timed values (extract(epoch from taken) * 1e6 / 50000);
		end
		$$;
		select us from timed});
}

# Transactions a second of pgbench with a script.
sub pgbench_tps
{
	my ($name, $script, $for) = @_;
	my $node = keelson->node;
	write_lines(work_folder() . "/$name.sql", $script);
	my $said = qx{pgbench -n -M prepared -c $clients -j 2 -T $for -f '@{[ work_folder() ]}/$name.sql' -h '@{[ $node->host ]}' -p @{[ $node->port ]} keelson 2>&1};
	$said =~ /^tps = ([0-9.]+)/m or die "pgbench said $said";
	return $1;
}

sub one_by_record { my ($id) = @_; return "select keelson.usage_record('$id', 'speech', 1.5);" }
sub one_by_insert { my ($id) = @_; return "insert into keelson.usage_events (user_id, id, era, xid, feature, minutes, requests, occurred_at) values ('$id', keelson.uuid7(), 1, pg_current_xact_id(), 'speech', 1.5, 1, now());" }

sub settle
{
	keelson->sql(q{do $$ begin
		while keelson.usage_fold(100000) > 0 loop commit; end loop;
	end $$});
	return;
}

# Seconds in which 100,000 events of all people are folded.
sub fold_seconds
{
	settle();
	keelson->sql(q{
		do $$ declare everybody uuid[] := array(select id from keelson.users where kind = 'person'); begin
			for turn in 1 .. 100 loop
				perform keelson.usage_record(events => array(
					select row(everybody[1 + n % cardinality(everybody)], 'speech', n * 0.25, null, null, null)::keelson.usage_event
					from generate_series(1, 1000) as n));
			end loop;
		end $$});
	my $started = time;
	settle();
	return time - $started;
}

my $is_record_first;

measure('usage', sub {
	return unless wanted('usage');
	my $id = (people)[0]{id};
	my $us = batch_us();
	keep('usage.batch.keelson', unit => 'us', value => $us);
	cost('a usage event in a batch with keys, µs', $us);
	my $bulk = bulk_us();
	keep('usage.batch.plain', unit => 'us', value => $bulk);
	cost('a usage event in a batch over a plain bulk insert', $us / $bulk);
	# Each other round the other way round, and what one has left to fold is not folded while the other is measured.
	$is_record_first = !$is_record_first;
	my %tps;
	for my $name ($is_record_first ? qw(record plain) : qw(plain record))
	{
		settle();
		$tps{$name} = pgbench_tps($name, $name eq 'plain' ? one_by_insert($id) : one_by_record($id), $Bench::System::seconds);
	}
	my ($plain, $recorded) = @tps{qw(plain record)};
	keep('usage.1.pgbench', unit => 'events/s', value => $plain);
	keep('usage.1.keelson', unit => 'events/s', value => $recorded, ratio => $recorded / $plain, ratio_to => 'usage.1.pgbench');
	my $seconds = fold_seconds();
	keep('usage.fold.keelson', unit => 's', value => $seconds);
	cost('folding 100,000 usage events, s', $seconds);
});

# Writers with the keeper folding, as always, and with folding held off by the lock of whoever writes rollups.
sub writers_tps
{
	my ($is_folding) = @_;
	my $holder;
	if (!$is_folding)
	{
		$holder = keelson->node->background_psql('keelson');
		$holder->query_safe("select pg_advisory_lock(x'4b656c736f6e5531'::bigint)");
	}
	my $tps = pgbench_tps('writers', one_by_record((people)[1]{id}), $Bench::System::seconds);
	$holder->quit if $holder;
	settle() unless $is_folding;
	return $tps;
}

my $is_folding_first;

measure('usage.fold', sub {
	return unless wanted('usage');
	# Each other round the other way round: what comes second finds more in the tables.
	$is_folding_first = !$is_folding_first;
	my %tps = map { $_ => writers_tps($_) } $is_folding_first ? (1, 0) : (0, 1);
	my ($without, $with) = @tps{ 0, 1 };
	keep('usage.fold.writers.pgbench', unit => 'events/s', value => $without);
	keep('usage.fold.writers.keelson', unit => 'events/s', value => $with, ratio => $with / $without, ratio_to => 'usage.fold.writers.pgbench');
});

# CPU microseconds of the server for one call of analytics, through the dispatcher, in one session.
sub analytics_us
{
	my ($user) = @_;
	my $route = route('GET user/analytics');
	return keelson->sql(qq{
		create temporary table timed (us float8);
		do \$\$
		declare
			cpu constant text := 'select split_part(pg_read_file(''/proc/self/schedstat''), '' '', 1)::float8 / 1000';
			before float8;
			after float8;
		begin
			for turn in 1 .. 2 loop
				execute cpu into before;
				for n in 1 .. 3000 loop
					perform keelson.dispatch($route, '$user->{token}', null, null, '{"ip": "192.0.2.1", "via": "bearer"}');
				end loop;
				execute cpu into after;
			end loop;
			insert into timed values ((after - before) / 3000);
		end
		\$\$;
		select us from timed});
}

# Events of a user over the last 30 days, as many as there are to be in all.
sub grow_to
{
	my ($user, $wanted) = @_;
	keelson->sql(qq{
		set synchronous_commit = off;
		do \$\$
		declare
			present bigint := (select count(*) from keelson.usage_events where user_id = '$user->{id}');
		begin
			while present < $wanted loop
				perform keelson.usage_record(events => array(
					select row('$user->{id}', (array['speech', 'clone', 'video'])[1 + n % 3], 0.25, null, now() - (n + random()) * interval '43 minutes', null)::keelson.usage_event
					from generate_series(1, 1000) as n));
				commit;
				present := present + 1000;
			end loop;
		end
		\$\$}, timeout => 3600);
	settle();
	keelson->sql('vacuum analyze keelson.usage_days; vacuum analyze keelson.usage_totals; vacuum analyze keelson.usage_quarters; vacuum keelson.usage_watermark');
	return;
}

measure_once('analytics', sub {
	return unless wanted('analytics');
	sign_in();
	my $user = (people)[2];
	my %us;
	for my $events (10_000, $events_at_most)
	{
		grow_to($user, $events);
		my @all = sort { $a <=> $b } map { analytics_us($user) } 1 .. 5;
		$us{$events} = $all[2];
		keep("analytics.$events.keelson", unit => 'us', value => $us{$events}, cpu_us => $us{$events});
	}
	cost('analytics of a user, CPU µs', $us{$events_at_most});
	cost('analytics at many events over those at 10,000, %', 100 * ($us{$events_at_most} / $us{10_000} - 1));
});

1;
