# Requests: paths, methods, bodies, arguments (contract, parts 1 and 2).

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('requests');
$keelson->product;
my $gateway = $keelson->gateway;
my $user = $keelson->user($gateway);

# A reply is an error of the shape that the contract gives, with this status and code.
sub is_error
{
	my ($reply, $status, $code, $name) = @_;
	my $json = $reply->{json} || {};
	my $fits = $reply->{status} == $status && ($json->{code} // '') eq $code && !$json->{success}
		&& length($json->{error} // '') && ($json->{meta}{requestId} // '') eq ($reply->{headers}{'x-request-id'} // 'none');
	ok($fits, $name) or diag("$reply->{status} $reply->{content}");
	return $json;
}

# Fields that a reply names as faulty.
sub faulty_fields { return join ',', sort map { $_->{field} } @{ $_[0]{json}{details} || [] }; }

subtest 'paths' => sub {
	for my $path (qw(/api/product/items/first /api/v1/product/items/first /v1/product/items/first /product/items/first
		/product/items/first/ /api/product/items/first/))
	{
		my $reply = $gateway->get($path);
		is("$reply->{status} " . ($reply->{json}{data}{name} // ''), '200 the first', $path);
	}
	my $id = '0194e0a0-0000-7000-8000-000000000001';
	is($gateway->get("/api/product/items/$id")->{json}{data}{id}, $id, 'a parameter of the path');
	is($gateway->get('/api/product/items/0194e0a0%2D0000-7000-8000-000000000001')->{json}{data}{id}, $id, 'is decoded');
	is_error($gateway->get('/api/product/none'),  404, 'NOT_FOUND', 'unknown path');
	is_error($gateway->get('/'),                  404, 'NOT_FOUND', 'nothing at the root');
	is_error($gateway->get('/api/v9/product/echo'), 404, 'NOT_FOUND', 'unknown version');
	is_error($gateway->get('/api/api/product/echo'), 404, 'NOT_FOUND', 'the prefix is taken off once');
	is_error($gateway->get("/api/product/items/$id/more"), 404, 'NOT_FOUND', 'a longer path');
	is_error($gateway->get('/api/product//echo'), 404, 'NOT_FOUND', 'an empty segment');
	is_error($gateway->get('/api/product/../product/echo'), 400, 'BAD_REQUEST', 'dots are not followed');
	is_error($gateway->get('/api/product/items/%zz'), 400, 'BAD_REQUEST', 'a broken escape');
	is_error($gateway->get('/api/product/items/a%00b'), 400, 'BAD_REQUEST', 'an escaped NUL');
	is_error($gateway->get('/api/product/items/%ff%fe'), 400, 'BAD_REQUEST', 'no UTF-8');
	my $reply = $gateway->get('/api/product/items/nonsense');
	is_error($reply, 400, 'VALIDATION_FAILED', 'a parameter that does not fit');
	is(faulty_fields($reply), 'id', 'names the parameter');
};

subtest 'methods' => sub {
	my $reply = $gateway->delete('/api/product/echo');
	is_error($reply, 405, 'METHOD_NOT_ALLOWED', 'another method');
	is(join(',', sort split /, */, $reply->{headers}{allow}), 'GET,HEAD,OPTIONS,POST', 'Allow lists what works');
	$reply = $gateway->request('HEAD', '/api/product/items/first');
	is($reply->{status}, 200, 'HEAD where GET works');
	is($reply->{content} // '', '', 'without a body');
	is($gateway->request('HEAD', '/api/product/none')->{status}, 404, 'HEAD of an unknown path');
	like($gateway->raw("TRACE $_ HTTP/1.1\r\nHost: a\r\n\r\n"), qr/^HTTP\/1.1 405/, "TRACE $_ is refused") for qw(/api/product/echo /);
	$reply = $gateway->raw("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nGET /live HTTP/1.1\r\nHost: a\r\n\r\n");
	like($reply, qr/^HTTP\/1.1 405.*^Allow: GET, .*"code":"METHOD_NOT_ALLOWED"/ms, 'CONNECT is refused in words');
	is(() = $reply =~ /HTTP\/1\.1/g, 1, 'and what was meant for a tunnel is no request');
	like($gateway->raw("BREW /api/product/echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), qr/^HTTP\/1.1 (405|501)/, 'an unknown method is refused');
	$reply = $gateway->delete('/api/product/nothing');
	is("$reply->{status} [$reply->{content}]", '204 []', 'a function without a result: 204 without a body');
};

subtest 'arguments' => sub {
	my $reply = $gateway->post('/api/product/echo',
		{ flag => JSON::PP::true, smallCount => 3, name => 'Ada', tags => [ 'a', 'b,c', '"' ], payload => { x => [ 1, undef ] },
			onDay => '2025-01-15', atTime => '2025-01-15T01:02:03+01:00', colour => 'red' });
	is($reply->{status}, 200, 'all types') or diag $reply->{content};
	my $data = $reply->{json}{data};
	is_deeply(
		[ map { $data->{$_} } qw(flag smallCount name tags payload onDay atTime colour amount) ],
		[ JSON::PP::true, 3, 'Ada', [ 'a', 'b,c', '"' ], { x => [ 1, undef ] }, '2025-01-15', '2025-01-15T00:02:03Z', 'red', undef ],
		'arrive and come back');
	is_deeply($data->{given}, [ sort qw(flag small_count name tags payload on_day at_time colour) ], 'the function knows what was given');
	is_deeply($gateway->post('/api/product/echo', { name => undef })->{json}{data}{given}, ['name'], 'null is given');
	is_deeply($gateway->get('/api/product/echo?smallCount=7&name=A%20%C3%A9%2B+b')->{json}{data}{name}, "A \x{e9}+ b", 'query: + is a space, UTF-8');
	is($gateway->get('/api/product/echo?smallCount=7')->{json}{data}{smallCount}, 7, 'query: text becomes a number');
	is($gateway->get('/api/product/echo?flag=true')->{json}{data}{flag}, JSON::PP::true, 'query: text becomes a boolean');
	my $id = '0194e0a0-0000-7000-8000-000000000001';
	is($gateway->put("/api/product/echo/$id?name=Ada", { amount => 1 })->{json}{data}{itemId}, $id, 'path, query and body together');

	for my $number (qw(0.1 12345678901234567890.123456789012345678901234567890 1e400 -0.0000000000000000000001 100))
	{
		my $got = $gateway->request('POST', '/api/product/echo', body => "{\"amount\":$number}", headers => { 'Content-Type' => 'application/json' });
		my ($came) = ($got->{content} // '') =~ /"amount":\s*([^,}]+)/;
		my $same = defined $came && $keelson->sql("select $number = $came") eq 't';
		ok($same, "number $number is exact") or diag $got->{content};
	}

	$reply = $gateway->post('/api/product/echo', { name => 'x', colour => 'pink', smallCount => 40000, flag => 'perhaps',
		onDay => '2025-02-30', itemId => 'no', nonsense => 1, tags => 'x' });
	is_error($reply, 400, 'VALIDATION_FAILED', 'faults');
	is(faulty_fields($reply), 'colour,flag,itemId,name,nonsense,onDay,smallCount,tags', 'are all named at once');
	my %message = map { $_->{field} => $_->{message} } @{ $reply->{json}{details} };
	like($message{colour}, qr/must be red, green or blue/i, 'in the words of the domain');
	like($message{name}, qr/must have 2 to 20 characters/i, 'of each');
	unlike($reply->{content}, qr/invalid input|domain|constraint|product\./, 'and not in those of PostgreSQL');

	$reply = $gateway->put("/api/product/echo/$id?name=Ada", { name => 'Eve' });
	is_error($reply, 400, 'VALIDATION_FAILED', 'a name in two places');
	is(faulty_fields($reply), 'name', 'is named');
	$reply = $gateway->get('/api/product/echo?name=Ada&name=Eve');
	is_error($reply, 400, 'VALIDATION_FAILED', 'a name twice in the query');
	$reply = $gateway->post('/api/product/notes', {}, token => $user->{token});
	is_error($reply, 400, 'VALIDATION_FAILED', 'a needed argument is missing');
	is(faulty_fields($reply), 'text', 'and named');
	is_error($gateway->post('/api/product/echo', { small_count => 1 }), 400, 'VALIDATION_FAILED', 'the SQL name is not the JSON name');
	is_error($gateway->get('/api/product/echo?nonsense=1'), 400, 'VALIDATION_FAILED', 'an unknown name in the query');
	is_error($gateway->get('/api/product/echo?a=%00'), 400, 'BAD_REQUEST', 'a NUL in the query');
};

subtest 'bodies' => sub {
	my $send = sub {
		my ($body, $type, $path) = @_;
		return $gateway->request('POST', $path || '/api/product/echo', body => $body,
			headers => { defined $type ? ('Content-Type' => $type) : () });
	};
	my $json = 'application/json';
	is($send->('{"smallCount":1}', $json)->{status}, 200, 'JSON');
	is($send->('{"smallCount":1}', 'application/json; charset=utf-8')->{status}, 200, 'with charset');
	is($send->('{"smallCount":1}', 'APPLICATION/JSON;charset="UTF-8"')->{status}, 200, 'in capitals');
	is($send->('{"smallCount":1}', 'application/merge-patch+json')->{status}, 200, '+json');
	is_error($send->('{"smallCount":1}', 'text/plain'), 415, 'UNSUPPORTED_MEDIA_TYPE', 'another type');
	is_error($send->('smallCount=1', 'application/x-www-form-urlencoded'), 415, 'UNSUPPORTED_MEDIA_TYPE', 'a form');
	is_error($send->('{}', 'application/json; charset=latin1'), 415, 'UNSUPPORTED_MEDIA_TYPE', 'another charset');
	is($send->('', $json)->{status}, 200, 'no body is no arguments');
	is($send->(" \n{} \t", $json)->{status}, 200, 'spaces around');
	my %bad = (
		'{'                             => 'unfinished',
		'{"a":1,}'                      => 'a comma too many',
		"{'name':'x'}"                  => 'wrong quotes',
		'{"name":"a","name":"b"}'       => 'a name twice',
		'{"payload":{"a":1,"\u0061":2}}' => 'a name twice, escaped, inside',
		'{"name":"a\u0000b"}'           => 'U+0000',
		"{\"name\":\"a\x00b\"}"         => 'a NUL byte',
		"{\"name\":\"\xff\xfe\"}"       => 'no UTF-8',
		'{"name":"\ud800"}'             => 'half a surrogate pair',
		"{\"name\":\"a\nb\"}"           => 'a bare newline in a string',
		'{"amount":01}'                 => 'a leading zero',
		'{"amount":NaN}'                => 'NaN',
		'{} {}'                         => 'something after it',
		"\xef\xbb\xbf{}"                => 'a byte order mark',
		'{"payload":' . '[' x 33 . ']' x 33 . '}' => 'nested too deep',
	);
	is_error($send->($_, $json), 400, 'MALFORMED_JSON', $bad{$_}) for sort keys %bad;
	is($send->('{"payload":' . '[' x 31 . ']' x 31 . '}', $json)->{status}, 200, '32 levels are allowed');
	for my $body ('[]', '1', '"x"', 'null', 'true')
	{
		my $reply = $send->($body, $json);
		ok($reply->{status} == 400 && $reply->{json}{code} =~ /^(VALIDATION_FAILED|MALFORMED_JSON|BAD_REQUEST)$/, "$body is no object");
	}
	is_error($gateway->request('POST', '/api/product/echo', body => 'x' x 2_000_000, headers => { 'Content-Type' => $json }),
		413, 'PAYLOAD_TOO_LARGE', 'more than a mebibyte');
	is_error($send->('{"name":"' . 'x' x 100 . '"}', $json, '/api/product/small'), 413, 'PAYLOAD_TOO_LARGE', 'more than the route takes');
	my $body = '{"payload":"' . 'x' x 1_000_000 . '"}';
	is(length $send->($body, $json)->{json}{data}{payload}, 1_000_000, 'a large body arrives whole');

	my $head = "POST /api/product/echo HTTP/1.1\r\nHost: a\r\nContent-Type: $json\r\n";
	my ($reply) = $gateway->raw($head . "Content-Length: 99999999\r\n\r\n", 3);
	like($reply, qr/^HTTP\/1.1 413/, '413 before the body is sent');
	$reply = $gateway->raw($head . "Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n", 3);
	like($reply, qr/^HTTP\/1.1 413/, 'and in place of 100 Continue');
	$reply = $gateway->raw("POST /api/product/none HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", 3);
	like($reply, qr/^HTTP\/1.1 404/, '404 in place of 100 Continue');
	my $chunk = sprintf("%x\r\n%s\r\n", 65536, 'x' x 65536);
	my $socket = $gateway->connect;
	local $SIG{PIPE} = 'IGNORE';
	syswrite $socket, $head . "Transfer-Encoding: chunked\r\n\r\n";
	for (1 .. 40) { last unless syswrite $socket, $chunk; }
	like(scalar KeelsonTest::Gateway::read_all($socket, 3), qr/413/, 'a chunked body is counted');
	$reply = KeelsonTest::Gateway::parse_reply($gateway->raw($head
		. "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" . join('', map { "1\r\n$_\r\n" } split //, '{"smallCount":5}') . "0\r\n\r\n"));
	is($reply->{status}, 200, 'a body in chunks of one byte');
};

subtest 'raw bodies' => sub {
	my $bytes = join '', map { chr } 0 .. 255;
	my $reply = $gateway->request('PUT', '/api/product/upload', body => $bytes, headers => { 'Content-Type' => 'image/png' });
	require Digest::SHA;
	is($reply->{json}{data}{name}, 'image/png 256 ' . Digest::SHA::sha256_hex($bytes), 'arrive as they are');
	is_error($gateway->request('PUT', '/api/product/upload', body => $bytes, headers => { 'Content-Type' => 'application/json' }),
		415, 'UNSUPPORTED_MEDIA_TYPE', 'only in the types of the route');
	my ($head) = map { "PUT /api/product/fields HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\nX-Signature: one\r\n$_\r\n" }
		"x-signature: \"two\"\r\nX-Odd: \xff\\\r\nX-Empty:\r\nAuthorization: Basic abc\r\nCookie: a=b\r\nX-CSRF-Token: c\r\n";
	my $fields = KeelsonTest::Gateway::parse_reply($gateway->raw($head))->{json}{data};
	is_deeply($fields, { host => 'a', connection => 'close', 'content-length' => '0', 'x-signature' => 'one, "two"', 'x-odd' => "\x{fffd}\\", 'x-empty' => '' },
		'header fields, joined, in small letters, without credentials') or diag explain $fields;
	$fields = KeelsonTest::Gateway::parse_reply($gateway->raw("PUT /api/product/fields HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n"
		. join('', map { "X-$_: $_\r\n" } 1 .. 80) . "\r\n"))->{json}{data};
	is(scalar(keys %$fields), 64, 'a bounded number of them');
};

done_testing();
$keelson->stop;
