# Nobody is somebody else: identity, roles and rows, through HTTP and from inside an endpoint function.

use strict;
use warnings;

use KeelsonTest;
use MIME::Base64 qw(encode_base64url decode_base64url);
use Test::More;

my $keelson = KeelsonTest->new('unforgeable');
$keelson->product;
my $gateway = $keelson->gateway(KEELSON_LOOPS => 1, KEELSON_POOL => 1);
my ($ada, $eve) = map { $keelson->user($gateway) } 1 .. 2;

my $who = sub { return $gateway->get('/api/product/whoami', token => $_[0]{token}, headers => { 'User-Agent' => 'agent' })->{json}{data}; };
my $seen = $who->($ada);
is($seen->{userId}, $ada->{id}, 'the user of the token');
is($seen->{actor}, 'user', 'as a user');
is($seen->{role}, 'keelson_app', 'with the application\'s role');
is($seen->{ip}, '127.0.0.1', 'from where the connection comes');
is($seen->{userAgent}, 'agent', 'by this agent');
is($who->($eve)->{userId}, $eve->{id}, 'the next request on the same connection is another user\'s');
is($gateway->post('/api/product/whoami', {})->{json}{data}{userId}, undef, 'and then nobody\'s');

subtest 'from inside a function' => sub {
	for my $how (qw(set_config act_as role reset session dispatch discard token notes roles users passwords))
	{
		my $reply = $gateway->post('/api/product/forge', { how => $how, target => $eve->{id} }, token => $ada->{token});
		my $data = $reply->{json}{data} || {};
		is($data->{userId}, $ada->{id}, "$how: still oneself") or diag $reply->{content};
		is($data->{role}, 'keelson_app', "$how: with the same role");
		isnt($data->{actor}, 'went through', "$how: refused") unless $how =~ /^(set_config|reset)$/;
		is($gateway->post('/api/product/whoami', {})->{json}{data}{userId}, undef, "$how: nothing is left behind");
	}
	is($keelson->sql("select count(*) from product.notes where text = 'forged'"), 0, 'no row under another\'s name');
};

subtest 'rows' => sub {
	$gateway->post('/api/product/notes', { text => 'of ada' }, token => $ada->{token});
	$gateway->post('/api/product/notes', { text => 'of eve' }, token => $eve->{token});
	for my $user ([ $ada, 'of ada' ], [ $eve, 'of eve' ])
	{
		my $names = join ',', map { $_->{name} } @{ $gateway->get('/api/product/notes', token => $user->[0]{token})->{json}{data} };
		is($names, $user->[1], 'each sees their own');
	}
};

subtest 'tokens' => sub {
	my ($head, $claims, $signature) = split /\./, $ada->{token};
	my $claim = sub {
		my (%change) = @_;
		return encode_base64url(json_encode({ %{ json_decode(decode_base64url($claims)) }, %change }));
	};
	my %forged = (
		'another user'          => join('.', $head, $claim->(sub => $eve->{id}), $signature),
		'a longer life'         => join('.', $head, $claim->(exp => time + 1e6), $signature),
		'no algorithm'          => join('.', encode_base64url('{"alg":"none","typ":"at+jwt"}'), $claims, ''),
		'no signature'          => join('.', $head, $claims, ''),
		'no signature at all'   => "$head.$claims",
		'another algorithm'     => join('.', encode_base64url('{"alg":"HS256","typ":"at+jwt"}'), $claims, $signature),
		'half a signature'      => join('.', $head, $claims, substr $signature, 0, 43),
		'zeroes as signature'   => join('.', $head, $claims, encode_base64url("\0" x 64)),
		'padding'               => "$ada->{token}=",
		'a space inside'        => join(' .', $head, $claims, $signature),
		'a fourth part'         => "$ada->{token}.x",
		'the refresh token'     => $ada->{refresh},
		'another\'s signature'  => join('.', $head, $claims, (split /\./, $eve->{token})[2]),
	);
	for my $name (sort keys %forged)
	{
		my $reply = $gateway->get('/api/product/whoami', token => $forged{$name});
		is("$reply->{status} " . ($reply->{json}{code} // ''), '401 UNAUTHENTICATED', $name);
	}
	is($gateway->get('/api/product/whoami', token => $ada->{token})->{status}, 200, 'the real one');
	is($gateway->request('GET', '/api/product/whoami', headers => { Authorization => "bearer $ada->{token}" })->{status}, 200, 'the scheme in any case');
	is($gateway->request('GET', '/api/product/whoami', headers => { Authorization => "Basic $ada->{token}" })->{status}, 401, 'another scheme');
	is($gateway->request('GET', "/api/product/whoami?access_token=$ada->{token}")->{status} =~ /^4/, 1, 'never in the address');
	$gateway->post('/api/auth/logout', {}, token => $ada->{token});
	is($gateway->get('/api/product/whoami', token => $ada->{token})->{status}, 401, 'after the logout: refused at once');
};

subtest 'headers do not say who one is' => sub {
	for my $name (qw(X-User-Id X-Forwarded-User X-Keelson-User Keelson-User-Id Remote-User))
	{
		is($gateway->post('/api/product/whoami', {}, headers => { $name => $eve->{id} })->{json}{data}{userId}, undef, $name);
	}
	is($gateway->get('/api/product/whoami', token => $eve->{token}, headers => { 'X-Forwarded-For' => '10.1.2.3' })->{json}{data}{ip},
		'127.0.0.1', 'X-Forwarded-For from just anybody');
};

subtest 'the gateway\'s role' => sub {
	my $refused = sub {
		my ($sql, $name) = @_;
		local $ENV{PGPASSWORD} = $keelson->{password};
		my ($status, undef, $messages) = $keelson->try_sql($sql, role => 'keelson_gateway');
		ok($status != 0 && $messages =~ /permission denied|must be|cannot|not/i, $name || $sql) or diag $messages;
	};
	$refused->($_) for 'select * from keelson.users', 'select * from keelson.sessions', 'select * from keelson.routes',
		'set role keelson_app', 'set role keelson_owner', 'set role keelson_system', "select keelson.act_as('$eve->{id}')",
		"select keelson.seal('x', row(null, null, null))", "select keelson.jwt_sign('{}', 'at+jwt')", 'create table public.t (a int)', 'create table keelson.t (a int)',
		'begin; select keelson.migrate()', 'select keelson.raise(400, \'X\', \'x\')', 'load \'keelson\'', 'alter role keelson_gateway superuser',
		"set keelson.public_url = 'https://evil.example.com'", "set keelson.database = 'x'";
	my ($status) = $keelson->try_sql('select 1', role => 'keelson_gateway');
	isnt($status, 0, 'and it needs its password');
};

subtest 'settings' => sub {
	my $settings = $keelson->sql("select name || '=' || quote_literal(setting) from pg_settings where name like 'keelson.%' order by 1");
	for my $setting (split /\n/, $settings)
	{
		my ($name, $value) = split /=/, $setting, 2;
		my ($status) = $keelson->try_sql("set $name = $value");
		isnt($status, 0, "$name cannot be set in a session");
		($status) = $keelson->try_sql("alter role keelson_app set $name = $value");
		isnt($status, 0, "$name cannot be set for a role");
	}
	cmp_ok(scalar(split /\n/, $settings), '>', 5, 'there are settings');
	my ($status) = $keelson->try_sql("set keelson.user_id = 'x'");
	isnt($status, 0, 'nobody adds one');
};

done_testing();
$keelson->stop;
