# The second factor over HTTP: from enrolment to a login with it; many at once with one code.
use strict;
use warnings;

use Digest::SHA qw(hmac_sha1 hmac_sha256);
use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('factors');
my $gateway = $keelson->gateway;
my $password = 'correct horse battery staple';

# RFC 6238, by another implementation than ours.
sub totp
{
	my ($base32, $hmac) = @_;
	$hmac ||= \&hmac_sha1;
	(my $bits = $base32) =~ s/(.)/sprintf '%05b', index 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', $1/ge;
	my $mac = $hmac->(pack('Q>', int(time() / 30)), pack 'B' . (length($bits) & ~7), $bits);
	my $offset = ord(substr $mac, -1) & 15;
	return sprintf '%06d', (unpack('N', substr $mac, $offset, 4) & 0x7fffffff) % 1_000_000;
}

sub login { my (%given) = @_; return $gateway->post('/api/auth/login', \%given); }

# A person with a second factor in force, and no code used yet.
sub person
{
	my ($email) = @_;
	my $reply = $gateway->post('/api/auth/register', { email => $email, password => $password });
	my $token = $reply->{json}{data}{accessToken};
	my $enrolment = $gateway->post('/api/auth/totp/enroll', {}, token => $token)->{json}{data};
	my $confirmed = $gateway->post('/api/auth/totp/confirm', { code => totp($enrolment->{secret}) }, token => $token)->{json}{data};
	$keelson->sql("update keelson.totp_factors set last_step = 0 where user_id = '$reply->{json}{data}{user}{id}'");
	return { email => $email, id => $reply->{json}{data}{user}{id}, secret => $enrolment->{secret}, codes => $confirmed->{recoveryCodes},
		first => $reply->{json}{data}, token => $confirmed->{accessToken}, refresh => $confirmed->{refreshToken} };
}

subtest 'a login with it' => sub {
	my $ada = person('ada@example.com');
	is(scalar @{ $ada->{codes} }, 10, 'recovery codes came with it');
	my $reply = login(email => $ada->{email}, password => $password);
	is($reply->{status}, 401, 'the password alone does not do');
	is($reply->{json}{code}, 'SECOND_FACTOR_REQUIRED', 'it says so');
	my $challenge = $reply->{json}{challenge};
	like($challenge, qr/^ksc_/, 'and gives a challenge');
	is(login(challenge => $challenge, totp => '000000')->{json}{code}, 'INVALID_CREDENTIALS', 'a wrong code is refused');
	$reply = login(challenge => $challenge, totp => totp($ada->{secret}));
	is($reply->{status}, 200, 'a right one finishes the login');
	is($keelson->sql("select max(aal) from keelson.sessions where user_id = '$ada->{id}' and ended_at is null"), '2', 'at assurance level 2');
	is(login(challenge => $challenge, totp => totp($ada->{secret}))->{json}{code}, 'INVALID_TOKEN', 'a challenge works once');
	is(login(email => $ada->{email}, password => $password, totp => totp($ada->{secret}))->{status}, 401, 'and so does a code');
	is(login(email => $ada->{email}, password => $password, recoveryCode => $ada->{codes}[3])->{status}, 200, 'a recovery code stands in');
	is(login(email => $ada->{email}, password => $password, recoveryCode => $ada->{codes}[3])->{status}, 401, 'once');
	is(login(email => $ada->{email}, password => 'wrong all the way', totp => totp($ada->{secret}))->{json}{code}, 'INVALID_CREDENTIALS',
		'the second factor does not stand in for the first');
	is($gateway->get('/api/auth/totp', token => $ada->{token})->{json}{data}{recoveryCodesLeft}, 9, 'the user sees how many are left');
};

