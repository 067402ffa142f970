# Rate limits and blocks under parallel callers, through HTTP, and across a crash.

use strict;
use warnings;

use IO::Socket::INET;
use KeelsonTest;
use Test::More;
use Time::HiRes qw(time);

my $keelson = KeelsonTest->new('limits', limits => 1, conf => "max_connections = 100\nkeelson.rate_limit_entries = 4096");
my $gateway = $keelson->gateway(KEELSON_LOOPS => 1, KEELSON_TRUSTED_PROXIES => '127.0.0.1/32');

# A request from an address of its own.
sub from { my ($ip, $method, $target, %options) = @_; return $gateway->request($method, $target, %options, headers => { 'X-Forwarded-For' => $ip, %{ $options{headers} || {} } }); }
sub metric { my ($name) = @_; return ($gateway->get('/metrics')->{content} =~ /^\Q$name\E (\S+)$/m)[0] || 0; }

subtest 'what a reply says' => sub {
	my $reply = from('203.0.113.1', GET => '/api/auth/status');
	is($reply->{status}, 200, 'within the limit');
	is($reply->{headers}{'x-ratelimit-limit'}, 100, 'X-RateLimit-Limit');
	is($reply->{headers}{'x-ratelimit-remaining'}, 99, 'X-RateLimit-Remaining');
	cmp_ok(abs($reply->{headers}{'x-ratelimit-reset'} - time - 60), '<', 5, 'X-RateLimit-Reset');
	like($reply->{headers}{ratelimit}, qr{^"general";r=99;t=60;pk=:[A-Za-z0-9+/]{16}:$}, 'RateLimit');
	like($reply->{headers}{'ratelimit-policy'}, qr{^"general";q=100;w=60;qu="requests";pk=:[A-Za-z0-9+/]{16}:$}, 'RateLimit-Policy');
	ok(!exists $reply->{headers}{'retry-after'}, 'no Retry-After');
	is(from('203.0.113.2', GET => '/api/auth/status')->{headers}{'x-ratelimit-remaining'}, 99, 'another address has its own');
	is(from('203.0.113.2, 203.0.113.1', GET => '/api/auth/status')->{headers}{'x-ratelimit-remaining'}, 98, 'what stands left of it in X-Forwarded-For is not believed');
	from('203.0.113.3', GET => '/api/auth/status') for 1 .. 100;
	my $first = from('203.0.113.3', GET => '/api/auth/status');
	is("$first->{status} $first->{json}{code}", '429 RATE_LIMITED', 'the one too many');
	is($first->{json}{error}, 'Too many requests', 'with a message');
	is_deeply($first->{json}{'violated-policies'}, ['general'], 'and the limit');
	my $retry = $first->{headers}{'retry-after'};
	cmp_ok($retry, '<=', 60, 'Retry-After');
	my ($t) = $first->{headers}{ratelimit} =~ /;t=(\d+)/;
	cmp_ok($retry, '>=', $t, 'is not before what RateLimit says');
	my $again;
	ok(wait_until(sub { $again = from('203.0.113.3', GET => '/api/auth/status'); return $again->{headers}{'retry-after'} < $retry; }, 5), 'the repetition counts down');
	is($again->{json}{code}, 'RATE_LIMITED', 'and says the same');
	isnt($again->{json}{meta}{requestId}, $first->{json}{meta}{requestId}, 'under its own request id');
	my $problem = from('203.0.113.3', GET => '/api/auth/status', headers => { Accept => 'application/problem+json' });
	is($problem->{json}{type}, 'https://iana.org/assignments/http-problem-types#quota-exceeded', 'as a problem, its type');
	is_deeply($problem->{json}{'violated-policies'}, ['general'], 'and its extension');
	my @colons = grep { /^:/ } map { keys %{ $_->{headers} } } $first, $again;
	is_deeply(\@colons, [], 'what is for the gateway stays there');
};

