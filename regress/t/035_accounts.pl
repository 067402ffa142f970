# From registration to logout over HTTP: with tokens in the body, with cookies,
# and everything that is refused on the way.
use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('accounts');
my $gateway = $keelson->gateway;
my $password = 'correct horse battery staple';

sub code { return $_[0]{json}{code} }
sub fields { return join ' ', sort map { $_->{field} } @{ $_[0]{json}{details} || [] } }

# The Set-Cookie headers of a reply: name => [value, attributes].
sub cookies
{
	my ($reply) = @_;
	my $lines = $reply->{headers}{'set-cookie'} || [];
	return { map { /^([^=]+)=([^;]*); (.*)$/ ? ($1 => [ $2, $3 ]) : () } ref $lines ? @$lines : $lines };
}

sub login
{
	my ($user, %more) = @_;
	return $gateway->post('/api/auth/login', { email => $user->{email}, password => $user->{password}, %more });
}

subtest 'register' => sub {
	my $reply = $gateway->post('/api/auth/register', { email => 'Ada@Example.com', password => $password, name => 'Ada' });
	is($reply->{status}, 201, 'a newcomer is registered') or diag $reply->{content};
	my $data = $reply->{json}{data};
	is_deeply([ sort keys %$data ], [qw(accessToken expiresIn refreshToken user)], 'and gets tokens');
	is_deeply(
		[ sort keys %{ $data->{user} } ],
		[ sort qw(id email emailVerified name avatarUrl preferences roles createdAt) ],
		'the user has all fields');
	is($data->{user}{email}, 'Ada@Example.com', 'the address is as it was written');
	is_deeply($data->{user}{roles}, ['user'], 'the role user is implied');
	ok(!$data->{user}{emailVerified}, 'the address is not verified');
	ok($data->{expiresIn} >= 810 && $data->{expiresIn} <= 900, 'for 15 minutes, less a tenth at most');
	like($data->{user}{createdAt}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/, 'times are RFC 3339 in UTC');
	is($reply->{headers}{'cache-control'}, 'no-store', 'nobody keeps the reply');
	ok(!$reply->{headers}{'set-cookie'}, 'no cookie is set unasked');
	is($gateway->get('/api/auth/me', token => $data->{accessToken})->{json}{data}{email}, 'Ada@Example.com', 'the token is good');
};

subtest 'refused registrations' => sub {
	my @cases = (
		[ { email => 'ADA@example.com', password => $password }, 409, 'EMAIL_TAKEN', 'email', 'taken in another case' ],
		[ {}, 400, 'VALIDATION_FAILED', 'email password', 'nothing given' ],
		[ { email => 'ada', password => 'x' x 1025, name => "A\nB" }, 400, 'VALIDATION_FAILED', 'email name password', 'all faults at once' ],
		[ { email => 'bob@example.com', password => 'short' }, 400, 'VALIDATION_FAILED', 'password', 'too short' ],
		[ { email => 'bob@example.com', password => 'Passw0rd2024!' }, 400, 'VALIDATION_FAILED', 'password', 'commonly used' ],
		[ { email => 'bob@example.com', password => $password, admin => 1 }, 400, 'VALIDATION_FAILED', 'admin', 'an unknown name' ],
		[ { email => 'bob@example.com', password => $password, cookie => 'yes' }, 400, 'VALIDATION_FAILED', 'cookie', 'not a boolean' ],
		[ { email => 'bob@example.com' . ' ' x 300, password => $password }, 400, 'VALIDATION_FAILED', 'email', 'too long' ]);
	for my $case (@cases)
	{
		my ($body, $status, $code, $fields, $name) = @$case;
		my $reply = $gateway->post('/api/auth/register', $body);
		is($reply->{status}, $status, "$name: $status") or diag $reply->{content};
		is(code($reply), $code, "$name: $code");
		is(fields($reply), $fields, "$name: names the fields");
		unlike($reply->{content}, qr/check constraint|domain|keelson\.|_check/, "$name: nothing from inside");
	}
	is($keelson->sql('select count(*) from keelson.users'), 1, 'nothing was written');
	my %json = ('Content-Type' => 'application/json');
	is(code($gateway->request('POST', '/api/auth/register', body => '{"email":', headers => {%json})), 'MALFORMED_JSON', 'broken JSON');
	is(code($gateway->request('POST', '/api/auth/register', body => '{"email":"a\u0000@example.com"}', headers => {%json})), 'MALFORMED_JSON', 'U+0000');
	is($gateway->request('POST', '/api/auth/register', body => 'email=a', headers => { 'Content-Type' => 'text/plain' })->{status}, 415, 'not JSON');
};

