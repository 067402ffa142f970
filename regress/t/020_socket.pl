# What is wrong before it is a request: framing, headers, slowness, numbers (issue: bad input at the socket).

use strict;
use warnings;

# Two thousand connections are more files than a process is given unasked.
BEGIN { exec 'sh', '-c', 'ulimit -n 5000; exec "$0" "$@"', $^X, $0, @ARGV unless $ENV{KEELSON_TEST_FILES}++; }

use IO::Select;
use KeelsonTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $keelson = KeelsonTest->new('socket');
$keelson->product;
my $gateway = $keelson->gateway;
my $json = "Content-Type: application/json\r\n";
my $post = "POST /api/product/echo HTTP/1.1\r\nHost: a\r\n$json";
local $SIG{PIPE} = 'IGNORE';

# Sends bytes; the first reply must have the status and be ours, and the connection must end.
sub refuses
{
	my ($bytes, $status, $code, $name) = @_;
	my $socket = $gateway->connect;
	syswrite $socket, $bytes;
	my ($all, $closed) = KeelsonTest::Gateway::read_all($socket, 3);
	my $reply = KeelsonTest::Gateway::parse_reply($all);
	my $is_ours = ($reply->{json}{code} // '') eq $code && $reply->{headers}{'x-request-id'}
		&& ($reply->{headers}{'content-type'} // '') =~ /json/;
	ok($reply->{status} == $status && $is_ours && $closed, $name) or diag("closed: $closed, answered: $all");
	my @answers = $all =~ m{HTTP/1\.1 \d}g;
	is(@answers, 1, "$name: one answer") if @answers != 1;
	return $reply;
}

# What follows a refused head must never be taken for a request.
my $smuggled = "GET /api/product/whoami HTTP/1.1\r\nHost: a\r\n\r\n";

# What the gateway counts as connected, the asking connection among them.
sub connections { return $gateway->get('/metrics')->{content} =~ /^keelson_gateway_connections (\d+)/m ? $1 : 0; }

subtest 'requests behind the last' => sub {
	my $reader = IO::Socket::INET->new(Proto => 'tcp') or die $@;
	setsockopt $reader, Socket::SOL_SOCKET(), Socket::SO_RCVBUF(), 16_384;
	connect $reader, Socket::pack_sockaddr_in($gateway->port, Socket::inet_aton('127.0.0.1')) or die $!;
	syswrite $reader, "GET /api/product/large?size=1000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" . $smuggled x 500;
	ok(KeelsonTest::wait_until(sub { return connections() == 1; }, 30), 'the connection has ended, for the gateway');
	my ($all, $closed) = KeelsonTest::Gateway::read_all($reader, 10);
	my $reply = KeelsonTest::Gateway::parse_reply($all);
	is($reply->{status}, 200, 'the last request is answered');
	is(length $reply->{content}, $reply->{headers}{'content-length'}, 'and the client gets all of it');
	ok($closed, 'and the end');
};

subtest 'framing' => sub {
	my %bad = (
		'Content-Length and Transfer-Encoding'  => "${post}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		'Transfer-Encoding and Content-Length'  => "${post}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
		'two Content-Lengths'                   => "${post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}$smuggled",
		'the same Content-Length twice'         => "${post}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}$smuggled",
		'a list of Content-Lengths'             => "${post}Content-Length: 2, 2\r\n\r\n{}",
		'Content-Length with a sign'            => "${post}Content-Length: +2\r\n\r\n{}",
		'a negative Content-Length'             => "${post}Content-Length: -2\r\n\r\n{}",
		'Content-Length in hexadecimal'         => "${post}Content-Length: 0x2\r\n\r\n{}",
		'an empty Content-Length'               => "${post}Content-Length: \r\n\r\n{}",
		'Transfer-Encoding: gzip, chunked'      => "${post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		'Transfer-Encoding: chunked, identity'  => "${post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		'Transfer-Encoding: identity'           => "${post}Transfer-Encoding: identity\r\n\r\n",
		'Transfer-Encoding: xchunked'           => "${post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		'Transfer-Encoding twice'               => "${post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		'Transfer-Encoding with a tab'          => "${post}Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
		'a folded header'                       => "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n",
		'a header folded with a tab'            => "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\tc\r\n\r\n",
		'a folded first header'                 => "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
		'a bare line feed after the line'       => "GET / HTTP/1.1\nHost: a\r\n\r\n",
		'a bare line feed in the headers'       => "GET / HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n",
		'only bare line feeds'                  => "GET / HTTP/1.1\nHost: a\n\n",
		'a bare carriage return in a value'     => "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rc\r\n\r\n",
		'a bare carriage return in the line'    => "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
		'a NUL in a value'                      => "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n",
		'a NUL in a name'                       => "GET / HTTP/1.1\r\nHost: a\r\nX\0A: b\r\n\r\n",
		'a NUL in the target'                   => "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
		'a control character in a value'        => "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\x07c\r\n\r\n",
		'a space before the colon'              => "GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n",
		'a space before the colon of a length'  => "${post}Content-Length : 2\r\n\r\n{}",
		'a header without a colon'              => "GET / HTTP/1.1\r\nHost: a\r\nX-A\r\n\r\n",
		'a header without a name'               => "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
		'a name that is no token'               => "GET / HTTP/1.1\r\nHost: a\r\nX{A}: b\r\n\r\n",
		'no Host'                               => "GET / HTTP/1.1\r\n\r\n",
		'two Hosts'                             => "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
		'a line of two words'                   => "GET /\r\nHost: a\r\n\r\n",
		'a line of four words'                  => "GET / x HTTP/1.1\r\nHost: a\r\n\r\n",
		'two spaces in the line'                => "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
		'not HTTP'                              => "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		'a method that is no token'             => "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
		'a version that is none'                => "GET / HTTX/1.1\r\nHost: a\r\n\r\n",
		'a chunk size that is none'             => "${post}Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
		'a negative chunk size'                 => "${post}Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
		'a chunk size that overflows'           => "${post}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n",
		'a chunk with an extension'             => "${post}Transfer-Encoding: chunked\r\n\r\n2;name=value\r\n{}\r\n0\r\n\r\n",
		'a chunk longer than its size'          => "${post}Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
		'a chunk line ended by a bare line feed' => "${post}Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n",
		'a chunk ended by a bare line feed'     => "${post}Transfer-Encoding: chunked\r\n\r\n2\r\n{}\n0\r\n\r\n",
	);
	refuses($bad{$_}, 400, 'BAD_REQUEST', $_) for sort keys %bad;
	refuses("${post}Content-Length: 99999999999999999999999\r\n\r\n{}", 413, 'PAYLOAD_TOO_LARGE', 'an immense Content-Length');
	my $version = KeelsonTest::Gateway::parse_reply($gateway->raw("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 3));
	ok($version->{status} == 505 || $version->{status} == 400, 'HTTP/2.0') or diag $version->{content};
};

subtest 'sizes' => sub {
	refuses("GET / HTTP/1.1\r\nHost: a\r\nX-A: " . 'b' x 17_000 . "\r\n\r\n", 431, 'HEADERS_TOO_LARGE', 'one large header');
	refuses("GET / HTTP/1.1\r\nHost: a\r\n" . join('', map { "X-$_: b\r\n" } 1 .. 3000) . "\r\n", 431, 'HEADERS_TOO_LARGE', 'many headers');
	refuses('GET / HTTP/1.1' . "\r\nHost: a\r\nX-A: " . 'b' x 40_000, 431, 'HEADERS_TOO_LARGE', 'headers without end');
	refuses('GET /' . 'x' x 8_300 . " HTTP/1.1\r\nHost: a\r\n\r\n", 414, 'URI_TOO_LONG', 'a long target');
	refuses('GET /' . 'x' x 60_000, 414, 'URI_TOO_LONG', 'a target without end');
	refuses('GET /?a=' . 'x' x 8_300 . " HTTP/1.1\r\nHost: a\r\n\r\n", 414, 'URI_TOO_LONG', 'a long query');
	refuses('GET /?' . join('&', map { 'a=1' } 1 .. 1_500) . " HTTP/1.1\r\nHost: a\r\n\r\n", 400, 'BAD_REQUEST', 'a query of many parts');
	is($gateway->get('/api/none', headers => { 'X-A' => 'b' x 15_000 })->{status}, 404, 'just below: headers');
	is($gateway->get('/api/' . 'x' x 8_000)->{status}, 404, 'just below: target');
	is($gateway->get('/api/product/echo?' . join('&', map { "a$_=" } 1 .. 1000))->{status}, 400, 'many names in the query');
};

subtest 'what is fine' => sub {
	my $replies = sub {
		my ($bytes) = @_;
		my $all = $gateway->raw($bytes, 3);
		return join ' ', $all =~ m{HTTP/1\.1 (\d+) }g;
	};
	my $last = "GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
	my $get = "GET /api/product/items/first HTTP/1.1\r\nHost: a\r\n\r\n";
	is($replies->($get x 3 . $last), '200 200 200 200', 'requests in a row on one connection');
	my $live = "GET /live HTTP/1.1\r\nHost: a\r\n\r\n";
	is($replies->($live x 40 . $get . $live x 3 . $get . $last), join(' ', (200) x 46), 'also those that the gateway answers at once');
	is($replies->("${live}GET /no HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost : a\r\n\r\n$last"), '200 404 400', 'up to one that is refused');
	is($replies->("${post}Content-Length: 2\r\n\r\n{}$last"), '200 200', 'a body, then a request');
	is($replies->("${post}Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-T: 1\r\n\r\n$last"), '200 200', 'chunks with a trailer');
	is($replies->("GET http://a/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), '200', 'an absolute target');
	is($replies->("GET /live HTTP/1.0\r\n\r\n"), '200', 'HTTP/1.0');
	is($replies->("\r\n$last"), '200', 'an empty line before');
	my $id = '0190a7b2-0000-7000-8000-00000000000a';
	like($gateway->raw("GET /live HTTP/1.1\r\nHost: a\r\nX-Request-ID: \t$id \t\r\nConnection: x, close \r\n\r\n", 3),
		qr/X-Request-ID: $id\r\n/, 'white space around a value');
	is($replies->("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") =~ /^(204|200|404|400)$/, 1, 'OPTIONS *');
	my $socket = $gateway->connect;
	for my $byte (split //, $last) { syswrite $socket, $byte; }
	is(KeelsonTest::Gateway::read_reply($socket)->{status}, 200, 'byte by byte');
	$socket = $gateway->connect;
	syswrite $socket, $get;
	shutdown $socket, 1;
	is(KeelsonTest::Gateway::read_reply($socket)->{status}, 200, 'a client that has said all it will say');
};

# One connection's turn must not take from another what it has not read yet.
subtest 'in a row on several connections' => sub {
	my $body = '{"text":"' . 'x' x 12_000 . '"}';
	my $long = "${post}Content-Length: " . length($body) . "\r\n\r\n$body";
	my $live = "GET /live HTTP/1.1\r\nHost: a\r\n\r\n";
	my $none = "GET /no HTTP/1.1\r\nHost: a\r\n\r\n";
	my $last = "GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
	for my $row ([ ($none) x 3 ], [ ($live) x 3 ], [ $none, $long, $none ], [ ($long) x 3 ])
	{
		my @sockets = map { $gateway->connect } 1 .. 6;
		is($gateway->get('/live')->{status}, 200, 'all are there');
		syswrite $_, join('', @$row, $last) for @sockets;
		my @counts = map { my $all = KeelsonTest::Gateway::read_all($_, 5); scalar(() = $all =~ m{HTTP/1\.1 \d}g) } @sockets;
		is("@counts", '4 4 4 4 4 4', 'each has all its answers');
	}
};

# The slow ones all at once, so that the test stays short. Each: what it sends at first, what it sends each
# second, within how many seconds it must have ended, and what it may have been answered.
subtest 'slow clients' => sub {
	my %slow = (
		'says nothing'          => [ '', '', 80, qr/^$|^HTTP\/1.1 408/ ],
		'drips its headers'     => [ "GET / HTTP/1.1\r\nHost: a\r\n", 'X', 13, qr/^$|^HTTP\/1.1 408/ ],
		'drips its first line'  => [ '', 'G', 13, qr/^$|^HTTP\/1.1 (408|400)/ ],
		'drips a second head'   => [ "GET /live HTTP/1.1\r\nHost: a\r\n\r\n", 'G', 14, qr/^HTTP\/1.1 200/ ],
		'drips its body'        => [ "${post}Content-Length: 100\r\n\r\n", ' ', 40, qr/^HTTP\/1.1 408|^$/ ],
		'drips its chunks'      => [ "${post}Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n", 40, qr/^HTTP\/1.1 408|^$/ ],
	);
	my ($select, %state) = (IO::Select->new);
	for my $name (sort keys %slow)
	{
		my $socket = $gateway->connect;
		$socket->blocking(0);
		syswrite $socket, $slow{$name}[0] if length $slow{$name}[0];
		$select->add($socket);
		$state{$socket} = { name => $name, socket => $socket, all => '' };
	}
	my $reader = $gateway->connect;
	setsockopt $reader, Socket::SOL_SOCKET(), Socket::SO_RCVBUF(), 4096;
	my $big = "GET /api/product/large?size=8000000 HTTP/1.1\r\nHost: a\r\n\r\n";
	syswrite $reader, $big;
	my ($began, $worst, $served, $next) = (time(), 0, 0, time());
	while (grep({ !$_->{ended} } values %state) && time() - $began < 45 * $KeelsonTest::slow)
	{
		if (time() >= $next)
		{
			for (grep { !$_->{ended} } values %state) { syswrite $_->{socket}, $slow{ $_->{name} }[1] if length $slow{ $_->{name} }[1]; }
			sysread $reader, my $byte, 1;
			$next += 1;
		}
		for my $socket ($select->can_read(0.2))
		{
			my $got = sysread $socket, my $bytes, 65536;
			$state{$socket}{all} .= $bytes if $got;
			next if $got;
			$state{$socket}{ended} = time() - $began;
			$select->remove($socket);
		}
		my $asked = time();
		$served++ if $gateway->get('/api/product/items/first')->{status} == 200;
		$worst = time() - $asked if time() - $asked > $worst;
		last if !grep { !$_->{ended} && $_->{name} ne 'says nothing' } values %state;
	}
	for my $one (sort { $a->{name} cmp $b->{name} } values %state)
	{
		my ($most, $pattern) = @{ $slow{ $one->{name} } }[ 2, 3 ];
		next if $one->{name} eq 'says nothing' && !$one->{ended};
		ok(defined $one->{ended} && $one->{ended} < $most * $KeelsonTest::slow, "who $one->{name} is ended in time")
			or diag(defined $one->{ended} ? "after $one->{ended} s" : 'never');
		like($one->{all}, $pattern, "who $one->{name} is answered in our words, if at all");
	}
	cmp_ok($served, '>', 20, 'others are served meanwhile');
	cmp_ok($worst, '<', 1 * $KeelsonTest::slow, 'and quickly');
};

# Kibibytes of memory of the gateway.
sub resident { return slurp('/proc/' . $gateway->pid . '/status') =~ /^VmRSS:\s+(\d+)/m ? $1 : 0; }

subtest 'many idle connections' => sub {
	my $before = resident();
	my @idle;
	for (1 .. 2000)
	{
		my $socket = eval { $gateway->connect } or last;
		push @idle, $socket;
	}
	is(@idle, 2000, '2,000 connections');
	my $started = time();
	is($gateway->get('/api/product/items/first', fresh => 1)->{status}, 200, 'another is served');
	cmp_ok(time() - $started, '<', 1 * $KeelsonTest::slow, 'quickly');
	syswrite $_, "GET /live HTTP/1.1\r\nHost: a\r\n\r\n" for @idle;
	my $answered = grep { KeelsonTest::Gateway::read_reply($_)->{status} == 200 } @idle[ 0 .. 199 ];
	is($answered, 200, 'they are served when they speak');
	my $each = (resident() - $before) / 2000;
	SKIP: {
		skip 'memory under a checker', 1 if $ENV{KEELSON_TEST_GATEWAY_WRAPPER};
		cmp_ok($each, '<', 48, sprintf 'at %.0f KiB each', $each);
	}
	close $_ for @idle;
	ok(wait_until(sub { $gateway->get('/live')->{status} == 200 }), 'and is there when they have gone');
};

is($gateway->get('/api/product/items/first')->{status}, 200, 'the gateway goes on');
ok($gateway->running, 'it never ended');
done_testing();
$keelson->stop;
