# The courier: requests of the server itself, what a receiver can do to them, and its life.

use strict;
use warnings;

use KeelsonTest;
use KeelsonTest::Sink;
use Test::More;

my $keelson = KeelsonTest->new('courier',
	conf => "keelson.environment = development\nkeelson.allow_private_targets = on\nkeelson.courier_timeout = 2");
my $sink = KeelsonTest::Sink->new('one');

$keelson->sql(<<'END');
create schema probe;
create table probe.answers (id int generated always as identity, tag text, status int, body text, error text, cache text, is_last bool);
create function probe.answered(context jsonb, status int, body text, error text, cache_control text, is_last bool) returns void language sql
    as $$ insert into probe.answers (tag, status, body, error, cache, is_last) values (context ->> 'tag', status, left(body, 60), error, cache_control, is_last) $$;
grant usage on schema probe to keelson_system;
grant all on all tables in schema probe to keelson_system;
END

# Has the server send a request; the answers are tagged.
sub request
{
	my ($url, %given) = @_;
	my $tag = $given{tag} || $url;
	$keelson->sql("select keelson._http_request('test', '$url', 'probe.answered', jsonb_build_object('tag', '$tag')"
		. ', lane => gen_random_uuid(), timeout => ' . ($given{timeout} || "'3 seconds'") . ($given{more} ? ", $given{more}" : '') . ')');
	return $tag;
}

sub answer
{
	my ($tag) = @_;
	my $row = wait_until(sub {
		$keelson->sql("select format('%s|%s|%s|%s', status, error, is_last, cache) from probe.answers where tag = '$tag' order by id limit 1");
	}, 20);
	return $row || 'none';
}

is(answer(request($sink->url('/hello'), more => q{body => '{"a":1}', headers => '{"X-One": "1", "Content-Type": "application/json"}'})),
	'200||t|max-age=600', 'a request is sent and its answer handed over');
my ($seen) = $sink->requests('/hello');
is("$seen->{method} $seen->{headers}{'x-one'} $seen->{body}", 'POST 1 {"a":1}', 'as it was asked for');
is($keelson->sql('select count(*) from keelson.http_requests'), 0, 'the request is gone then');
is($keelson->sql('select count(*) from keelson.deliveries'), 0, 'nothing waits');
is($keelson->sql("select state || attempts || status || address from keelson.deliveries_log"), 'delivered1200127.0.0.1', 'and it is in the log');

# What is gone, or of a kind that nobody knows, when its turn comes, is not sent and holds up nobody.
my $odd = $keelson->sql(q{
	begin;
	select keelson._http_request('test', 'https://example.com/', 'probe.answered', '{"tag": "gone"}', lane => gen_random_uuid()) \g /dev/null
	delete from keelson.http_requests returning id;
	with one as (insert into keelson.deliveries (user_id, id, lane, kind, due_at)
		values ('00000000-0000-0000-0000-000000000000', keelson.uuid7(), gen_random_uuid(), 'regress', now()) returning *)
	select id from one, keelson._courier_hint(user_id, lane, true);
	commit});
ok(wait_until(sub { $keelson->sql('select count(*) from keelson.deliveries') == 0 }, 20), 'what cannot be sent is done with');
is($keelson->sql("select string_agg(format('%s %s %s: %s', kind, state, attempts, error), ', ' order by kind) from keelson.deliveries_log where id in (" . join(', ', map { "'$_'" } split /\n/, $odd) . ')'),
	'http cancelled 0: the request is gone, regress exhausted 0: nothing is known of this kind of delivery', 'and the log says why');

# One whose day the log has no partition of, since a clock was wrong, is sent once, and the courier lives on.
my $busy = $keelson->sql("select pid from pg_stat_activity where backend_type = 'keelson courier'");
$keelson->sql('begin; select keelson._http_request(\'test\', \'' . $sink->url('/past') . q{', 'probe.answered', '{"tag": "past"}', lane => gen_random_uuid());
	update keelson.deliveries set id = keelson._uuid7_floor('2001-02-03 04:05Z'); commit});
