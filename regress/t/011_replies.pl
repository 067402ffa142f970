# Replies: envelope, errors, headers, lists, compression, CORS (contract, part 3).

use strict;
use warnings;

use IO::Uncompress::Gunzip qw(gunzip);
use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('replies');
$keelson->product;
my $gateway = $keelson->gateway(ALLOWED_ORIGINS => 'https://app.example.com,http://localhost:3000');
my $user = $keelson->user($gateway);

my $uuid = qr/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/;

subtest 'envelope' => sub {
	my $reply = $gateway->get('/api/product/items/first');
	is($reply->{headers}{'content-type'}, 'application/json; charset=utf-8', 'type with charset');
	is_deeply([ sort keys %{ $reply->{json} } ], [qw(data meta success)], 'members');
	is($reply->{json}{success}, JSON::PP::true, 'success');
	is_deeply([ sort keys %{ $reply->{json}{meta} } ], [qw(requestId timestamp)], 'meta');
	like($reply->{json}{meta}{timestamp}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/, 'time in UTC');
	like($reply->{json}{meta}{requestId}, qr/^$uuid$/, 'request id');
	is($reply->{json}{meta}{requestId}, $reply->{headers}{'x-request-id'}, 'the same as in the header');
	is(substr($reply->{json}{meta}{requestId}, 14, 1), '7', 'of version 7');
	is($gateway->post('/api/product/notes', { text => 'a note' }, token => $user->{token})->{status}, 201, 'the status of the route');
};

subtest 'request ids' => sub {
	my $id = 'c0ffee00-1111-4222-8333-444455556666';
	my $reply = $gateway->get('/api/product/whoami', token => $user->{token}, headers => { 'X-Request-ID' => $id });
	is($reply->{headers}{'x-request-id'}, $id, 'a client\'s UUID is kept');
	is($reply->{json}{data}{requestId}, $id, 'and known in SQL');
	for my $bad ('nonsense', "$id$id", '{c0ffee00-1111-4222-8333-444455556666}')
	{
		like($gateway->get('/live', headers => { 'X-Request-ID' => $bad })->{headers}{'x-request-id'}, qr/^(?!\Q$id\E)$uuid$/, "not \"$bad\"");
	}
	my $trace = '4bf92f3577b34da6a3ce929d0e0e4736';
	$reply = $gateway->get('/api/product/items/first', headers => { traceparent => "00-$trace-00f067aa0ba902b7-01" });
	is($gateway->log_line($reply->{headers}{'x-request-id'})->{traceId}, $trace, 'traceparent is honoured');
	$reply = $gateway->get('/api/product/items/first', headers => { traceparent => '00-' . '0' x 32 . '-00f067aa0ba902b7-01' });
	my $made = $gateway->log_line($reply->{headers}{'x-request-id'})->{traceId} || 'made';
	unlike($made, qr/^0+$/, 'an invalid one is not');
};