subtest 'login' => sub {
	my $reply = login({ email => 'ada@EXAMPLE.com', password => $password });
	is($reply->{status}, 200, 'log in') or diag $reply->{content};
	is_deeply([ sort keys %{ $reply->{json}{data} } ], [qw(accessToken deviceToken expiresIn refreshToken user)], 'tokens and the device token');
	my $wrong   = login({ email => 'ada@example.com',    password => 'not this one, I think' });
	my $unknown = login({ email => 'nobody@example.com', password => 'not this one, I think' });
	is($wrong->{status}, 401, 'a wrong password is refused');
	is(code($wrong), 'INVALID_CREDENTIALS', 'by its code');
	delete $_->{json}{meta} for $wrong, $unknown;
	is_deeply($unknown->{json}, $wrong->{json}, 'an unknown address gets the same reply');
	is_deeply([ sort keys %{ $unknown->{headers} } ], [ sort keys %{ $wrong->{headers} } ], 'with the same headers');
	is(login({ email => 'ada@example.com', password => $password }, deviceToken => 'x')->{status}, 200, 'a strange device token is as good as none');
};

subtest 'me, status, profile' => sub {
	my $user = $keelson->user($gateway);
	my %as = (token => $user->{token});
	is($gateway->get('/api/auth/me')->{status}, 401, 'nobody is no one');
	is($gateway->get('/api/auth/me', token => 'x.y.z')->{status}, 401, 'nonsense is no token');
	my $status = $gateway->get('/api/auth/status', %as)->{json}{data};
	ok($status->{authenticated}, 'status: signed in');
	is($status->{user}{id}, $user->{id}, 'status: as whom');
	like($status->{expiresAt}, qr/Z$/, 'status: until when');
	ok(!$gateway->get('/api/auth/status')->{json}{data}{authenticated}, 'status: nobody');
	my $open = $gateway->get('/api/auth/status', token => 'x.y.z');
	is($open->{status}, 200, 'status: nonsense is no error');
	ok(!$open->{json}{data}{authenticated}, 'status: and nobody');

	my $profile = $gateway->get('/api/user/profile', %as)->{json}{data};
	is($profile->{user}{email}, $user->{email}, 'the profile');
	is($profile->{memberSince}, $profile->{user}{createdAt}, 'memberSince');
	my $changed = $gateway->put('/api/v1/user/profile', { name => "Zo\x{eb}", preferences => { theme => 'dark' } }, %as);
	is($changed->{status}, 200, 'change it') or diag $changed->{content};
	is($changed->{json}{data}{user}{name}, "Zo\x{eb}", 'the name in the reply');
	$changed = $gateway->put('/api/user/profile', { preferences => { notifications => { email => JSON::PP::true } } }, %as);
	is_deeply($changed->{json}{data}{user}{preferences}, { theme => 'dark', notifications => { email => JSON::PP::true } }, 'preferences are merged');
	is_deeply($gateway->get('/api/user/profile', %as)->{json}{data}, $changed->{json}{data}, 'and kept');
	is(fields($gateway->put('/api/user/profile', { name => '', preferences => { theme => 'pink' } }, %as)), 'name preferences', 'faults are named');
	is($gateway->put('/api/user/profile', { email => 'new@example.com' }, %as)->{status}, 400, 'what is not there yet is refused');
	is($gateway->put('/api/user/profile', { name => 'x' })->{status}, 401, 'nobody changes nothing');
};

subtest 'a new password' => sub {
	my $user = $keelson->user($gateway);
	my %as = (token => $user->{token});
	my $other = login($user)->{json}{data};
	my $new = 'a whole new sentence';
	my $wrong = $gateway->put('/api/user/profile', { currentPassword => 'not this one, I think', newPassword => $new }, %as);
	is($wrong->{status}, 401, 'not without the current one');
	is(fields($wrong), 'currentPassword', 'which is named');
	is(fields($gateway->put('/api/user/profile', { newPassword => $new }, %as)), 'currentPassword', 'it is asked for');
	is(fields($gateway->put('/api/user/profile', { currentPassword => $user->{password}, newPassword => 'short' }, %as)), 'newPassword', 'the rules hold');
	is($gateway->put('/api/user/profile', { currentPassword => $user->{password}, newPassword => $new }, %as)->{status}, 200, 'changed');
	is($gateway->get('/api/auth/me', %as)->{status}, 200, 'this session stays');
	is($gateway->get('/api/auth/me', token => $other->{accessToken})->{status}, 401, 'the other one has ended');
	is(login($user)->{status}, 401, 'the old password is of no use');
	is(login($user, password => $new)->{status}, 200, 'the new one is');
};

