# A gateway in straits: fields that stand again, a database that hangs, a time to leave that is over, signals, too many
# connections and event streams of one address.

use strict;
use warnings;

use IO::Socket::INET;
use IO::Socket::IP;
use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('straits');
my $gateway = $keelson->gateway;
$keelson->product;
$keelson->sql(q{select keelson.route('GET product/tick', 'product.tick', is_public => true, kind => 'watch', timeout => '500 milliseconds')});
$keelson->sql(q{select keelson.route('POST product/notes/lane', 'product.note_slow', pool => 'slow', status => 201, errors => '{CONFLICT}')});
$keelson->sql(q{select keelson.route('POST product/notes/pressed', 'product.note_slow', pool => 'slow', timeout => '500 milliseconds', status => 201, errors => '{CONFLICT}')});
$keelson->sql(q{select keelson.route('POST product/notes/brief', 'product.note_slow', pool => 'slow', timeout => '4 seconds', status => 201, errors => '{CONFLICT}')});
my $user = $keelson->user($gateway);
ok(wait_until(sub { $gateway->get('/api/product/items/first')->{status} == 200 }), 'the product is there');

# One request, in lines; the reply.
sub ask
{
	my ($from, @lines) = @_;
	my $socket = $from->connect;
	syswrite $socket, join "\r\n", @lines, 'Host: a', '', '';
	return KeelsonTest::Gateway::read_reply($socket);
}

sub backends { return split /\n/, $keelson->sql(q{select pid from pg_stat_activity where usename = 'keelson_gateway'}); }
sub sleepers { return $keelson->sql(q{select count(*) from pg_stat_activity where wait_event = 'PgSleep'}); }