# pgbench's clients call decide with the same keys; what was admitted is a row with its time.
sub storm
{
	my ($clients, $seconds_or_calls, $statement) = @_;
	my $file = $keelson->node->basedir . '/storm.sql';
	open my $out, '>', $file or die $!;
	print $out $statement;
	close $out;
	$keelson->sql('drop table if exists admitted; create unlogged table admitted (key text, charged bigint)');
	$keelson->node->command_ok([ 'pgbench', '-n', '-M', 'prepared', '-c', $clients, '-j', 2, @$seconds_or_calls, '-f', $file, '-h', $keelson->node->host, '-p', $keelson->node->port, 'keelson' ],
		"$clients clients at once");
	return;
}

subtest '64 parallel clients' => sub {
	storm(64, [ '-t', 40 ], q{
insert into admitted select 'one', charged from keelson._limits_try('{one}', '{1000}', '{600000000}', '{1}') where is_admitted;
});
	is($keelson->sql('select count(*) from admitted'), 1000, 'get exactly the limit');
	storm(64, [ '-t', 20 ], q{
\set a random(1, 8)
\set b random(1, 8)
insert into admitted
select 'k' || k, t.charged
from keelson._limits_try(array['k' || :a, 'l' || :b], '{100,100}', '{600000000,600000000}', '{1,1}') with ordinality as t,
    lateral (select case t.ordinality when 1 then :a else 8 + :b end) as which (k)
where t.is_admitted;
});
	is($keelson->sql('select max(n) from (select count(*) as n from admitted group by key) as k'), 100, 'of two limits at once, too, whichever order they come in');
	is($keelson->sql(q{select count(*) filter (where substr(key, 2)::int <= 8) = count(*) filter (where substr(key, 2)::int > 8) from admitted}), 't',
		'and both are charged or none');
	storm(64, [ '-T', 4 ], q{
insert into admitted select 'short', charged from keelson._limits_try('{short}', '{50}', '{1000000}', '{1}') where is_admitted;
});
	is($keelson->sql(q{
		select max(n) from (
			select count(*) over (order by charged range between 999999 preceding and current row) as n from admitted
		) as windows}), 50, 'no window of a second has more than the limit, and one has it');
	cmp_ok($keelson->sql('select count(*) from admitted'), '>', 50, 'and the next second gives room again');
	# Whatever the clock says: each client's has jumped by up to three seconds, for each call anew.
	storm(64, [ '-t', 30 ], q{
\set jump random(-3000000, 3000000)
insert into admitted
select which.k, t.charged
from keelson._limits_try('{jump,jumpy}', '{50,3000}', '{1000000,64000000}', '{1,1}', keelson._limits_clock() + :jump) with ordinality as t,
    lateral (select case t.ordinality when 1 then 'jump' else 'jumpy' end) as which (k)
where t.is_admitted;
});
	is($keelson->sql(q{
		select string_agg(key || ' ' || most, ' ' order by key)
		from (
			select key, max(n) as most
			from (
				select key, count(*) over (order by charged range between 999999 preceding and current row) as n from admitted where key = 'jump'
				union all
				select key, count(*) over (order by charged range between 64 preceding and current row) as n from admitted where key = 'jumpy'
			) as windows
			group by key
		) as fullest
		where most > case key when 'jump' then 50 else 3000 end}), '', 'with jumping clocks no window has more than its limit');
	cmp_ok($keelson->sql(q{select count(*) from admitted where key = 'jump'}), '>=', 50, 'and there were some');
	my $statuses = $gateway->load(16, sub {
		my (undef, $count) = @_;
		return if $count > 20;
		return from('203.0.113.4', GET => '/api/auth/status', fresh => $count == 1)->{status};
	});
	wait_until(sub { scalar($statuses->lines) == 320 }, 60);
	my @lines = $statuses->stop;
	is(scalar(grep { $_ eq '200' } @lines), 100, 'through HTTP, too');
	is(scalar(grep { $_ eq '429' } @lines), 220, 'the rest is refused');
};