is(answer('past'), '200||t|max-age=600', 'one of a day long past is answered');
ok(wait_until(sub { $keelson->sql('select count(*) from keelson.deliveries') == 0 }, 20), 'and settled');
is(scalar($sink->requests('/past')), 1, 'once');
is($keelson->sql("select pid from pg_stat_activity where backend_type = 'keelson courier'"), $busy, 'by the same courier');
is($keelson->sql("select state from keelson.deliveries_log where id < keelson._uuid7_floor('2002-01-01 00:00Z')"), 'delivered', 'the log has it');

# A clock that was ahead is set back: what was claimed then by a courier that is no more, and a breaker that opened then,
# are not waited for.
my $lane = '00000000-0000-4000-8000-000000000001';
$keelson->sql("begin; insert into keelson.courier_lanes (user_id, lane, breaker, breaker_until)
		values ('00000000-0000-0000-0000-000000000000', '$lane', 'open', now() + interval '1 day');
	select keelson._http_request('test', '" . $sink->url('/ahead') . "', 'probe.answered', '{\"tag\": \"ahead\"}', lane => '$lane');
	update keelson.deliveries set claim_id = extract(epoch from now() + interval '1 day' - '2000-01-01 00:00Z') * 1000000, lease_until = now() + interval '1 day';
	commit");
is(answer('ahead'), '200||t|max-age=600', 'neither is waited for');
is($keelson->sql("select breaker from keelson.courier_lanes where lane = '$lane'"), 'half_open', 'the breaker lets one through');
$keelson->sql("select keelson.courier_breaker_set('$lane', 'closed')");

# A clock that leaps ahead ends the leases of what is under way: it is not sent twice.
my $leapt = '00000000-0000-4000-8000-000000000002';
sub request_of_lane
{
	my ($path) = @_;
	return $keelson->sql("select keelson._http_request('test', '" . $sink->url($path)
		. "', 'probe.answered', '{\"tag\": \"$path\"}', timeout => '10 seconds', lane => '$leapt')");
}
request_of_lane('/slow/3000');
ok($sink->wait_for(1, '/slow/3000'), 'one is under way');
$keelson->sql("update keelson.deliveries set lease_until = now() - interval '1 hour' where lane = '$leapt'");
request_of_lane('/leapt');
is(answer('/leapt'), '200||t|max-age=600', 'when its lease is over, others of the lane go out');
is(answer('/slow/3000'), '200||t|', 'it is settled');
is(scalar($sink->requests('/slow/3000')), 1, 'and was sent once');

# What a receiver can do.
my %faults = (
	'/status/500' => '500||f|', '/redirect?to=http://127.0.0.1:1/' => '302||f|', '/hang' => '|there was no complete response in time|f|',
	'/drip' => '|there was no complete response in time|f|', '/huge' => '200||t|', '/reset' => '|the connection was broken while the response was awaited|f|',
	'/partial' => '|the connection was closed before the response was complete|f|', '/garbage' => '|the response was not understood|f|');
request($sink->url($_)) for sort keys %faults;
is(answer($sink->url($_)), $faults{$_}, $_) for sort keys %faults;
is(scalar(grep { $_->{path} eq '/' } $sink->requests), 0, 'a redirect is not followed');
is(answer(request('http://127.0.0.1:1/')), '|the connection was refused or could not be made|f|', 'a closed port');
is(answer(request($sink->url('/x', 'nowhere.invalid'))), '|the host name could not be resolved|f|', 'a name that is none');
is(answer(request('https://127.0.0.1:' . $sink->port . '/')), '|TLS could not be agreed on|f|', 'TLS where there is none');
ok(wait_until(sub { $keelson->sql("select count(*) filter (where is_last) = 0 and count(*) >= 2 from probe.answers where tag = '" . $sink->url('/status/500') . "'") eq 't' }, 20),
	'what fails is tried again');

# Its life.
sub courier { return $keelson->sql("select pid from pg_stat_activity where backend_type = 'keelson courier'"); }
my $pid = courier();
ok($pid, 'it can be seen in pg_stat_activity');

# A migration keeps it from the tables for a while, and nothing that is under way from its end.
request($sink->url('/slow/500'), tag => 'migrated', timeout => q{'10 seconds'});
ok($sink->wait_for(1, '/slow/500'), 'a request is under way');
$keelson->sql("begin; select pg_advisory_xact_lock(x'4b656c736f6e4d31'::bigint) \\g /dev/null\nselect pg_sleep(2); commit");
is(answer('migrated'), '200||t|', 'after a migration it is settled');
is(scalar($sink->requests('/slow/500')), 1, 'and was sent once');

# Whoever holds a lane's row holds up nothing but what is written there.
my $holder = $keelson->node->background_psql('keelson');
$holder->query_safe("begin; select from keelson.courier_lanes where lane = '$lane' for update");
request($sink->url('/slow/600'), tag => 'beside', timeout => q{'10 seconds'});
$keelson->sql("select keelson._http_request('test', '" . $sink->url('/status/503') . "', 'probe.answered', '{\"tag\": \"held\"}', lane => '$lane')");
is(answer('held'), '503||f|', 'its own are sent');
is(answer('beside'), '200||t|', 'and others');
is(scalar($sink->requests('/slow/600')), 1, 'once');
$holder->quit;
ok(wait_until(sub { $keelson->sql("select failing_since is not null from keelson.courier_lanes where lane = '$lane'") eq 't' }, 20), 'then it is written down that they fail');
is(courier(), $pid, 'all by the same courier');

# What cannot be settled, for want of room say, is sent again less and less often.
$keelson->sql(q{create function probe.full() returns trigger language plpgsql as $$ begin raise disk_full; end $$;
	create trigger full_disk before insert on keelson.deliveries_log for each row execute function probe.full()});
request($sink->url('/full'), tag => 'full');
ok(wait_until(sub { $keelson->server_log =~ /a courier has ended with an error 3 times in a row: the next begins in 2 s/ }, 60), 'couriers that fail wait longer each time');
is(scalar($sink->requests('/full')), 3, 'each has sent once');
$keelson->sql('drop trigger full_disk on keelson.deliveries_log');
is(answer('full'), '200||t|max-age=600', 'and when there is room again it is settled');
$pid = courier();

request($sink->url('/hang'), tag => "hang$_", timeout => q{'10 seconds'}) for 1 .. 20;
ok(wait_until(sub { $keelson->sql('select in_flight >= 20 from keelson._courier_status()') eq 't' }), 'with many requests under way');
my $before = time;
$keelson->node->restart;
ok(time - $before < 8, 'it stops soon') or diag(time - $before);
ok(wait_until(sub { courier() }), 'and is back after the start');
is($keelson->sql("select count(*) from keelson.deliveries where claim_id is not null and lease_until < now()"), 0, 'nothing is left claimed');
is($keelson->sql('select counter from keelson.courier_fence'), 2, 'the second start was counted');

# A crash: what was in flight goes out again.
request($sink->url('/slow/1000'), tag => 'crash', timeout => q{'10 seconds'});
ok($sink->wait_for(1, '/slow/1000'), 'a request is under way');
ok($keelson->kill_process(courier()), 'the server comes back after a crash of the courier');
is(answer('crash'), '200||t|', 'what was in flight was sent again');
is(scalar($sink->requests('/slow/1000')), 2, 'once');

# One that was ended alone is followed by one that goes on with the file.
my $fence = "$keelson->{keyring}.fence";
my $ended = courier();
$keelson->sql("select pg_terminate_backend($ended)");
ok(wait_until(sub { my $now = courier(); $now && $now != $ended }, 30), 'another follows one that was ended');
my $noted = slurp($fence);
$keelson->sql('create table probe.more as select 1; checkpoint');
ok(wait_until(sub { slurp($fence) ne $noted }, 30), 'and notes how far the database has come');
is((slurp($fence) =~ /^counter (\d+)/m)[0], $keelson->sql('select counter from keelson.courier_fence'), 'with the same counter');

$keelson->stop;
done_testing();
