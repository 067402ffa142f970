# Access keys over HTTP: made, used, rotated and revoked, and everything that is refused on the way.
use strict;
use warnings;

use Compress::Zlib ();
use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('keys');
my $gateway = $keelson->gateway;
$keelson->sql(<<'SQL');
create schema app;
grant usage on schema app to keelson_app;
create function app.whoami() returns jsonb language plpgsql as $$
begin
    return jsonb_build_object('user', keelson.current_user_id(), 'actor', keelson.current_actor());
end $$;
comment on function app.whoami() is 'Who is calling.';
select keelson.route('GET whoami', 'app.whoami', scope => 'usage.write');
select keelson.route('POST whoami', 'app.whoami', scope => 'usage.write');
SQL
wait_until(sub { $gateway->get('/api/whoami')->{status} == 401 && $gateway->post('/api/whoami', {})->{status} == 401 }, 5) or die 'the endpoint is not there';

my $user = $keelson->user($gateway);
my %as   = (token => $user->{token});

sub code { return $_[0]{json}{code} }
sub fields { return join ' ', sort map { $_->{field} } @{ $_[0]{json}{details} || [] } }

sub make
{
	my (%more) = @_;
	my $reply = $gateway->post('/api/user/access-keys', { name => 'Key', scopes => ['usage.write'], %more }, %as);
	is($reply->{status}, 201, 'a key is made') or diag $reply->{content};
	return $reply->{json}{data};
}

sub try_key { return $gateway->get('/api/whoami', token => $_[0]) }

my $made = make(name => 'Nightly import');
subtest 'make and use' => sub {
	is_deeply(
		[ sort keys %$made ],
		[ sort qw(id name key prefix scopes allowedNetworks expiresAt lastUsedAt createdAt) ],
		'the key has all fields');
	like($made->{key}, qr/\Aks_live_[0-9A-Za-z]{94}\z/, 'the key looks as scanners expect');
	is(substr($made->{key}, 0, 19), $made->{prefix}, 'the prefix is its beginning');

	# The checksum as others would compute it.
	my $sum = Compress::Zlib::crc32(substr $made->{key}, 0, 96);
	my @digits = (0 .. 9, 'A' .. 'Z', 'a' .. 'z');
	my $text = '';
	for (1 .. 6) { $text = $digits[ $sum % 62 ] . $text; $sum = int($sum / 62); }
	is(substr($made->{key}, 96), $text, 'the checksum is the CRC-32 of the rest');

	is_deeply(try_key($made->{key})->{json}{data}, { user => $user->{id}, actor => 'access_key' }, 'as a bearer token');
	my $reply = $gateway->get('/api/whoami', headers => { 'X-API-Key' => $made->{key} });
	is($reply->{status}, 200, 'as X-API-Key');
	is($reply->{headers}{'cache-control'}, 'no-store', 'nobody keeps the reply');
	is($gateway->get('/api/whoami', headers => { Cookie => "__Host-ks_access=$made->{key}" })->{status}, 401, 'not as a cookie');
	is($gateway->post('/api/whoami', {}, headers => { 'X-API-Key' => $made->{key} })->{status}, 200, 'no proof of a page is asked');
	is($gateway->get('/api/whoami', %as)->{status}, 403, 'a session has no scopes');

	my $list = $gateway->get('/api/user/access-keys', %as);
	is($list->{json}{data}[0]{id}, $made->{id}, 'it is listed');
	ok(!grep({ exists $_->{key} } @{ $list->{json}{data} }), 'without the key');
	unlike($list->{content}, qr/\Q@{[ substr $made->{key}, 30 ]}/, 'or any of its secret');
	wait_until(
		sub {
			$keelson->sql('select keelson._access_keys_write_down()');
			return defined $gateway->get('/api/user/access-keys', %as)->{json}{data}[0]{lastUsedAt};
		},
		10);
	ok(defined $gateway->get('/api/user/access-keys', %as)->{json}{data}[0]{lastUsedAt}, 'and says when it was used');
};