subtest 'logging in' => sub {
	my $user = $keelson->user($gateway);
	my $login = sub { my ($password) = @_; return from('203.0.113.5', POST => '/api/auth/login', json => { email => $user->{email}, password => $password }); };
	is_deeply([ map { $login->($user->{password})->{status} } 1 .. 7 ], [ (200) x 7 ], 'what succeeds is given back');
	is_deeply([ map { $login->('not the right secret')->{status} } 1 .. 6 ], [ (401) x 5, 429 ], 'what fails is not');
	is($login->($user->{password})->{status}, 429, 'then nobody gets in from there');
	is(from('203.0.113.6', POST => '/api/auth/login', json => { email => $user->{email}, password => $user->{password} })->{status}, 423,
		'from elsewhere it is the account that is locked');
	my $other = $keelson->user($gateway);
	is(from('203.0.113.6', POST => '/api/auth/login', json => { email => $other->{email}, password => $other->{password} })->{status}, 200,
		'and no other');
};

subtest 'a flood' => sub {
	my $user = $keelson->user($gateway);
	$keelson->sql("select keelson.rate_limit_override('general', 100000, who => '$user->{email}')");
	my $most = $KeelsonTest::slow > 1 ? 2000 : 100000;
	my ($calls, $repeated) = map { metric($_) } 'keelson_gateway_calls_total', 'keelson_gateway_repeated_refusals_total';
	my $request = "GET /api/auth/status HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n" x 100;
	my $flood = $gateway->load(2, sub {
		my (undef, $count) = @_;
		our $socket ||= IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $gateway->port);
		return if $count > $most / 200;
		print $socket $request;
		my ($seen, $text) = (0, '');
		while ($seen < 100)
		{
			sysread($socket, $text, 65536, length $text) or return 'closed';
			$seen += () = $text =~ /"success":(?:true|false)/g;
			$text = substr($text, -20);
		}
		return $seen;
	});
	my ($worst, $good, $asked) = (0, 0, 0);
	wait_until(sub {
		my $began = time;
		$good++ if from('203.0.113.8', GET => '/api/auth/me', token => $user->{token})->{status} == 200;
		$asked++;
		$worst = time - $began if time - $began > $worst;
		return scalar($flood->lines) >= $most / 100;
	}, 120);
	my @lines = $flood->stop;
	is(scalar(grep { $_ >= 100 } @lines), $most / 100, "$most requests from one address are answered");
	is($good, $asked, 'while another client gets every reply');
	cmp_ok($worst, '<', 1 * $KeelsonTest::slow, 'in time');
	cmp_ok(metric('keelson_gateway_repeated_refusals_total') - $repeated, '>=', $most * .96 - 100, 'the gateway answers the flood itself');
	cmp_ok(metric('keelson_gateway_calls_total') - $calls - $asked, '<', 400, 'and the database hardly hears of it');
	my $told = sub { $keelson->sql(q{select count(*) from keelson.audit_events where event_type = 'security.rate_limited'}) };
	ok(wait_until(sub { $told->() >= 3 }, 20), 'the audit trail does');
	cmp_ok($told->(), '<', 20, 'once for each caller');
};

subtest 'a flood in disguise' => sub {
	my $user = $keelson->user($gateway);
	$keelson->sql("select keelson.rate_limit_override('general', 100000, who => '$user->{email}')");
	my $ip = '203.0.113.20';
	my $sent = 0;
	# A hundred requests, each with a credential of its own that proves nothing; how many were answered with the code.
	my $volley = sub {
		my ($code) = @_;
		my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $gateway->port) or die "connect: $!";
		print $socket map { "GET /api/auth/me HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: $ip\r\nAuthorization: Bearer made-up-" . ++$sent . "\r\n\r\n" } 1 .. 100;
		my ($seen, $text) = (0, '');
		while ($seen < 100)
		{
			sysread($socket, $text, 65536, length $text) or die 'closed';
			$seen = () = $text =~ /"success":/g;
		}
		return scalar(() = $text =~ /"code":"$code"/g);
	};
	cmp_ok($volley->('UNAUTHENTICATED'), '>=', 90, 'the first are told that they prove nothing');
	ok(wait_until(sub { $volley->('IP_BLOCKED') == 100 }, 30), 'who goes on is blocked');
	my ($calls, $repeated) = map { metric($_) } 'keelson_gateway_calls_total', 'keelson_gateway_repeated_refusals_total';
	$volley->('IP_BLOCKED') for 1 .. 20;
	cmp_ok(metric('keelson_gateway_calls_total') - $calls, '<', 100, 'then the flood costs the database nothing');
	cmp_ok(metric('keelson_gateway_repeated_refusals_total') - $repeated, '>', 1900, 'since the gateway answers it');
	is(from('203.0.113.21', GET => '/api/auth/me', token => $user->{token})->{status}, 200, 'nobody else is');
	is($keelson->sql(qq{select is_automatic and expires_at between now() + interval '13 minutes' and now() + interval '15 minutes' from keelson.blocks where network = '$ip'}), 't', 'for a while');
	is($keelson->sql(qq{select count(*) from keelson.audit_events where event_type = 'admin.block' and data ->> 'network' like '$ip%' and actor = 'system'}), 1, 'and it is recorded who did it');
	$keelson->sql("select keelson.block_remove('$ip')");
};