subtest 'wrong codes lock, as wrong passwords do' => sub {
	my $bob = person('bob@example.com');
	my $challenge = login(email => $bob->{email}, password => $password)->{json}{challenge};
	login(challenge => $challenge, totp => '000000') for 1 .. 5;
	my $reply = login(challenge => $challenge, totp => totp($bob->{secret}));
	is($reply->{status}, 423, 'locked');
	ok($reply->{headers}{'retry-after'}, 'and for how long');
	is(login(email => $bob->{email}, password => $password)->{status}, 423, 'the password too');
};

subtest 'a hundred at once with one code' => sub {
	my $eve = person('eve@example.com');
	$keelson->sql("insert into keelson.login_challenges (user_id, token_hash, password_changed_at, expires_at)
		select '$eve->{id}', keelson.token_hash('ksc_' || replace('$eve->{id}', '-', '') || repeat('A', 40) || lpad(n::text, 3, '0')), p.changed_at, now() + interval '5 minutes'
		from generate_series(1, 100) as n, keelson.passwords as p where p.user_id = '$eve->{id}'");
	(my $hex = $eve->{id}) =~ tr/-//d;
	my $code = totp($eve->{secret});
	my @sockets = map { $gateway->connect } 1 .. 100;
	for my $n (1 .. 100)
	{
		my $body = KeelsonTest::json_encode({ challenge => sprintf('ksc_%s%s%03d', $hex, 'A' x 40, $n), totp => $code });
		syswrite $sockets[ $n - 1 ], "POST /api/auth/login HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
			. 'Content-Length: ' . length($body) . "\r\n\r\n$body";
	}
	my %seen;
	$seen{ KeelsonTest::Gateway::read_reply($_, 60)->{status} }++ for @sockets;
	is($seen{200}, 1, 'one succeeds') or diag explain \%seen;
	is($keelson->sql("select count(*) from keelson.sessions where user_id = '$eve->{id}' and aal = 2"),
		'2', 'and opens one session besides that of the enrolment');
};

subtest 'a session that shows it' => sub {
	my $sue = person('sue@example.com');
	my $me = sub { return $gateway->get('/api/auth/me', token => $_[0])->{status}; };
	my $refresh = sub { return $gateway->post('/api/auth/refresh', { refreshToken => $_[0] }); };
	my $live = "select count(*) || ' at ' || min(aal) from keelson.sessions where user_id = '$sue->{id}' and ended_at is null";
	is($me->($sue->{first}{accessToken}), 401, 'the token from before the enrolment is no good');
	is($refresh->($sue->{first}{refreshToken})->{json}{code}, 'TOKEN_EXPIRED', 'nor refreshed');
	is($me->($sue->{token}), 200, 'the new one is');
	is($keelson->sql($live), '1 at 2', 'one session took the place of another');
	my $opened = "select created_at from keelson.sessions where user_id = '$sue->{id}' and ended_at is null";
	my $since = $keelson->sql($opened);
	my $verify = sub { return $gateway->post('/api/auth/totp/verify', {@_}, token => $sue->{token}); };
	is($verify->(code => '000000')->{status}, 401, 'a wrong code');
	is($me->($sue->{token}), 200, 'ends nothing');
	my $reply = $verify->(code => totp($sue->{secret}));
	is($reply->{status}, 200, 'a right one');
	is($me->($sue->{token}), 401, 'ends the token that asked');
	is($me->($reply->{json}{data}{accessToken}), 200, 'and gives another');
	is($keelson->sql($live), '1 at 2', 'of the one session there is');
	is($keelson->sql($opened), $since, 'which has the age of its login');
	is($refresh->($reply->{json}{data}{refreshToken})->{status}, 200, 'and is refreshed as any');
};

subtest 'a session with cookies that shows it' => sub {
	my $ivy = person('ivy@example.com');
	my $login = login(email => $ivy->{email}, password => $password, recoveryCode => $ivy->{codes}[0], cookie => JSON::PP::true);
	my $jar = sub { return map { /^([^=]+)=([^;]*)/ ? ($1 => $2) : () } @{ $_[0]{headers}{'set-cookie'} }; };
	is($login->{status}, 200, 'logged in') or diag $login->{content};
	my %old = $jar->($login);
	my $ask = sub {
		my ($cookies, $path, $body) = @_;
		return $gateway->post($path, $body, headers => { Cookie => join('; ', map { "$_=$cookies->{$_}" } sort keys %$cookies),
			'X-CSRF-Token' => $cookies->{'__Host-ks_csrf'}, 'Sec-Fetch-Site' => 'same-origin' });
	};
	my $reply = $ask->(\%old, '/api/auth/totp/verify', { code => totp($ivy->{secret}) });
	is($reply->{status}, 200, 'shown') or diag $reply->{content};
	ok(!exists $reply->{json}{data}{accessToken}, 'no token in the body');
	my %new = (%old, $jar->($reply));
	isnt($new{"__Host-ks_$_"}, $old{"__Host-ks_$_"}, "a new $_ cookie") for qw(access refresh csrf);
	is($ask->(\%old, '/api/auth/refresh', {})->{json}{code}, 'TOKEN_EXPIRED', 'the old ones are no good');
	is($ask->(\%new, '/api/auth/refresh', {})->{status}, 200, 'the new ones are');
};

subtest 'doing without it' => sub {
	my $mia = person('mia@example.com');
	my $off = sub { return $gateway->post('/api/auth/totp/disable', {@_}, token => $mia->{token}); };
	my $reply = $off->(password => 'wrong all the way', code => totp($mia->{secret}));
	is("$reply->{status} $reply->{json}{details}[0]{field}", '401 password', 'not without the password');
	is($off->(password => $password, code => '000000')->{status}, 401, 'nor without a code');
	is($off->(password => $password, code => totp($mia->{secret}))->{status}, 204, 'with both');
	is(login(email => $mia->{email}, password => $password)->{status}, 200, 'and the password does again');
	is($keelson->sql("select count(*) from keelson.mail_messages where template = 'factor.changed' and user_id = '$mia->{id}'"), '2', 'the user was told of both');
};

subtest 'guessing the code by the password' => sub {
	my $lea = person('lea@example.com');
	my $off = sub { return $gateway->post('/api/auth/totp/disable', { password => $password, code => $_[0] }, token => $lea->{token})->{status}; };
	is($off->('000000'), 401, 'a wrong code') for 1 .. 5;
	is($off->(totp($lea->{secret})), 423, 'locks, although the password was right each time');
	ok($gateway->get('/api/auth/totp', token => $lea->{token})->{json}{data}{isEnabled}, 'and the factor stays');
};

subtest 'recovery codes are told of' => sub {
	my $kim = person('kim@example.com');
	$gateway->post('/api/auth/verify', { token => $keelson->sql("select keelson._verification_send('$kim->{id}')") });
	my $told = sub { return $keelson->sql("select string_agg(substring(m.body_text from 'your account was ([a-z ]+) at [0-9]'), '; ' order by m.id) from keelson.mails as m
		where m.recipient = '$kim->{email}' and m.template = 'factor.changed'"); };
	$keelson->sql('alter system set keelson.environment = development');
	$keelson->sql('select pg_reload_conf()');
	login(email => $kim->{email}, password => $password, recoveryCode => $kim->{codes}[0]);
	ok(wait_until(sub { $told->() eq 'enabled; stood in for by a recovery code' }), 'of one that was used') or diag $told->();
	$gateway->post('/api/auth/totp/recovery-codes', { code => totp($kim->{secret}) }, token => $kim->{token});
	is($told->(), 'enabled; stood in for by a recovery code; given new recovery codes', 'of new ones');
};

subtest 'another digest' => sub {
	my $set = sub {
		$keelson->sql("alter system set keelson.totp_algorithm = '$_[0]'");
		$keelson->sql('select pg_reload_conf()');
		return wait_until(sub { $keelson->sql("select current_setting('keelson.totp_algorithm')") eq $_[0] });
	};
	my $user = $keelson->user($gateway, password => $password);
	my $enrolment = {};
	$set->('SHA256');
	ok(wait_until(sub {
		$enrolment = $gateway->post('/api/auth/totp/enroll', {}, token => $user->{token})->{json}{data};
		$enrolment->{otpauthUrl} =~ /&algorithm=SHA256&digits=6/; }), 'the URI says so');
	like($enrolment->{secret}, qr/^[A-Z2-7]{52}$/, '256 bits');
	my $confirm = sub { return $gateway->post('/api/auth/totp/confirm', { code => $_[0] }, token => $user->{token})->{status}; };
	is($confirm->(totp($enrolment->{secret})), 401, 'no code of SHA-1');
	is($confirm->(totp($enrolment->{secret}, \&hmac_sha256)), 200, 'one of SHA-256');
	$set->('SHA1');
	$keelson->sql("update keelson.totp_factors set last_step = 0 where user_id = '$user->{id}'");
	is(login(email => $user->{email}, password => $password, totp => totp($enrolment->{secret}, \&hmac_sha256))->{status}, 200, 'who is enrolled keeps theirs');
};

subtest 'a role that demands it' => sub {
	my $ida = person('ida@example.com');
	my $password_only = $keelson->user($gateway);
	$keelson->sql("select keelson.role_grant('$_', 'admin')") for $ida->{id}, $password_only->{id};
	my $aal2 = login(email => $ida->{email}, password => $password, recoveryCode => $ida->{codes}[0])->{json}{data}{accessToken};
	is($gateway->get('/api/admin/users', token => $_)->{status}, 200, 'not yet') for $password_only->{token}, $aal2;
	$keelson->sql("select keelson.factor_require('admin', '1 hour')");
	is($gateway->get('/api/admin/users', token => $password_only->{token})->{status}, 200, 'there is time to enrol one');
	my $make = sub { my ($token, @scopes) = @_; return $gateway->post('/api/user/access-keys', { name => 'machine', scopes => \@scopes }, token => $token); };
	my $before = $make->($password_only->{token}, 'users.read')->{json}{data};
	$keelson->sql("select keelson.factor_require('admin', '0')");
	is($gateway->get('/api/admin/users', token => $password_only->{token})->{status}, 403, 'then the role gives nothing without it');
	is($gateway->get('/api/admin/users', token => $aal2)->{status}, 200, 'and all with it');
	is($gateway->get('/api/user/profile', token => $password_only->{token})->{status}, 200, 'the account itself is still there');
	for my $scope ('users.read', 'usage.write')
	{
		is($make->($password_only->{token}, $scope)->{status}, 403, "an access key is no way around it: $scope");
		is($make->($aal2, $scope)->{status}, 201, "who has shown it makes one: $scope");
	}
	is($gateway->post("/api/user/access-keys/$before->{id}/rotate", {}, token => $password_only->{token})->{status}, 403, 'nor is the next text of one from before');
	is($gateway->get('/api/admin/users', token => $before->{key})->{status}, 200, 'which goes on as it is');
	$keelson->sql("select keelson.factor_require('admin', null)");
	is($gateway->get('/api/admin/users', token => $password_only->{token})->{status}, 200, 'until it is demanded no more');
};

subtest 'nothing of it in a log' => sub {
	my $zoe = person('zoe@example.com');
	my $code = totp($zoe->{secret});
	login(email => $zoe->{email}, password => $password, totp => $code);
	my $logs = $keelson->server_log . $gateway->log_text;
	unlike($logs, qr/\Q$_\E/, 'nowhere') for $zoe->{secret}, $zoe->{codes}[0];
	unlike($logs, qr/"totp"|\b$code\b/, 'nor the code');
};

$keelson->stop;
done_testing;