subtest 'logout' => sub {
	my $user = $keelson->user($gateway);
	my @others = map { login($user)->{json}{data}{accessToken} } 1 .. 2;
	my $reply = $gateway->post('/api/auth/logout', {}, token => $user->{token});
	is($reply->{status}, 200, 'logged out') or diag $reply->{content};
	is($reply->{json}{data}{endedSessions}, 1, 'one session');
	ok(!$reply->{headers}{'clear-site-data'}, 'a token is not a browser');
	is($gateway->get('/api/auth/me', token => $user->{token})->{status}, 401, 'the token is dead at once');
	is($gateway->post('/api/auth/logout', {}, token => $user->{token})->{status}, 200, 'again is no error');
	is($gateway->get('/api/auth/me', token => $others[0])->{status}, 200, 'the others live');
	is($gateway->post('/api/auth/logout', { everywhere => JSON::PP::true }, token => $others[0])->{json}{data}{endedSessions}, 2, 'everywhere');
	is($gateway->get('/api/auth/me', token => $_)->{status}, 401, 'dead') for @others;
	is($gateway->request('POST', '/api/auth/logout', token => $others[0])->{status}, 200, 'a body is not needed');
	is($gateway->post('/api/auth/logout', {})->{status}, 401, 'nobody has nothing to end');
};