subtest 'what a key may not' => sub {
	for my $call (
		[ 'GET', '/api/auth/me' ], [ 'GET', '/api/user/profile' ], [ 'GET', '/api/user/access-keys' ], [ 'GET', '/api/user/activity' ],
		[ 'POST', '/api/user/access-keys', { name => 'x', scopes => ['usage.write'] } ], [ 'DELETE', "/api/user/access-keys/$made->{id}" ],
		[ 'PUT', '/api/user/profile', { name => 'x' } ], [ 'GET', '/api/admin/audit' ])
	{
		my ($method, $path, $body) = @$call;
		my $reply = $gateway->request($method, $path, token => $made->{key}, $body ? (json => $body) : ());
		my $needs = $path =~ /admin/ ? 'This needs an access key with the scope audit.read' : 'An access key may not do this';
		is("$reply->{status} $reply->{json}{error}", "403 $needs", "$method $path: 403, and why");
	}
	my $status = $gateway->get('/api/auth/status', token => $made->{key});
	ok(!$status->{json}{data}{authenticated}, 'status: a key is not signed in');
	ok(!defined $status->{json}{data}{user}, 'and is told nothing of its user');
	is($gateway->post('/api/auth/logout', { everywhere => JSON::PP::true }, token => $made->{key})->{status}, 401, 'it ends no session');
	is($gateway->get('/api/auth/me', %as)->{status}, 200, 'they go on');
};

subtest 'nonsense' => sub {
	my $key = $made->{key};
	my %bad = (
		cut => substr($key, 0, -1), padded => "${key}0", 'with a sign' => "$key=", 'lower case' => lc $key, test => $key =~ s/live/test/r,
		'another digit' => substr($key, 0, 60) . (substr($key, 60, 1) eq '7' ? 'k' : '7') . substr($key, 61),
		'the prefix' => $made->{prefix}, 'no more than ks_' => 'ks_', long => 'ks_live_' . 'a' x 7000, 'a refresh token' => $user->{refresh});
	my ($shape) = map { delete $_->{meta}; json_encode($_) } $gateway->get('/api/whoami', token => 'nonsense')->{json};
	for my $name (sort keys %bad)
	{
		my $reply = try_key($bad{$name});
		is($reply->{status}, 401, "$name: 401") or diag $reply->{content};
		delete $reply->{json}{meta};
		is(json_encode($reply->{json}), $shape, "$name: the one shape");
		like($reply->{headers}{'www-authenticate'}, qr/^Bearer error="invalid_token"/, "$name: WWW-Authenticate");
	}
};

subtest 'bad input' => sub {
	my $before = $keelson->sql('select count(*) from keelson.access_keys');
	my @cases = (
		[ {}, 400, 'name scopes' ],
		[ { name => 'x', scopes => ['no.such'] }, 400, 'scopes' ],
		[ { name => 'x', scopes => ['jobs.run'] }, 400, 'scopes' ],
		[ { name => 'x', scopes => ['users.write'] }, 403, 'scopes' ],
		[ { name => 'x', scopes => ['usage.write'], expiresAt => '2020-01-01T00:00:00Z' }, 400, 'expiresAt' ],
		[ { name => 'x', scopes => ['usage.write'], allowedNetworks => ['10.0.0.1/8'] }, 400, 'allowedNetworks' ],
		[ { name => "x\n", scopes => ['usage.write'], expiresAt => 1, allowedNetworks => 'all' }, 400, 'allowedNetworks expiresAt name' ],
		[ { name => 'x', scopes => ['usage.write'], userId => $user->{id} }, 400, 'userId' ]);
	for my $case (@cases)
	{
		my ($body, $status, $fields) = @$case;
		my $reply = $gateway->post('/api/user/access-keys', $body, %as);
		is($reply->{status}, $status, json_encode($body) . ": $status");
		is(fields($reply), $fields, 'names the fields') or diag $reply->{content};
	}
	is($keelson->sql('select count(*) from keelson.access_keys'), $before, 'nothing was written');
	is($gateway->post('/api/user/access-keys', { name => 'x', scopes => ['usage.write'] })->{status}, 401, 'nobody makes no key');
	is($gateway->post('/api/user/access-keys/x/rotate', {}, %as)->{status}, 400, 'an id is one');
	is($gateway->post("/api/user/access-keys/$user->{id}/rotate", {}, %as)->{status}, 404, 'of a key');
	my $other = $keelson->user($gateway);
	is($gateway->request($_->[0], "/api/user/access-keys/$made->{id}$_->[1]", token => $other->{token})->{status}, 404, "$_->[0] of another's")
		for [ 'DELETE', '' ], [ 'POST', '/rotate' ];
};