subtest 'a block' => sub {
	my $admin = $keelson->user($gateway);
	$keelson->sql("select keelson.role_grant('$admin->{email}', 'admin')");
	is(from('203.0.113.9', GET => '/api/auth/status')->{status}, 200, 'before it');
	my $made = $gateway->post('/api/admin/blocks', { network => '203.0.113.9', reason => 'testing', expiresAt => '2999-01-01T00:00:00Z' }, token => $admin->{token});
	is("$made->{status} $made->{json}{data}{network}", '201 203.0.113.9/32', 'made by an administrator');
	my $refused = from('203.0.113.9', GET => '/api/auth/status');
	is("$refused->{status} $refused->{json}{code}", '403 IP_BLOCKED', 'holds for the next request');
	my $calls = metric('keelson_gateway_calls_total');
	is(from('203.0.113.9', GET => '/api/user/profile')->{status}, 403, 'whatever is asked for');
	is(metric('keelson_gateway_calls_total') - $calls, 1, 'without asking the database again, the metrics apart');
	is($gateway->post('/api/admin/blocks', { network => '203.0.113.0/24', reason => 'wider' }, token => $admin->{token})->{json}{code}, 'CONFLICT', 'it cannot be made twice');

	ok(wait_until(sub { $keelson->sql(q{select count(*) from keelson.rate_limit_violations where name = 'block' and ip_address = '203.0.113.9'}) }, 20), 'who was refused is recorded');
	my $list = $gateway->get('/api/admin/rate-limits/violations?limit=100&ipAddress=203.0.113.9', token => $admin->{token});
	is_deeply([ map { "$_->{endpoint} $_->{name} $_->{refusals}" } @{ $list->{json}{data} } ], ['GET auth/status block 1'], 'and told to administrators');

	# Counters are lost in a crash of the server; blocks are rows.
	from('203.0.113.10', GET => '/api/auth/status') for 1 .. 20;
	my ($backend) = $keelson->sql(q{select pid from pg_stat_activity where backend_type = 'client backend' and usename = 'keelson_gateway' limit 1});
	kill_server_process($backend);
	my $after;
	ok(wait_until(sub { $after = from('203.0.113.10', GET => '/api/auth/status'); return $after->{status} == 200 && $after->{headers}{'x-ratelimit-remaining'} > 80; }, 30), 'after a crash counters begin anew');
	ok(wait_until(sub { from('203.0.113.9', GET => '/api/auth/status')->{status} == 403 }, 10), 'the block holds on');

	is($gateway->delete('/api/admin/blocks?network=203.0.113.9', token => $admin->{token})->{status}, 204, 'removed');
	ok(wait_until(sub { from('203.0.113.9', GET => '/api/auth/status')->{status} == 200 }, 10), 'it is over');
	is($gateway->delete('/api/admin/blocks?network=203.0.113.9', token => $admin->{token})->{status}, 404, 'and cannot be removed twice');
	my $seen = $gateway->get('/api/admin/rate-limits', token => $admin->{token});
	is($seen->{status}, 200, 'the overview');
	like($gateway->get('/metrics')->{content}, qr/^keelson_limits_decisions_total\{outcome="refused"\} \d/m, 'and the metrics');
};