subtest 'fields that stand again' => sub {
	my $behind = $keelson->gateway(KEELSON_TRUSTED_PROXIES => '127.0.0.0/8,10.0.0.0/8');
	my $ip = sub { return ask($behind, 'GET /api/product/whoami HTTP/1.1', "Authorization: Bearer $user->{token}", map { "X-Forwarded-For: $_" } @_)->{json}{data}{ip}; };
	is($ip->('203.0.113.7', '10.0.0.1'), '203.0.113.7', 'those of proxies are one list');
	is($ip->('192.0.2.1', '203.0.113.7, 10.0.0.2', '10.0.0.1'), '203.0.113.7', 'however it is cut');
	is($ip->('10.0.0.1', '203.0.113.7'), '203.0.113.7', 'in their order');
	for my $field ("Authorization: Bearer $user->{token}", 'Content-Type: application/json', 'Cookie: a=b', 'Origin: http://a.example', 'X-API-Key: x', 'X-CSRF-Token: x', 'Idempotency-Key: k')
	{
		my ($name) = split /:/, $field;
		my $reply = ask($behind, 'GET /api/product/items/first HTTP/1.1', $field, $field);
		is("$reply->{status} " . ($reply->{json}{error} // ''), "400 The header field $name may be given once only", $name);
	}
	is(ask($behind, 'GET /api/product/items/first HTTP/1.1', 'Accept: application/json', 'Accept: text/plain')->{status}, 200, 'of others the first counts');
	$behind->stop;
};

subtest 'a database that hangs' => sub {
	my $watch = $gateway->connect;
	syswrite $watch, "GET /api/product/tick HTTP/1.1\r\nHost: a\r\n\r\n";
	like(scalar read_until($watch, qr/tick 0/), qr/tick 0/, 'a watch');
	my @stopped = backends();
	kill 'STOP', @stopped;
	my $reply = $gateway->post('/api/product/notes/hurried', { text => 'hangs', seconds => 0 }, token => $user->{token}, fresh => 1);
	is("$reply->{status} " . ($reply->{json}{code} // ''), '504 TIMEOUT', 'whoever asks is told in time');
	is($gateway->log_line($reply->{json}{meta}{requestId})->{error}, 'no answer from the database in time', 'and the operator why');
	my ($rest, $is_closed) = KeelsonTest::Gateway::read_all($watch, 20);
	ok($is_closed, 'the watch is cut off');
	unlike($rest, qr/\r\n0\r\n\r\n\z/, 'not as if it had ended');
	kill 'CONT', @stopped;
	ok(wait_until(sub { $gateway->get('/ready', fresh => 1)->{status} == 200 && $gateway->get('/api/product/items/first', fresh => 1)->{status} == 200 }, 20), 'when it goes on, so does the gateway');
	is($gateway->post('/api/product/notes/hurried', { text => 'goes on', seconds => 0 }, token => $user->{token})->{status}, 201, 'with the next');
};

subtest 'a readiness check that hangs' => sub {
	my $of_control = sub { return $keelson->sql(q{select pid from pg_stat_activity where application_name = 'keelson_gateway control' order by backend_start desc limit 1}) };
	my $stopped = $of_control->();
	kill 'STOP', $stopped;
	ok(wait_until(sub { $of_control->() ne $stopped }, 30), 'is asked in another session');
	is($gateway->get('/ready', fresh => 1)->{status}, 200, 'those who are served are served');
	kill 'CONT', $stopped;
	ok(wait_until(sub { $keelson->sql("select count(*) from pg_stat_activity where pid = $stopped") == 0 }, 20), 'the first one is let go');
	$keelson->sql('alter function keelson.gateway_ready() rename to gateway_ready_no_more');
	ok(wait_until(sub { $gateway->get('/api/product/items/first', fresh => 1)->{status} == 503 }, 20), 'what becomes of the check is seen');
	$keelson->sql('alter function keelson.gateway_ready_no_more() rename to gateway_ready');
	ok(wait_until(sub { $gateway->get('/api/product/items/first', fresh => 1)->{status} == 200 }, 20), 'afterwards, too');
};

subtest 'a gateway that is held up' => sub {
	my $request = "GET /api/product/items/first HTTP/1.1\r\nHost: a\r\n\r\n";
	my $held = $gateway->connect;
	syswrite $held, $request;
	is(KeelsonTest::Gateway::read_reply($held)->{status}, 200, 'a connection is kept');
	kill 'STOP', $gateway->pid;
	syswrite $held, $request;
	# By its clock no time is left for another request.
	my $until = time() + 12;
	wait_until(sub { time() > $until }, 20);
	kill 'CONT', $gateway->pid;
	is(KeelsonTest::Gateway::read_reply($held)->{status}, 200, 'what came meanwhile is answered');
};

# What comes until it matches.
sub read_until
{
	my ($socket, $pattern) = @_;
	my $select = IO::Select->new($socket);
	my $all = '';
	wait_until(sub { $select->can_read(0) && sysread($socket, $all, 65536, length $all); $all =~ $pattern }, 20);
	return $all;
}

# Sends a note without waiting for the reply.
sub send_note
{
	my ($to, $path, $text) = @_;
	my $json = json_encode({ text => $text, seconds => 0 });
	my $socket = $to->connect;
	syswrite $socket, join "\r\n", "POST $path HTTP/1.1", 'Host: a', 'Content-Type: application/json', "Authorization: Bearer $user->{token}", 'Content-Length: ' . length $json, '', $json;
	return $socket;
}

subtest 'who reads rows slowly' => sub {
	my $small = $keelson->gateway(KEELSON_LOOPS => 1, KEELSON_POOL_ROWS => 1, KEELSON_POOL_SLOW => 1);
	my $reader = $small->connect;
	syswrite $reader, "GET /api/product/export?count=5000000 HTTP/1.1\r\nHost: a\r\n\r\n";
	my $waiting = q{select count(*) from pg_stat_activity where usename = 'keelson_gateway' and wait_event = 'ClientWrite'};
	ok(wait_until(sub { $keelson->sql($waiting) == 1 }, 20), 'holds up whoever sends them');
	is($small->post('/api/auth/login', { email => $user->{email}, password => $user->{password} })->{status}, 200, 'and nobody who logs in');
	is($keelson->sql($waiting), 1, 'meanwhile');
	close $reader;
	is($small->get('/api/product/export?count=3')->{status}, 200, 'when it has gone, others have rows');
	is($small->stop, 0, 'it ends');
};

subtest 'a slow lane with all its links at work' => sub {
	my $small = $keelson->gateway(KEELSON_LOOPS => 1, KEELSON_POOL => 1, KEELSON_POOL_SLOW => 1);
	my $connects = sub { return scalar grep { ($_->{event} || '') eq 'database_connected' } $small->log_lines };
	my $before = $connects->();
	my $holder = $keelson->node->background_psql('keelson');
	$holder->query_safe('begin; lock table product.notes in exclusive mode');
	my $asked = send_note($small, '/api/product/notes/brief', 'held up');
	my $at_work;
	ok(wait_until(sub { $at_work = $keelson->sql(q{select pid from pg_stat_activity where usename = 'keelson_gateway' and wait_event_type = 'Lock'}) }), 'its link is at work');
	kill 'STOP', $at_work;
	# All others are lost, so that the gateway has reason to doubt the lanes.
	$keelson->sql(qq{select pg_terminate_backend(pid) from pg_stat_activity where usename = 'keelson_gateway' and application_name = 'keelson_gateway' and pid <> $at_work});
	ok(wait_until(sub { $connects->() > $before }), 'the fast one connects again');
	is($small->get('/ready', fresh => 1)->{status}, 200, 'the gateway is ready: the link at work has its connection');
	$keelson->sql('alter role keelson_gateway connection limit 1');
	my $reply;
	ok(wait_until(sub { ($reply = $small->get('/ready', fresh => 1))->{status} == 503 }, 20), 'until the time of its route is over');
	like($reply->{content}, qr/too few connections/, 'and there is no other');
	is(KeelsonTest::Gateway::read_reply($asked)->{status}, 504, 'who asked is told');
	kill 'CONT', $at_work;
	$holder->query_safe('commit');
	$holder->quit;
	$keelson->sql('alter role keelson_gateway connection limit -1');
	ok(wait_until(sub { $small->get('/ready', fresh => 1)->{status} == 200 }), 'ready again when there is one');
	is($small->post('/api/product/notes/brief', { text => 'the next', seconds => 0 }, token => $user->{token})->{status}, 201, 'which takes the next');
	is($small->stop, 0, 'and it ends');
};

subtest 'more than the slow lane takes' => sub {
	my $send = sub { return send_note($gateway, '/api/product/notes/lane', @_) };
	# Both links of the lane are busy until all others have come.
	my $holder = $keelson->node->background_psql('keelson');
	$holder->query_safe('begin; lock table product.notes in exclusive mode');
	my @first = map { $send->("first $_") } 1 .. 2;
	ok(wait_until(sub { $keelson->sql(q{select count(*) from pg_stat_activity where usename = 'keelson_gateway' and wait_event_type = 'Lock'}) == 2 }), 'the lane is busy');
	my @asked  = map { $send->("other $_") } 1 .. 100;
	my $select = IO::Select->new(@asked);
	ok(wait_until(sub { return $select->can_read(0) >= 36 }), 'some are answered at once');
	$holder->query_safe('commit');
	$holder->quit;
	my @others = map { KeelsonTest::Gateway::read_reply($_, 30) } @asked;
	my %told;
	$told{"$_->{status} " . ($_->{json}{code} // '') . ' ' . ($_->{headers}{'retry-after'} // '')}++ for @others;
	is_deeply([ sort keys %told ], [ '201  ', '503 UNAVAILABLE 1' ], 'who finds no place in the queue is told when to come again');
	is($told{'201  '}, 64, 'it has 64') or diag json_encode(\%told);
	is($keelson->sql(q{select count(*) from product.notes where text like 'other %'}), 64, 'who was refused has done nothing');
	is(join(' ', map { KeelsonTest::Gateway::read_reply($_)->{status} } @first), '201 201', 'the first two have their answers');
};

subtest 'who has waited for the slow lane in vain' => sub {
	my $small = $keelson->gateway(KEELSON_POOL_SLOW => 1);
	my $holder = $keelson->node->background_psql('keelson');
	$holder->query_safe('begin; lock table product.notes in exclusive mode');
	my $at_work = send_note($small, '/api/product/notes/lane', 'at work');
	ok(wait_until(sub { $keelson->sql(q{select count(*) from pg_stat_activity where usename = 'keelson_gateway' and wait_event_type = 'Lock'}) == 1 }), 'the lane is busy');
	# As many as may wait.
	my @pressed = map { send_note($small, '/api/product/notes/pressed', "pressed $_") } 1 .. 64;
	my %told;
	$told{"$_->{status} " . ($_->{json}{code} // '')}++ for map { KeelsonTest::Gateway::read_reply($_) } @pressed;
	is_deeply(\%told, { '503 UNAVAILABLE' => 64 }, 'is told when the time of the route is over');
	ok(wait_until(sub { $small->log_lines('no connection was free in time') == 64 }), 'as is the operator');
	my $late = send_note($small, '/api/product/notes/lane', 'late');
	ok(wait_until(sub { $small->get('/metrics')->{content} =~ /^keelson_gateway_pool_queued\{lane="slow"\} 1$/m }), 'leaves the place to another') or diag KeelsonTest::Gateway::read_reply($late)->{status};
	$holder->query_safe('commit');
	$holder->quit;
	is(join(' ', map { KeelsonTest::Gateway::read_reply($_)->{status} } $at_work, $late), '201 201', 'who is served');
	is($keelson->sql(q{select count(*) from product.notes where text like 'pressed %'}), 0, 'and nobody else is');
	is($small->stop, 0, 'it ends');
};

subtest 'the time to leave is over' => sub {
	my $leaving = $keelson->gateway(KEELSON_DRAIN_SECONDS => 1);
	my $load = slow_one($leaving);
	is($leaving->stop('TERM', 15), 0, 'it ends all the same');
	is(($load->stop)[0], '503', 'what is under way is refused');
	ok(wait_until(sub { sleepers() == 0 }, 20), 'and ends in the database');
};

subtest 'told to end with no descriptor left' => sub {
	my $full = $keelson->gateway;
	my $descriptors = sub { my @all = glob '/proc/' . $full->pid . '/fd/*'; return scalar @all };
	my $most = $descriptors->();
	system 'prlimit', '--pid', $full->pid, "--nofile=$most";
	# As many as there were gaps are let in, the others wait.
	my @held = map { $full->connect } 1 .. 40;
	ok(wait_until(sub { $descriptors->() >= $most }), 'it has all that it may have');
	is($full->stop('TERM', 15), 0, 'it ends');
};

subtest 'told to end twice' => sub {
	my $leaving = $keelson->gateway(KEELSON_DRAIN_SECONDS => 60);
	my $load = slow_one($leaving);
	kill 'TERM', $leaving->pid;
	ok(wait_until(sub { !eval { $leaving->connect } }), 'nobody is let in any more');
	kill 'TERM', $leaving->pid;
	isnt($leaving->wait_exit(10), 0, 'it ends at once, with a status that says so');
	is(($load->stop)[0], '599', 'what was under way is cut off');
	ok(wait_until(sub { sleepers() == 0 }, 30), 'and ends in the database');
};

# A request that takes ten seconds, under way.
sub slow_one
{
	my ($from) = @_;
	my $load = $from->load(1, sub {
		my (undef, $count) = @_;
		return if $count > 1;
		return $from->post('/api/product/notes/slow', { text => 'slow', seconds => 9 }, token => $user->{token}, fresh => 1)->{status};
	});
	wait_until(sub { sleepers() == 1 }) or fail('a slow one runs');
	return $load;
}

subtest 'clients that were refused and do not leave' => sub {
	my $descriptors = sub { my @all = glob '/proc/' . $gateway->pid . '/fd/*'; return scalar @all };
	my $before = $descriptors->();
	my @held = map { $gateway->connect } 1 .. 20;
	syswrite $_, "POST /api/product/notes HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\n\r\n{" for @held;
	is(join(' ', map { KeelsonTest::Gateway::read_reply($_)->{status} } @held), join(' ', (413) x 20), 'a body too large');
	my $late = $gateway->connect;
	syswrite $late, "POST /api/product/small HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" . ' ' x 255;
	my $reply = KeelsonTest::Gateway::read_reply($late);
	is($reply->{status}, 413, 'one that turns out to be');
	is($gateway->log_line($reply->{json}{meta}{requestId})->{error}, undef, 'is not told of as if the client had gone');
	ok(wait_until(sub { $descriptors->() < $before + 10 }, 15), 'their connections are let go all the same') or diag $descriptors->() . " after $before";
};

subtest 'as many bodies as are held' => sub {
	my $full = $keelson->gateway(KEELSON_LOOPS => 1);
	my $send = sub {
		my ($length, $sent) = @_;
		my $socket = $full->connect;
		print $socket "PUT /api/product/upload HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: $length\r\n\r\n" . 'x' x $sent;
		$socket->flush;
		return $socket;
	};
	# Their buffers have two MiB each. One that another takes the room of is refused itself.
	my @held = map { $send->(2_000_000, 1_200_000) } 1 .. 63;
	my $large;
	ok( wait_until(sub {
			push @held, $send->(2_000_000, 1_200_000);
			$large = KeelsonTest::Gateway::read_reply($send->(40_000, 40_000));
			return $large->{status} == 503;
		}),
		'another large one finds no room');
	is($large->{json}{code}, 'UNAVAILABLE', 'and is told so');
	is(KeelsonTest::Gateway::read_reply($send->(10_000, 10_000))->{status}, 200, 'a small one is taken');
	@held = ();
	ok(wait_until(sub { KeelsonTest::Gateway::read_reply($send->(40_000, 40_000))->{status} == 200 }), 'so is a large one when they have gone');
	is($full->stop, 0, 'it ends');
};

subtest 'as many replies as are held' => sub {
	my $full = $keelson->gateway(KEELSON_LOOPS => 1);
	my $ask = sub {
		my ($request) = @_;
		my $socket = $full->connect;
		syswrite $socket, "$request\r\nHost: a\r\n\r\n";
		return $socket;
	};
	# They read no further than the first bytes.
	my ($size, @held) = (8_000_000);
	my $begins = sub { my $socket = $ask->("GET /api/product/large?size=$size HTTP/1.1"); push @held, $socket; sysread $socket, my $said, 12; return $said // '' };
	is($begins->(), 'HTTP/1.1 200', 'a large reply');
	ok(wait_until(sub { $begins->() eq 'HTTP/1.1 503' }, 60), 'there is an end to what is held for who does not read');
	cmp_ok(scalar @held, '>', 4, 'but some have theirs');
	my $refused = KeelsonTest::Gateway::read_reply($ask->("GET /api/product/large?size=$size HTTP/1.1"));
	is("$refused->{status} $refused->{json}{code} $refused->{headers}{'retry-after'}", '503 UNAVAILABLE 1', 'others are told to come again');
	is(KeelsonTest::Gateway::read_reply($ask->('GET /api/product/items/first HTTP/1.1'))->{status}, 200, 'a small one is not refused');
	@held = ();
	ok(wait_until(sub { $begins->() eq 'HTTP/1.1 200' }), 'nor a large one when they have gone');
	@held = ();
	is($full->stop, 0, 'it ends');
};

subtest 'a log that nobody reads' => sub {
	my ($pipe, $into) = map { $keelson->node->basedir . $_ } '/unread', '/into_unread';
	POSIX::mkfifo($pipe, 0600) or die "$pipe: $!";
	open my $log, '+<', $pipe or die "$pipe: $!";
	$log->blocking(0);
	open my $script, '>', $into or die "$into: $!";
	print $script qq{#!/bin/sh\nexec "\$@" 2>"$pipe"\n};
	close $script;
	chmod 0755, $into;
	local $ENV{KEELSON_TEST_GATEWAY_WRAPPER} = "$into " . ($ENV{KEELSON_TEST_GATEWAY_WRAPPER} || '');
	my $unread = $keelson->gateway;
	my $ask = sub { return $unread->get('/live', headers => { 'User-Agent' => 'x' x 250, @_ }) };
	is(scalar(grep { $ask->()->{status} == 200 } 1 .. 600), 600, 'holds nobody up');
	ok(wait_until(sub { $unread->get('/metrics')->{content} =~ /^keelson_gateway_log_lines_dropped_total [1-9]/m }), 'what is lost of it is counted');
	my $lines = '';
	my $last = '01900000-0000-7000-8000-00000000000a';
	ok(wait_until(sub { 1 while sysread $log, $lines, 65536, length $lines; $ask->('X-Request-ID' => $last); $lines =~ /$last/ }), 'it goes on when it is read');
	is(scalar(grep { !eval { json_decode($_) } } grep { !/^==/ } $lines =~ /^(.+)\n/mg), 0, 'no line is torn');
	is($unread->stop, 0, 'and it ends');
};

subtest 'SIGHUP' => sub {
	my $loads = sub { return scalar grep { ($_->{event} || '') eq 'routes_loaded' } $gateway->log_lines };
	my $before = $loads->();
	kill 'HUP', $gateway->pid;
	ok(wait_until(sub { $loads->() > $before }), 'the routes are loaded again');
	is($gateway->get('/api/product/items/first')->{status}, 200, 'and it serves on');
};

subtest 'the command line' => sub {
	my $run = sub {
		my ($arguments, %env) = @_;
		my $said = '';
		IPC::Run::run([ 'env', '-i', (map { "$_=$env{$_}" } sort keys %env), $ENV{KEELSON_TEST_GATEWAY}, @$arguments ], '<', \undef, '>&', \$said);
		return ($? >> 8, $said);
	};
	is_deeply([ $run->(['--check'], KEELSON_DATABASE_URL => $keelson->url) ], [ 0, '' ], 'a sound configuration: no word');
	my ($status, $said) = $run->(['--check'], KEELSON_DATABASE_URL => $keelson->url, KEELSON_PORT => 'x', KEELSON_POOL => '-1');
	is($status, 1, 'an unsound one');
	like($said, $_, 'each fault by name') for qr/KEELSON_PORT/, qr/KEELSON_POOL/;
	unlike($said, qr/\Q$keelson->{password}\E/, 'and no secret');
	($status, $said) = $run->(['--help']);
	is($status, 1, 'anything else is refused');
	like($said, qr/^usage: .*\[--check\]/, 'with what there is');
};

subtest 'IPv6' => sub {
	plan skip_all => 'there is no IPv6' unless IO::Socket::IP->new(LocalHost => '::1', Listen => 1);
	my $six = $keelson->gateway(KEELSON_LISTEN => '::1', unready => 1);
	my $reply;
	ok(wait_until(sub {
		my $socket = IO::Socket::IP->new(PeerHost => '::1', PeerPort => $six->port) or return 0;
		syswrite $socket, "GET /api/product/whoami HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer $user->{token}\r\n\r\n";
		$reply = KeelsonTest::Gateway::read_reply($socket);
		return $reply->{status} == 200;
	}, 20), 'it listens there') or diag $reply->{content};
	is($reply->{json}{data}{ip}, '::1', 'and knows who asks');
	is($six->stop, 0, 'and ends');
};

subtest 'connections of one address' => sub {
	my ($own) = grep { /^\d+\.\d+\.\d+\.\d+$/ && !/^127\./ } split ' ', `hostname -I`;
	plan skip_all => 'this machine has no address but its own' unless $own;
	local $ENV{KEELSON_TEST_GATEWAY_WRAPPER} = 'prlimit --nofile=4096 ' . ($ENV{KEELSON_TEST_GATEWAY_WRAPPER} || '');
	my $open = $keelson->gateway(KEELSON_LISTEN => '0.0.0.0');
	my $connect = sub { return IO::Socket::INET->new(PeerAddr => $own, PeerPort => $open->port, Timeout => 10) || die "connect: $@" };
	my @held = map { $connect->() } 1 .. 520;
	my $select = IO::Select->new(@held);
	my @refused;
	ok(wait_until(sub { return 8 == (@refused = $select->can_read(0)) }, 20), 'eight of 520 are too many') or diag scalar(@refused) . ' were';
	is(join(' ', map { KeelsonTest::Gateway::read_reply($_)->{status} } @refused), join(' ', (503) x 8), 'and are told so');
	is($open->get('/live', fresh => 1)->{status}, 200, 'others are served');
	my %is_refused = map { $_ => 1 } @refused;
	@held = grep { !$is_refused{$_} } @held;
	close pop @held;
	ok(wait_until(sub {
		my $socket = $connect->();
		syswrite $socket, "GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
		return KeelsonTest::Gateway::read_reply($socket, 2)->{status} == 200;
	}), 'who leaves makes room');
	@held = ();
	is($open->stop, 0, 'it ends');
};

# Who is refused stays for a while to be told, and could so take the places of all others.
subtest 'more connections of one address than are told that they are too many' => sub {
	my ($own) = grep { /^\d+\.\d+\.\d+\.\d+$/ && !/^127\./ } split ' ', `hostname -I`;
	plan skip_all => 'this machine has no address but its own' unless $own;
	# Of 1,100 descriptors each of two loops takes 412 connections.
	local $ENV{KEELSON_TEST_GATEWAY_WRAPPER} = 'prlimit --nofile=1100 ' . ($ENV{KEELSON_TEST_GATEWAY_WRAPPER} || '');
	my $open = $keelson->gateway(KEELSON_LISTEN => '0.0.0.0');
	my @held = map { IO::Socket::INET->new(PeerAddr => $own, PeerPort => $open->port, Timeout => 10) || die "connect: $@" } 1 .. 860;
	is(scalar(grep { $open->get('/live', fresh => 1)->{status} == 200 } 1 .. 8), 8, 'others are served');
	syswrite $held[0], "GET /live HTTP/1.1\r\nHost: a\r\n\r\n";
	is(KeelsonTest::Gateway::read_reply($held[0])->{status}, 200, 'so are those who came first');
	@held = ();
	is($open->stop, 0, 'it ends');
};

subtest 'event streams of one address' => sub {
	my $behind = $keelson->gateway(KEELSON_TRUSTED_PROXIES => '127.0.0.0/8,2001:db8:0:ff::7/128');
	my $open = sub {
		my ($address) = @_;
		my $socket = $behind->connect;
		syswrite $socket, "GET /api/product/tick HTTP/1.1\r\nHost: a\r\n" . ($address ? "X-Forwarded-For: $address\r\n" : '') . "\r\n";
		my $said = read_until($socket, qr/\r\n\r\n.*\n\n|\r\n\r\n\{.*\}$/s);
		return { socket => $socket, %{ KeelsonTest::Gateway::parse_reply($said) } };
	};
	my @held = map { $open->('203.0.113.7') } 1 .. 64;
	is(scalar(grep { $_->{status} == 200 } @held), 64, '64 are open');
	my $refused = $open->('203.0.113.7');
	is("$refused->{status} " . ($refused->{json}{code} // ''), '429 RATE_LIMITED', 'one more is refused');
	is($refused->{headers}{'retry-after'}, 10, 'with a time to come again');
	syswrite $refused->{socket}, "GET /api/product/items/first HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n";
	is(KeelsonTest::Gateway::read_reply($refused->{socket})->{status}, 200, 'and nothing else is');
	is($open->('203.0.113.8')->{status}, 200, 'another address has its own');
	close((pop @held)->{socket});
	ok(wait_until(sub { $open->('203.0.113.7')->{status} == 200 }, 20), 'who leaves makes room');
	@held = map { $open->("2001:db8:0:1::$_") } 1 .. 64;
	is(scalar(grep { $_->{status} == 200 } @held), 64, 'those of IPv6');
	is($open->('2001:db8:0:1::ffff')->{status}, 429, 'are counted by network');
	is($open->('2001:db8:0:2::1')->{status}, 200, 'each its own');
	push @held, map { $open->($_ % 2 ? '' : '2001:db8:0:ff::7') } 1 .. 132;
	is(scalar(grep { $_->{status} == 200 } @held), 64 + 132, 'a proxy may have more, and whoever is here');
	@held = ();
	is($behind->stop, 0, 'it ends');
};

done_testing();
$keelson->stop;
