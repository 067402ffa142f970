# Metering over HTTP, and held against a slow exact model: random events, duplicates, refusals and roll-backs from a fixed
# seed, with backends, the keeper and the server killed in the middle.

use strict;
use warnings;

use KeelsonTest;
use Test::More;
use POSIX ();
use Time::HiRes qw(sleep);

my $keelson = KeelsonTest->new('usage', conf => "log_checkpoints = off\njit = off");
my $gateway = $keelson->gateway;
my $user    = $keelson->user($gateway);
my $other   = $keelson->user($gateway);
my $key     = $keelson->sql("select (keelson.access_key_create('$user->{email}', 'Meter', '{usage.write}')).key");

sub post    { return $gateway->post('/api/usage', $_[0], token => $_[1] || $key); }
sub faults  { return join ' ', map { "$_->{field}:$_->{code}" } @{ $_[0]{json}{details} || [] } }
sub all_time { return $gateway->get('/api/user/analytics', token => $_[0]{token})->{json}{data}{allTime} }

# All that is committed is folded.
sub settle
{
	return wait_until(sub {
		my ($status, $answer) = $keelson->try_sql(q{select keelson.usage_fold() = 0 and not exists (
			select from keelson.usage_events as e, keelson.usage_watermark as w where (e.era, e.xid, e.id) > (w.era, w.xid, w.event_id))});
		$status == 0 && $answer eq 't';
	}, 30);
}

subtest 'recording over HTTP' => sub {
	my $reply = post({ feature => 'speech', minutes => 2.5, key => 'call-1' });
	is($reply->{status}, 202, 'an event is taken') or diag $reply->{content};
	is_deeply($reply->{json}{data}, { accepted => 1, duplicates => 0 }, 'and counted');
	is_deeply(post({ feature => 'speech', minutes => 2.5, key => 'call-1' })->{json}{data}, { accepted => 0, duplicates => 1 }, 'once');
	$reply = post({ feature => 'speech', minutes => 3, key => 'call-1' });
	is("$reply->{status} $reply->{json}{code}", '409 IDEMPOTENCY_CONFLICT', 'the key for something else is refused');
	is_deeply(post({ events => [ map { { userId => $user->{id}, feature => 'clone', minutes => $_ / 8, key => "e$_" } } 1 .. 1000 ] })->{json}{data},
		{ accepted => 1000, duplicates => 0 }, 'a thousand at once');
	is_deeply(all_time($user), { totalMinutes => 62565, totalRequests => 1001 }, 'and the user sees it at once');
	is_deeply(all_time($other), { totalMinutes => 0, totalRequests => 0 }, 'nobody else does');
};

subtest 'refused, and nothing recorded' => sub {
	my $before = all_time($user)->{totalRequests};
	my $reply  = post({ events => [
		{ feature => 'speech', minutes => 1, key => 'good' }, { feature => 'speech', minutes => 0 }, { feature => 'Bad', minutes => -1, requests => 0 },
		{ feature => 'speech', minutes => 1, occurredAt => '2001-01-01T00:00:00Z' }, { feature => 'speech', minutes => 1, occurredAt => '2999-01-01T00:00:00Z' }, {} ] });
	is($reply->{status}, 400, 'half a batch is not good') or diag $reply->{content};
	is(faults($reply), 'events[1].minutes:OUT_OF_RANGE events[2].feature:INVALID_VALUE events[2].minutes:OUT_OF_RANGE events[2].requests:OUT_OF_RANGE '
		. 'events[3].occurredAt:TOO_LATE events[4].occurredAt:TOO_EARLY events[5].feature:REQUIRED events[5].minutes:REQUIRED', 'every fault is named');
	$reply = post({ events => [ map { { feature => 'speech', minutes => 0 } } 1 .. 1000 ] });
	is(@{ $reply->{json}{details} }, 1000, 'be they a thousand');
	is(faults(post({ events => [ map { { feature => 'speech', minutes => 1 } } 1 .. 1001 ] })), 'events:OUT_OF_RANGE', 'a thousand and one are too many');
	is(faults(post({ events => [] })), 'events:OUT_OF_RANGE', 'none too few');
	is(faults(post({ feature => 'speech', minutes => 'much' })), 'minutes:INVALID_TYPE', 'what is no number');
	is(post({ feature => 'speech', minutes => 1e300 })->{status}, 400, 'what is too much');
	is(post({ userId => $other->{id}, feature => 'speech', minutes => 1 })->{status}, 403, 'for somebody else');
	is(post({ userId => '01930000-0000-7000-8000-000000000000', feature => 'speech', minutes => 1 })->{status}, 403, 'for nobody');
	is(post({ feature => 'speech', minutes => 1 }, $user->{token})->{status}, 403, 'without the scope');
	is($gateway->post('/api/usage', { feature => 'speech', minutes => 1 })->{status}, 401, 'by nobody');
	is(all_time($user)->{totalRequests}, $before, 'nothing of it is there');
	is_deeply(post({ feature => 'speech', minutes => 1, key => 'good' })->{json}{data}, { accepted => 1, duplicates => 0 }, 'nor is the good one\'s key');
};