subtest 'errors' => sub {
	my $fail = sub { return $gateway->post('/api/product/fail', { how => $_[0] }); };
	my %expected = (
		division => [ 500, 'INTERNAL' ], table => [ 500, 'INTERNAL' ], grant => [ 500, 'INTERNAL' ], raise => [ 500, 'INTERNAL' ],
		not_found => [ 404, 'NOT_FOUND' ], teapot => [ 409, 'SLOT_TAKEN' ], serialization => [ 503, 'UNAVAILABLE' ],
		deadlock => [ 503, 'UNAVAILABLE' ], read_only => [ 503, 'UNAVAILABLE' ], full => [ 503, 'UNAVAILABLE' ],
		cancelled => [ 504, 'TIMEOUT' ]);
	for my $how (sort keys %expected)
	{
		my $reply = $fail->($how);
		my ($status, $code) = @{ $expected{$how} };
		is("$reply->{status} " . ($reply->{json}{code} // ''), "$status $code", $how) or diag $reply->{content};
		unlike($reply->{content}, qr/canary|division|secret_place|passwords|permission denied|product\.|PL\/pgSQL|SQLSTATE/i, "$how: nothing from inside");
		ok($reply->{headers}{'retry-after'}, "$how: Retry-After") if $status == 503;
	}
	my $reply = $fail->('not_found');
	is($reply->{json}{error}, 'There is no such thing', 'the message begins with a capital');
	is($reply->{json}{hint}, 'Look elsewhere.', 'the hint is there');
	is_deeply([ map { $_->{field} } @{ $fail->('teapot')->{json}{details} } ], ['slotId'], 'the field under its JSON name');
	$reply = $fail->('raise');
	my $line = $gateway->log_line($reply->{headers}{'x-request-id'});
	ok($line, 'the log has the failure under the request id');
	like($gateway->log_text, qr/canary-inside/, 'with the words from inside');

	my $post = sub { return $gateway->post($_[0], $_[1], token => $user->{token}); };
	$reply = $post->('/api/product/notes', { text => 'forbidden' });
	is("$reply->{status} $reply->{json}{code}", '400 VALIDATION_FAILED', 'a check with a comment');
	like($reply->{content}, qr/this word is not allowed/i, 'speaks its comment');
	$post->('/api/product/notes', { text => 'once' });
	$reply = $post->('/api/product/notes', { text => 'once' });
	is("$reply->{status} $reply->{json}{code}", '409 CONFLICT', 'a unique violation without a comment');
	unlike($reply->{content}, qr/notes_text|duplicate key/, 'tells nothing of the constraint');
	$post->('/api/product/badges', { name => 'gold' });
	$reply = $post->('/api/product/badges', { name => 'gold' });
	is("$reply->{status} $reply->{json}{code}", '409 CONFLICT', 'so does another');

	$reply = $post->('/api/product/notes/refused', { text => 'kept although refused' });
	is("$reply->{status} $reply->{json}{code} $reply->{json}{challenge}", '403 NOT_TODAY abc', 'a refusal with members of its own');
	is($reply->{headers}{'retry-after'}, 7, 'and headers');
	is($keelson->sql("select count(*) from product.notes where text = 'kept although refused'"), 1, 'commits');
};

subtest 'who may' => sub {
	my $reply = $gateway->get('/api/product/whoami');
	is("$reply->{status} $reply->{json}{code}", '401 UNAUTHENTICATED', 'nobody');
	ok($reply->{headers}{'www-authenticate'}, 'WWW-Authenticate');
	for my $bad ('nonsense', "$user->{token}x", 'a.b.c', 'x' x 9000)
	{
		$reply = $gateway->get('/api/product/whoami', token => $bad);
		ok($reply->{status} == 401 || $reply->{status} == 431, 'a token that is none') or diag $reply->{content};
	}
	$reply = $gateway->get('/api/product/administer', token => $user->{token});
	is("$reply->{status} $reply->{json}{code}", '403 FORBIDDEN', 'without the permission');
	$keelson->sql("select keelson.role_grant('$user->{email}', 'admin')");
	is($gateway->get('/api/product/administer', token => $user->{token})->{status}, 204, 'with it, at once');
	is($gateway->get('/api/product/administer')->{status}, 401, 'nobody again');
};

subtest 'problem+json' => sub {
	my $reply = $gateway->post('/api/product/echo', { name => 'x', nonsense => 1 }, headers => { Accept => 'application/problem+json' });
	like($reply->{headers}{'content-type'}, qr{^application/problem\+json}, 'type');
	my $problem = $reply->{json};
	is($problem->{status}, 400, 'status');
	ok($problem->{type} && $problem->{title} && $problem->{instance}, 'type, title, instance');
	is($problem->{code}, 'VALIDATION_FAILED', 'code');
	like($gateway->get('/api/none', headers => { Accept => 'application/problem+json' })->{headers}{'content-type'}, qr{problem\+json}, 'from the gateway too');
	like($gateway->get('/api/none', headers => { Accept => 'application/json, application/problem+json;q=0.5' })->{headers}{'content-type'},
		qr{^application/(problem\+)?json}, 'either, where both are accepted');
};

subtest 'headers' => sub {
	my %replies = (
		ok      => $gateway->get('/api/product/items/first'),
		refused => $gateway->get('/api/none'),
		health  => $gateway->get('/live'),
		signed  => $gateway->get('/api/product/whoami', token => $user->{token}),
		empty   => $gateway->delete('/api/product/nothing'),
		head    => $gateway->request('HEAD', '/api/product/items/first'),
		metrics => $gateway->get('/metrics'),
		docs    => $gateway->get('/api/docs'),
		openapi => $gateway->get('/api/openapi.json'),
		socket  => KeelsonTest::Gateway::parse_reply($gateway->raw("GET / HTTP/1.1\r\n\r\n")));
	for my $name (sort keys %replies)
	{
		my $headers = $replies{$name}{headers};
		is($headers->{'x-content-type-options'}, 'nosniff', "$name: nosniff");
		is($headers->{'x-frame-options'}, 'DENY', "$name: no frames");
		is($headers->{'referrer-policy'}, 'no-referrer', "$name: no referrer");
		like($headers->{'content-security-policy'} // '', qr/default-src 'none'/, "$name: policy");
		like($headers->{'x-request-id'} // '', qr/^$uuid$/, "$name: request id");
		ok(!$headers->{server} || $headers->{server} !~ /microhttpd/i, "$name: no talk of the library");
	}
	like($replies{signed}{headers}{'cache-control'}, qr/no-store/, 'nothing authenticated is stored');
	ok(!$replies{ok}{headers}{'strict-transport-security'}, 'no HSTS over http');
	unlike($replies{docs}{headers}{'content-security-policy'}, qr/unsafe|https?:|\*/, 'the docs page allows nothing from outside');
};

subtest 'pages of its own' => sub {
	my $reply = $gateway->get('/api/product/page');
	is($reply->{content}, "<p>\xc3\xbcn\xc3\xaf</p>", 'a raw reply goes out as it is');
	is($reply->{headers}{'content-type'}, 'text/html; charset=utf-8', 'with its type');
	is_deeply($reply->{headers}{'set-cookie'}, [ 'a=1', 'b=2' ], 'two cookies are two headers');
};

subtest 'lists' => sub {
	my ($cursor, @names);
	for my $page (1 .. 3)
	{
		my $reply = $gateway->get('/api/product/items' . ($cursor ? "?cursor=$cursor" : ''));
		push @names, map { $_->{name} } @{ $reply->{json}{data} };
		is($reply->{json}{meta}{pagination}{limit}, 20, "page $page");
		$cursor = $reply->{json}{meta}{pagination}{nextCursor};
	}
	is_deeply(\@names, [ map { "item $_" } 1 .. 45 ], 'all there, once, in order');
	is($cursor, undef, 'the last page says so');
	is(@{ $gateway->get('/api/product/items?limit=100')->{json}{data} }, 45, 'limit');
	for my $limit (0, 101, -1, 'x', 1e9)
	{
		my $reply = $gateway->get("/api/product/items?limit=$limit");
		is("$reply->{status} " . ($reply->{json}{details}[0]{field} // ''), '400 limit', "limit $limit is refused");
	}
	is($gateway->get('/api/product/items?cursor=nonsense')->{status}, 400, 'a cursor of one\'s own making is refused');
	is_deeply($gateway->get('/api/product/notes', token => $keelson->user($gateway)->{token})->{json}{data}, [], 'an empty list is an array');
};

subtest 'compression' => sub {
	my $get = sub { return $gateway->get("/api/product/large?size=$_[0]", headers => { 'Accept-Encoding' => $_[1] }); };
	my $reply = $get->(20000, 'gzip');
	is($reply->{headers}{'content-encoding'}, 'gzip', 'over 1 KiB');
	cmp_ok(length $reply->{content}, '<', 1000, 'is small');
	like($reply->{headers}{vary} // '', qr/Accept-Encoding/i, 'Vary');
	gunzip(\(my $packed = $reply->{content}), \my $text);
	is(length json_decode($text)->{data}{text}, 20000, 'and whole');
	ok(!$get->(10, 'gzip')->{headers}{'content-encoding'}, 'not what is small');
	ok(!$get->(20000, 'identity')->{headers}{'content-encoding'}, 'not who does not ask');
	ok(!$get->(20000, 'gzip;q=0')->{headers}{'content-encoding'}, 'not who refuses');
	is($get->(20000, 'br, gzip;q=0.5')->{headers}{'content-encoding'}, 'gzip', 'among others');
};

subtest 'cross-origin' => sub {
	my %preflight = ('Access-Control-Request-Method' => 'POST', 'Access-Control-Request-Headers' => 'content-type, authorization');
	my $reply = $gateway->request('OPTIONS', '/api/product/echo', headers => { Origin => 'https://app.example.com', %preflight });
	is($reply->{status}, 204, 'a preflight');
	is($reply->{headers}{'access-control-allow-origin'}, 'https://app.example.com', 'of a configured origin is allowed');
	like($reply->{headers}{'access-control-allow-methods'}, qr/POST/, 'its methods');
	like($reply->{headers}{'access-control-allow-headers'}, qr/authorization/i, 'its headers');
	like($reply->{headers}{vary}, qr/Origin/i, 'Vary');
	$reply = $gateway->get('/api/product/items/first', headers => { Origin => 'http://localhost:3000' });
	is($reply->{headers}{'access-control-allow-origin'}, 'http://localhost:3000', 'so is a request');
	like($reply->{headers}{'access-control-expose-headers'} // '', qr/X-Request-ID/i, 'with readable headers');
	for my $origin ('https://evil.example.com', 'https://app.example.com.evil.com', 'null', 'https://APP.example.com:444')
	{
		$reply = $gateway->request('OPTIONS', '/api/product/echo', headers => { Origin => $origin, %preflight });
		ok(!$reply->{headers}{'access-control-allow-origin'}, "not $origin");
		ok(!$gateway->get('/api/product/items/first', headers => { Origin => $origin })->{headers}{'access-control-allow-origin'}, "nor its requests");
	}
	is($gateway->request('OPTIONS', '/api/none', headers => { Origin => 'https://app.example.com', %preflight })->{status}, 404, 'an unknown path');
};

done_testing();
$keelson->stop;