subtest 'waiting for room' => sub {
	$keelson->product;
	$keelson->sql(q{
		select keelson.rate_limit_set('patient', 2, '2 seconds', 'api', 'caller');
		select keelson.route('GET product/patient', 'product.item_first', is_public => true, rate_class => 'api', rate_wait => '5 seconds');
	});
	ok(wait_until(sub { from('203.0.113.11', GET => '/api/product/patient')->{status} == 200 }, 10), 'an endpoint whose requests may wait');
	my $began = time;
	my @statuses = map { from('203.0.113.12', GET => '/api/product/patient')->{status} } 1 .. 4;
	is_deeply(\@statuses, [ (200) x 4 ], 'none is refused');
	cmp_ok(time - $began, '>=', 1.9, 'but some have waited');
	cmp_ok(metric('keelson_gateway_limit_waits_total'), '>=', 1, 'which is counted');
	is(metric('keelson_gateway_limit_queue'), 0, 'and nobody waits any more');
	$keelson->sql(q{select keelson.rate_limit_set('patient', 2, '1 hour')});
	from('203.0.113.13', GET => '/api/product/patient') for 1 .. 2;
	$began = time;
	is(from('203.0.113.13', GET => '/api/product/patient')->{status}, 429, 'too long a wait is a refusal');
	cmp_ok(time - $began, '<', 3 * $KeelsonTest::slow, 'at once');
};

# Several wait for each other, so that the last has waited often before it loses a race, as each does once.
subtest 'a race that is lost after waiting' => sub {
	$keelson->sql(q{select keelson.rate_limit_set('patient', 1, '1 second')});
	$keelson->sql("create sequence product.race_$_; grant usage on sequence product.race_$_ to keelson_app") for 1 .. 4;
	$keelson->sql(q{
		create function product.race(n integer) returns integer language plpgsql as $$
		begin
			-- What a sequence has counted is not undone with the transaction.
			if nextval(format('product.race_%s', n)::regclass) = 1 then
				raise exception 'lost' using errcode = '40001';
			end if;
			return n;
		end $$;
		comment on function product.race(integer) is 'Loses a race, the first time.';
		select keelson.route('GET product/race', 'product.race', is_public => true, rate_class => 'api', rate_wait => '30 seconds');
	});
	ok(wait_until(sub { from('203.0.113.20', GET => '/api/product/race')->{status} == 400 }, 10), 'an endpoint that loses races');
	my @asked = map {
		my $socket = $gateway->connect;
		syswrite $socket, "GET /api/product/race?n=$_ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.21\r\n\r\n";
		$socket
	} 1 .. 4;
	my @replies = map { KeelsonTest::Gateway::read_reply($_, 40) } @asked;
	is(join(' ', map { $_->{status} } @replies), '200 200 200 200', 'each is tried again');
	my ($most) = sort { $b <=> $a } map { $gateway->log_line($_->{headers}{'x-request-id'})->{attempts} } @replies;
	cmp_ok($most, '>=', 5, 'the last having waited three times before') or diag $most;
};

subtest 'switching them off' => sub {
	my (undef, undef, $error) = $keelson->try_sql(q{alter system set keelson.rate_limits = off});
	like($error, qr/Rate limits cannot be off in production/, 'not in production');
	$keelson->sql(q{alter system set keelson.environment = development});
	$keelson->node->reload;
	ok(wait_until(sub { $keelson->sql('show keelson.environment') eq 'development' }, 10), 'in development');
	$keelson->sql(q{alter system set keelson.rate_limits = off});
	$keelson->node->reload;
	ok(wait_until(sub { !exists from('203.0.113.14', GET => '/api/auth/status')->{headers}{ratelimit} }, 10), 'nothing is counted');
	$keelson->sql(q{alter system set keelson.environment = production});
	$keelson->node->reload;
	ok(wait_until(sub { exists from('203.0.113.14', GET => '/api/auth/status')->{headers}{ratelimit} }, 10), 'in production limits hold whatever was set before');
	for my $setting ('rate_limits', 'rate_limit_entries')
	{
		my ($status) = $keelson->try_sql("set keelson.$setting = '4096'");
		isnt($status, 0, "no session can set keelson.$setting");
	}
};

done_testing();