subtest 'what the user sees' => sub {
	my $data = $gateway->get('/api/user/analytics', token => $user->{token})->{json}{data};
	is_deeply([ sort keys %$data ], [qw(allTime currentPeriod featureBreakdown timeline)], 'all of it');
	is_deeply([ sort keys %{ $data->{currentPeriod} } ], [qw(minutesLimit minutesRemaining minutesUsed percentUsed periodEnd tier)], 'the period');
	is_deeply([ map { $_->{feature} } @{ $data->{featureBreakdown} } ], [qw(clone speech)], 'features, the most used first');
	is_deeply($data->{featureBreakdown}[1], { feature => 'speech', totalMinutes => 3.5, requestCount => 2, avgMinutesPerRequest => 1.75 }, 'as they are');
	is(@{ $data->{timeline} }, 30, 'thirty days');
	my $csv = $gateway->get('/api/user/usage/export', token => $user->{token});
	like($csv->{headers}{'content-type'}, qr{^text/csv}, 'CSV');
	my @lines = split /\r\n/, $csv->{content};
	is($lines[0], 'id,occurredAt,recordedAt,feature,minutes,requests', 'has a head');
	is(@lines, 1 + 1002, 'and a line for each event');
	is($gateway->get('/api/user/usage/export?since=2001-01-02&until=2001-01-01', token => $user->{token})->{status}, 400, 'from later to earlier is refused');
	my $forecast = $gateway->get('/api/user/usage/forecast', token => $user->{token})->{json}{data};
	cmp_ok($forecast->{predictedMinutes}, '>=', $forecast->{minutesUsed}, 'a forecast');
	is($forecast->{lowerMinutes}, undef, 'without an interval while little is known');
	is($gateway->get("/api/user/$_")->{status}, 401, "$_ is for who is signed in") for qw(analytics usage/export usage/forecast usage/stream);
};

# The model: minutes in millionths and requests by user and feature; what each key stands for.
my @people = map { $keelson->user($gateway) } 1 .. 4;
my @features = qw(speech clone video);
my (%model, %stands_for, $next_key);

sub random_event
{
	my $person = int rand @people;
	return {
		person => $person, feature => $features[ rand @features ], micros => 1 + int rand 5_000_000, requests => 1 + int rand 3,
		ago    => rand() < .5 ? undef : int rand 34 * 86400, key => rand() < .6 ? 'k' . ++$next_key : undef };
}

sub row
{
	my ($event) = @_;
	return sprintf q{row('%s', '%s', %s, %d, %s, %s)::keelson.usage_event}, $people[ $event->{person} ]{id}, $event->{feature},
		minutes($event->{micros}), $event->{requests}, defined $event->{at} ? "'$event->{at}'" : 'null', defined $event->{key} ? "'$event->{key}'" : 'null';
}

sub minutes { return sprintf '%d.%06d', int $_[0] / 1_000_000, $_[0] % 1_000_000; }