subtest 'refresh' => sub {
	my $user = $keelson->user($gateway);
	my $refresh = sub { return $gateway->post('/api/auth/refresh', { refreshToken => $_[0] }) };

	# 64 at once with one token: connections first, then all requests, then all replies.
	my $body = json_encode({ refreshToken => $user->{refresh} });
	my $bytes = "POST /api/auth/refresh HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
		. length($body) . "\r\n\r\n$body";
	my @sockets = map { $gateway->connect } 1 .. 64;
	syswrite $_, $bytes for @sockets;
	my @replies = map { KeelsonTest::Gateway::read_reply($_, 20) } @sockets;
	my %successors = map { ($_->{json}{data}{refreshToken} // "$_->{status}") => 1 } @replies;
	is(scalar(grep { $_->{status} == 200 } @replies), 64, '64 at once all succeed');
	is(scalar(keys %successors), 1, 'and get one successor');
	is($keelson->sql("select max(generation) from keelson.sessions where user_id = '$user->{id}'"), 2, 'by one rotation');

	my ($successor) = keys %successors;
	isnt($successor, $user->{refresh}, 'which is another token');
	is($gateway->get('/api/auth/me', token => $_->{json}{data}{accessToken})->{status}, 200, 'access tokens are good') for @replies[ 0, 63 ];
	my $next = $refresh->($successor);
	is($next->{status}, 200, 'the successor is good once');
	is(code($refresh->($user->{refresh})), 'TOKEN_REUSED', 'the first one now is theft');
	is(code($refresh->($next->{json}{data}{refreshToken})), 'TOKEN_EXPIRED', 'the session has ended');
	is($gateway->get('/api/auth/me', token => $next->{json}{data}{accessToken})->{status}, 401, 'at once');
	is(login($user)->{status}, 200, 'the user logs in again');

	is(code($refresh->($_)), 'UNAUTHENTICATED', 'nonsense is refused') for '', 'x', $user->{token}, substr($successor, 0, -1), "$successor ";
	is($gateway->post('/api/auth/refresh', { refreshToken => 1 })->{status}, 400, 'a number is no token');
	is($gateway->post('/api/auth/refresh', {})->{status}, 401, 'nothing is none');

	my $page = login($user, cookie => JSON::PP::true);
	my $set = cookies($page);
	my %cookie = (Cookie => join('; ', map { "$_=$set->{$_}[0]" } sort keys %$set), 'Sec-Fetch-Site' => 'same-origin');
	is(code($gateway->post('/api/auth/refresh', {}, headers => {%cookie})), 'CSRF_FAILED', 'by cookie not without proof');
	my $reply = $gateway->post('/api/auth/refresh', {}, headers => { %cookie, 'X-CSRF-Token' => $set->{'__Host-ks_csrf'}[0] });
	is($reply->{status}, 200, 'by cookie with it') or diag $reply->{content};
	is_deeply([ keys %{ $reply->{json}{data} } ], ['expiresIn'], 'no token in the body');
	my $renewed = cookies($reply);
	is_deeply([ sort keys %$renewed ], [ map { "__Host-ks_$_" } qw(access csrf refresh) ], 'but in the cookies');
	isnt($renewed->{'__Host-ks_refresh'}[0], $set->{'__Host-ks_refresh'}[0], 'the next one');
};

subtest 'cookies' => sub {
	my $user = $keelson->user($gateway);
	my $reply = login($user, cookie => JSON::PP::true);
	is($reply->{status}, 200, 'log in with cookies') or diag $reply->{content};
	is_deeply([ sort keys %{ $reply->{json}{data} } ], [qw(expiresIn user)], 'no token in the body');
	my $set = cookies($reply);
	is_deeply([ sort keys %$set ], [ map { "__Host-ks_$_" } qw(access csrf device refresh) ], 'four cookies');
	like($set->{$_}[1], qr{^Path=/; Max-Age=\d+; Secure;}, "$_: attributes") for sort keys %$set;
	unlike($set->{$_}[1], qr/Domain/i, "$_: of this host alone") for sort keys %$set;
	like($set->{"__Host-ks_$_"}[1], qr/HttpOnly/, "$_: out of reach of scripts") for qw(access device refresh);
	unlike($set->{'__Host-ks_csrf'}[1], qr/HttpOnly/, 'csrf: readable');
	like($set->{'__Host-ks_refresh'}[1], qr/SameSite=Strict/, 'refresh: strict');
	like($set->{'__Host-ks_access'}[1], qr/SameSite=Lax/, 'access: lax');
	my $cookie = join '; ', map { "$_=$set->{$_}[0]" } sort keys %$set;
	my %page = (Cookie => $cookie, 'Sec-Fetch-Site' => 'same-origin');
	my %proof = ('X-CSRF-Token' => $set->{'__Host-ks_csrf'}[0]);

	is($gateway->get('/api/auth/me', headers => { Cookie => $cookie })->{status}, 200, 'reading needs the cookie alone');
	my $forged = $gateway->put('/api/user/profile', { name => 'Eve' }, headers => {%page});
	is($forged->{status}, 403, 'a change without the token is refused');
	is(code($forged), 'CSRF_FAILED', 'by its code');
	is(code($gateway->post('/api/auth/logout', {}, headers => {%page})), 'CSRF_FAILED', 'a logout too');
	is(code($gateway->put('/api/user/profile', { name => 'Eve' }, headers => { %page, %proof, 'Sec-Fetch-Site' => 'cross-site' })),
		'CSRF_FAILED', "and another site's page");
	is($gateway->put('/api/user/profile', { name => 'Ada' }, headers => { %page, %proof })->{status}, 200, 'with the token it goes');
	my $out = $gateway->post('/api/auth/logout', {}, headers => { %page, %proof });
	is($out->{status}, 200, 'log out') or diag $out->{content};
	is($out->{headers}{'clear-site-data'}, '"cookies", "storage"', 'the browser forgets');
	my $cleared = cookies($out);
	like($cleared->{"__Host-ks_$_"}[1], qr/Max-Age=0/, "$_ goes") for qw(access refresh csrf);
	is($gateway->get('/api/auth/me', headers => { Cookie => $cookie })->{status}, 401, 'the cookie is dead');
	is($gateway->post('/api/auth/logout', {}, headers => { %page, %proof })->{status}, 200, 'again is no error');

	my $again = $gateway->post('/api/auth/register', { email => 'cookie@example.com', password => $password, cookie => JSON::PP::true });
	is($again->{status}, 201, 'register with cookies');
	is_deeply([ sort keys %{ cookies($again) } ], [ map { "__Host-ks_$_" } qw(access csrf device refresh) ], 'sets them too');
};

# None of what was sent or handed out is in the server's or the gateway's log.
subtest 'secrets stay out of the logs' => sub {
	my $user = $keelson->user($gateway, password => 'canary singing 4711 aloud');
	login($user, password => 'canary wrong 4712 aloud');
	$gateway->put('/api/user/profile', { currentPassword => 'canary wrong 4713 aloud', newPassword => 'canary new 4714 aloud' }, token => $user->{token});
	$gateway->post('/api/auth/register', { email => 'canary', password => 'canary refused 4715 aloud' });
	for my $log ($keelson->server_log, $gateway->log_text)
	{
		unlike($log, qr/canary (singing|wrong|new|refused)/, 'no password');
		unlike($log, qr/\Q$user->{token}\E|\Q$user->{refresh}\E/, 'no token');
		unlike($log, qr/ksr_|ksd_|argon2id/, 'nor anything like one');
	}
};

done_testing();