subtest 'networks and expiry' => sub {
	my $bound = make(allowedNetworks => ['192.0.2.0/24']);
	my $reply = try_key($bound->{key});
	is($reply->{status}, 403, 'not from here');
	is(code($reply), 'FORBIDDEN', 'by its code');
	is(try_key(make(allowedNetworks => [ '192.0.2.0/24', '127.0.0.0/8' ])->{key})->{status}, 200, 'from here');
	my $short = make(expiresAt => '2099-01-01T00:00:00Z');
	is(try_key($short->{key})->{status}, 200, 'before its end');
	$keelson->sql("update keelson.access_keys set expires_at = now() where id = '$short->{id}'");
	is(code(try_key($short->{key})), 'TOKEN_EXPIRED', 'after it');
};

subtest 'rotate and revoke' => sub {
	my $first = make();
	my %once  = (headers => { 'Idempotency-Key' => 'rotate' });
	my $reply = $gateway->post("/api/user/access-keys/$first->{id}/rotate", {}, %as, %once);
	is($reply->{status}, 201, 'rotated') or diag $reply->{content};
	my $second = $reply->{json}{data};
	isnt($second->{key}, $first->{key}, 'another key');
	is(try_key($_)->{status}, 200, 'both are good') for $first->{key}, $second->{key};
	is($gateway->post("/api/user/access-keys/$first->{id}/rotate", {}, %as, %once)->{json}{data}{key}, $second->{key}, 'the lost reply again');
	is(code($gateway->post("/api/user/access-keys/$first->{id}/rotate", {}, %as)), 'CONFLICT', 'once, and no more');
	my $third = $gateway->post("/api/user/access-keys/$second->{id}/rotate", { overlapSeconds => 0 }, %as)->{json}{data};
	is(try_key($second->{key})->{status}, 401, 'without an overlap it ends at once');
	is(try_key($third->{key})->{status}, 200, 'and the next is good');
	is($gateway->delete("/api/user/access-keys/$third->{id}", %as)->{status}, 204, 'revoked');
	is(try_key($third->{key})->{status}, 401, 'at once');
	is($gateway->delete("/api/user/access-keys/$third->{id}", %as)->{status}, 404, 'it is gone');
	is(try_key($first->{key})->{status}, 200, 'the others go on');

	# 16 rotations at once: one makes the successor.
	my $fourth  = make();
	my $bytes   = "POST /api/user/access-keys/$fourth->{id}/rotate HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer $user->{token}\r\n"
		. "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
	my @sockets = map { $gateway->connect } 1 .. 16;
	syswrite $_, $bytes for @sockets;
	my @replies = map { KeelsonTest::Gateway::read_reply($_, 20) } @sockets;
	is(scalar(grep { $_->{status} == 201 } @replies), 1, 'of 16 rotations one succeeds');
	is(scalar(grep { $_->{status} == 409 } @replies), 15, 'the others are told');
	is(try_key($fourth->{key})->{status}, 200, 'the key goes on');
};

subtest 'the user' => sub {
	my $key = make()->{key};
	$keelson->sql("update keelson.users set status = 'blocked' where id = '$user->{id}'");
	is(try_key($key)->{status}, 401, 'blocked: no keys');
	$keelson->sql("update keelson.users set status = 'active' where id = '$user->{id}'");
	is(try_key($key)->{status}, 200, 'unblocked: the same keys');
};

subtest 'a limit of its own' => sub {
	my $limited = KeelsonTest->new('keys_limited', limits => 1);
	my $front   = $limited->gateway(KEELSON_RATE_LIMITS => 'on');
	# On a busy machine limits that are adaptive would be less than they say.
	$limited->sql('update keelson.rate_limits set is_adaptive = false');
	my $owner   = $limited->user($front);
	my ($mine, $other) = map {
		my ($id, $key) = split /\|/, $limited->sql("select id, key from keelson.access_key_create('$owner->{id}', '$_', '{usage.write}')");
		+{ id => $id, key => $key };
	} 'mine', 'other';
	$limited->sql("select keelson.rate_limit_override('general', 2, who => '$owner->{id}', access_key_id => '$mine->{id}')");
	# An endpoint that the key may not call counts as well.
	my @statuses = map { $front->get('/api/auth/me', token => $mine->{key})->{status} } 1 .. 3;
	is("@statuses", '403 403 429', 'two requests and no more');
	is($front->get('/api/auth/me', token => $other->{key})->{status}, 403, 'the other key counts elsewhere');
};

# The key is nowhere but with its owner.
my $dump = $keelson->sql("select string_agg(k::text, ' ') from keelson.access_keys as k") . $keelson->sql("select string_agg(e::text, ' ') from keelson.audit_events as e");
unlike($dump . $keelson->server_log . $gateway->log_text, qr/ks_(?:live|test)_[0-9A-Za-z]{30}/, 'no key in tables and logs');
done_testing();