# What the model says of a batch: 'accepted|duplicates', or why it is refused; and it remembers.
sub expect
{
	my (@events) = @_;
	my (%seen, @new, $duplicates);
	for my $event (@events)
	{
		my $content = join '|', @$event{qw(feature micros requests)}, $event->{at} // '';
		if (defined $event->{key})
		{
			my $name  = "$event->{person}/$event->{key}";
			my $known = $seen{$name} // $stands_for{$name};
			return 'conflict' if defined $known && $known ne $content;
			if (defined $known) { $duplicates++; next; }
			$seen{$name} = $content;
		}
		push @new, $event;
	}
	return { answer => @new . '|' . ($duplicates // 0), seen => \%seen, new => \@new };
}

sub remember
{
	my ($expected) = @_;
	%stands_for = (%stands_for, %{ $expected->{seen} });
	for my $event (@{ $expected->{new} })
	{
		my $sum = $model{ $event->{person} }{ $event->{feature} } ||= { micros => 0, requests => 0 };
		$sum->{micros}   += $event->{micros};
		$sum->{requests} += $event->{requests};
	}
	return;
}

sub model_says
{
	my @lines;
	for my $person (sort keys %model)
	{
		for my $feature (sort keys %{ $model{$person} })
		{
			my $sum = $model{$person}{$feature};
			push @lines, join '|', $person, $feature, minutes($sum->{micros}), $sum->{requests};
		}
	}
	return join "\n", @lines;
}

my $numbers = join ', ', map { "($_, '$people[$_]{id}'::uuid)" } 0 .. $#people;

# The same as the tables say: by the events; by rollup and tail.
sub events_say
{
	return $keelson->sql("select n, feature, sum(minutes)::numeric(20, 6), sum(requests)
		from (values $numbers) as p (n, id) join keelson.usage_events as e on e.user_id = p.id group by 1, 2 order by 1, 2");
}

sub readers_say
{
	return $keelson->sql("select n, f, keelson._usage_minutes(id, f, '2000-01-01', '9999-01-01')::numeric(20, 6)
		from (values $numbers) as p (n, id), unnest('{speech,clone,video}'::text[]) as f
		where keelson._usage_minutes(id, f, '2000-01-01', '9999-01-01') > 0 order by 1, 2");
}

sub without_requests { return join "\n", map { s/\|[^|]*$//r } split /\n/, $_[0]; }

# Times as the server knows them, so that a repetition says the same.
sub date_events
{
	my (@events) = @_;
	for my $event (@events)
	{
		$event->{at} = defined $event->{ago} ? POSIX::strftime('%Y-%m-%d %H:%M:%SZ', gmtime(time - $event->{ago})) : undef;
	}
	return @events;
}

my @sent;

# One random step: the SQL and what must come of it.
sub step
{
	my @events;
	if (@sent && rand() < .25) { @events = @{ $sent[ rand @sent ] }; }
	else { @events = date_events(map { random_event() } 1 .. (rand() < .4 ? 1 : 1 + int rand 40)); }
	@events = map { { %$_ } } @events;
	$events[ rand @events ]{micros}++ if rand() < .1;
	push @events, { %{ $events[0] } } if rand() < .1;
	my $sql = 'select (r).accepted, (r).duplicates from keelson.usage_record(events => array[' . join(', ', map { row($_) } @events) . ']) as r';
	return ($sql, expect(@events), @events);
}

subtest 'random events against the model' => sub {
	srand 1815;
	my @wrong;
	for my $n (1 .. 60)
	{
		my ($sql, $expected, @events) = step();
		if (ref $expected && rand() < .1)
		{
			$keelson->sql("begin; $sql; rollback");
			next;
		}
		my ($status, $answer, $messages) = $keelson->try_sql($sql);
		if (ref $expected)
		{
			push @wrong, "$n: $answer $messages, not $expected->{answer}" unless $status == 0 && $answer eq $expected->{answer};
			remember($expected);
			push @sent, \@events;
		}
		else { push @wrong, "$n: $answer $messages, not a conflict" unless $status != 0 && $messages =~ /used for something else/; }
		next if $n % 20;
		push @wrong, "$n: events differ" if events_say() ne model_says();
		push @wrong, "$n: readers differ" if readers_say() ne without_requests(model_says());
	}
	is_deeply(\@wrong, [], 'each answer, and what is there after it, is the model\'s');
};

# Sends a step until it is settled, while somebody is killed.
sub survive
{
	my ($victim) = @_;
	my @events = date_events(map { random_event() } 1 .. 200);
	$_->{key} //= 'k' . ++$next_key for @events;
	my $expected = expect(@events);
	my $sql = 'select (r).accepted + (r).duplicates from keelson.usage_record(events => array[' . join(', ', map { row($_) } @events) . ']) as r';
	my $child = fork // die "fork: $!";
	if (!$child)
	{
		my $done = wait_until(sub { my ($status, $answer) = $keelson->try_sql($sql); $status == 0 && $answer == @events }, 30);
		POSIX::_exit($done ? 0 : 1);
	}
	sleep(rand(.06));
	$victim->();
	waitpid $child, 0;
	is($?, 0, 'a batch that is sent until it is answered is taken');
	remember($expected);
	return;
}

sub pid_of
{
	my ($condition) = @_;
	my ($status, $pid) = $keelson->try_sql("select pid from pg_stat_activity where $condition limit 1");
	return $status == 0 ? $pid : '';
}

subtest 'killed in the middle' => sub {
	my %victims = (
		'the keeper'  => sub { my $pid = pid_of("backend_type ~ 'keeper'"); !$pid || $keelson->kill_process($pid) },
		'a backend'   => sub { my $pid = pid_of("backend_type = 'client backend' and pid <> pg_backend_pid()"); !$pid || $keelson->kill_process($pid) },
		'the server'  => sub { $keelson->node->stop('immediate'); $keelson->node->start });
	for my $round (1 .. 2)
	{
		for my $who (sort keys %victims)
		{
			survive($victims{$who});
			ok(wait_until(sub { ($keelson->try_sql('select 1'))[0] == 0 }, 30), "$who, round $round: the server is back");
			is(events_say(), model_says(), 'each event is there once');
			is(readers_say(), without_requests(model_says()), 'and readers see that');
		}
	}
	ok(settle(), 'all is folded');
	is($keelson->sql('select count(*) from keelson.usage_reconcile()'), '0', 'and the rollups are what the events are');
	is($keelson->sql("select n, feature, minutes::numeric(20, 6), requests from (values $numbers) as p (n, id) join keelson.usage_totals as t on t.user_id = p.id order by 1, 2"),
		model_says(), 'and what the model is');
	is($keelson->sql("select count(*) from keelson.usage_keys where user_id in (select id from (values $numbers) as p (n, id))"), scalar(keys %stands_for), 'with each key once');
	is($keelson->sql("select sum(keelson.usage_reaggregate(d::date)) from generate_series(now() - interval '37 days', now() + interval '1 day', interval '1 day') as d"), '0',
		'making every day anew changes nothing');
};

subtest 'retention' => sub {
	is($keelson->sql("select keelson.usage_expire(moment => now() + interval '2 days')"), '0', 'what is not old enough stays');
	cmp_ok($keelson->sql("select keelson.usage_expire(moment => now() + interval '500 days')"), '<=', 1, 'of what is old goes what is folded and done with');
	# As if the day were over: what was recorded lies in a partition that will not grow any more.
	$keelson->sql('update keelson.usage_watermark set tail_from = tail_from + 1');
	cmp_ok($keelson->sql("select keelson.usage_expire(moment => now() + interval '500 days')"), '>=', 1, 'then the partition goes');
	$keelson->sql('select keelson.usage_expire()') for 1 .. 2;
	is($keelson->sql('select count(*) from keelson.usage_events'), '0', 'with its events');
	is($keelson->sql('select count(*) from keelson.usage_keys'), '0', 'and their keys');
	is($keelson->sql("select n, feature, minutes::numeric(20, 6), requests from (values $numbers) as p (n, id) join keelson.usage_totals as t on t.user_id = p.id order by 1, 2"),
		model_says(), 'rollups stay');
	my ($status, undef, $messages) = $keelson->try_sql('select keelson.usage_reaggregate(current_date)');
	like($messages, qr/no longer kept/, 'and are not made of what is no longer there');
	is($keelson->sql('select count(*) from keelson.usage_reconcile()'), '0', 'nor held against it');
};

done_testing();
$keelson->stop;
