# Tokens of external issuers over HTTP: of every algorithm, made by other libraries; malformed ones of every kind; users
# made and linked at first sight.
use strict;
use warnings;

use KeelsonTest;
use MIME::Base64 qw(encode_base64url);
use Test::More;

-d "$KeelsonTest::root/regress/node_modules/jose" or plan skip_all => 'the library jose is not there';

my $keelson  = KeelsonTest->new('issuers');
my $gateway  = $keelson->gateway(KEELSON_ENV => 'development');
my $issuer   = 'https://login.example.com';
my $made     = json_decode(scalar `node '$KeelsonTest::root/regress/jose/tokens.js' '$issuer' our-api`);
my %token    = %{ $made->{people} };
my $password = 'correct horse battery staple';

sub code { return $_[0]{json}{code} }
sub me { return $gateway->get('/api/auth/me', token => $_[0]) }
sub quoted { return "'" . $_[0] =~ s/'/''/gr . "'" }
sub keys_text { return quoted(json_encode($_[0])) }

is(me($made->{good}{ES256})->{status}, 401, 'before the issuer is known its tokens are nothing');
$keelson->sql("select keelson.issuer_add('$issuer', '{our-api}', @{[ keys_text($made->{jwks}) ]})");

subtest 'good tokens' => sub {
	my %ids;
	for my $name (sort keys %{ $made->{good} })
	{
		my $reply = me($made->{good}{$name});
		is($reply->{status}, 200, "$name: 200") or diag $reply->{content};
		$ids{ $reply->{json}{data}{id} } = 1;
		is(me($made->{good}{$name})->{status}, 200, "$name: and again");
	}
	is(scalar(keys %ids), 1, 'one subject is one user');
	my $user = me($made->{good}{ES256})->{json}{data};
	is($user->{email}, 'grace@issuer.example', 'with the address that the issuer has verified');
	ok($user->{emailVerified}, 'which counts as verified');
	is($user->{name}, 'Grace Hopper', 'and the name');
	is($gateway->put('/api/user/profile', { name => 'Grace' }, token => $made->{good}{RS256})->{status}, 200, 'they do what users do');
	is($keelson->sql("select string_agg(event_type, ' ' order by event_type) from keelson.audit_events where user_id = '$user->{id}' and event_type ~ 'create|link'"),
		'identity.link user.create', 'the trail tells whence they came');
};

subtest 'without a session' => sub {
	my $token  = $made->{good}{PS256};
	my $status = $gateway->get('/api/auth/status', token => $token)->{json}{data};
	ok($status->{authenticated}, 'status: signed in');
	like($status->{expiresAt}, qr/Z$/, 'until the token expires');
	my $logout = $gateway->post('/api/auth/logout', {}, token => $token);
	is($logout->{status}, 401, 'there is no session of ours to end');
	is($gateway->post('/api/auth/logout', { everywhere => JSON::PP::true }, token => $token)->{status}, 401, 'nor any others by it');
	is(me($token)->{status}, 200, 'the token stays good: its issuer ends it');
	is($gateway->get('/api/auth/me', headers => { Cookie => "__Host-ks_access=$token" })->{status}, 401, 'it is no cookie of ours');
};

subtest 'bad tokens' => sub {
	my ($shape) = map { delete $_->{meta}; json_encode($_) } me('nonsense')->{json};
	my $users = $keelson->sql('select count(*) from keelson.users');
	# Once cold, and once more when it might be remembered.
	for my $name (sort keys %{ $made->{bad} })
	{
		for (1 .. 2)
		{
			my $reply = me($made->{bad}{$name});
			is($reply->{status}, 401, "$name: 401") or diag $reply->{content};
			delete $reply->{json}{meta};
			is(json_encode($reply->{json}), $shape, "$name: the one shape");
		}
	}
	is(code(me($made->{expired}{$_})), 'TOKEN_EXPIRED', "expired, $_") for sort keys %{ $made->{expired} };
	is($gateway->get('/api/auth/status', token => $made->{bad}{'alg none'})->{json}{data}{authenticated}, JSON::PP::false, 'to what is open to all they are nobody');
	is($keelson->sql('select count(*) from keelson.users'), $users, 'no user was made');
};

subtest 'a token of the command line' => sub {
	my $directory = $keelson->node->basedir;
	system("openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out '$directory/rsa.pem' 2>/dev/null && "
		. "openssl pkey -in '$directory/rsa.pem' -pubout -out '$directory/public.pem'") == 0
		or die 'openssl failed';
	my $text = join '.', map { encode_base64url(json_encode($_)) } { alg => 'RS256' },
		{ iss => 'https://command.example', aud => 'our-api', sub => 'x', exp => time + 600, email => 'x@command.example', email_verified => JSON::PP::true };
	open my $file, '>:raw', "$directory/text" or die;
	print $file $text;
	close $file;
	my $signature = `openssl dgst -sha256 -sign '$directory/rsa.pem' '$directory/text'`;
	my $signed = "$text." . encode_base64url($signature);
	is(me($signed)->{status}, 401, 'not before its issuer is known');
	$keelson->sql("select keelson.issuer_add('https://command.example', '{our-api}', pem => " . quoted(slurp("$directory/public.pem")) . ")");
	my $reply = me($signed);
	is($reply->{status}, 200, 'verified with a key in PEM') or diag $reply->{content};
	is($reply->{json}{data}{email}, 'x@command.example', 'a user of that issuer');
	is($keelson->sql("select keelson.issuer_keys_set('https://command.example', pem => @{[ quoted($made->{pem}{$_}) ]})"), 1, "$_ in PEM") for sort keys %{ $made->{pem} };
	is(me($signed)->{status}, 401, 'with another key not');
};

subtest 'first sight, 32 at once' => sub {
	my $bytes   = "GET /api/auth/me HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer $token{parallel}\r\n\r\n";
	my @sockets = map { $gateway->connect } 1 .. 32;
	syswrite $_, $bytes for @sockets;
	my @replies = map { KeelsonTest::Gateway::read_reply($_, 20) } @sockets;
	my %ids     = map { ($_->{json}{data}{id} // "status $_->{status}") => 1 } @replies;
	is(scalar(grep { $_->{status} == 200 } @replies), 32, 'all are let in') or diag explain \%ids;
	is(scalar(keys %ids), 1, 'as one user');
	is($keelson->sql("select count(*) from keelson.users where email = 'parallel\@issuer.example'"), 1, 'of whom there is one');
};

subtest 'who gets a user' => sub {
	$gateway->post('/api/auth/register', { email => 'ada@example.com', password => $password });
	my $ada = $keelson->sql("select user_id from keelson.user_emails where email = 'ada\@example.com'");
	my $profile = $gateway->get('/api/user/profile', token => $token{parallel})->{json}{data};
	is($profile->{subscription}{tier}, 'free', 'a person has a subscription') or diag explain $profile;
	like($profile->{referral}{code}, qr/^[0-9A-Z]{10}$/, 'and a referral code');
	is($keelson->sql("select count(*) from keelson.subscriptions where user_id = '$profile->{user}{id}'"), '1', 'as who registers');
	my $service = me($token{service});
	is($service->{status}, 200, 'without an address: a service') or diag $service->{content};
	is($service->{json}{data}{email}, undef, 'which has none');
	is(me($token{strange})->{json}{data}{name}, undef, 'an address and a name that are none are left out');
	is(me($token{'verified in words'})->{status}, 200, 'true may be a text');
	is(code(me($token{unverified})), 'EMAIL_UNVERIFIED', 'an address that is not verified is none');
	my $taken = me($token{taken});
	is($taken->{status}, 403, 'the address of a user makes nobody that user');
	is(code($taken), 'FORBIDDEN', 'by its code');
	is($gateway->get('/api/auth/status', token => $token{taken})->{json}{data}{authenticated}, JSON::PP::false, 'status: nobody');
	$keelson->sql("select keelson.issuer_change('$issuer', links_by_email => true)");
	is(me($token{taken})->{status}, 403, 'nor where the issuer may link, while our side has not verified it');
	$keelson->sql("update keelson.users set email_verified_at = now() where id = '$ada'");
	is(me($token{taken})->{json}{data}{id}, $ada, 'verified on both sides it is linked');
	$keelson->sql("select keelson.issuer_change('$issuer', links_by_email => false, creates_users => false)");
	is(me($token{taken})->{json}{data}{id}, $ada, 'and stays so');
	is(me($token{blocked})->{status}, 403, 'no users are made any more');
	$keelson->sql("select keelson.issuer_change('$issuer', creates_users => true)");
	$keelson->sql("insert into keelson.user_emails (email, user_id, reserved_until) values ('blocked\@issuer.example', '$ada', now() + interval '1 day')");
	is(code(me($token{blocked})), 'FORBIDDEN', 'an address that somebody has just left is nobody else\'s for a while');
	$keelson->sql("update keelson.user_emails set reserved_until = now() where reserved_until is not null");
	is(me($token{blocked})->{status}, 200, 'afterwards it is, and users are made again');
};

subtest 'the user' => sub {
	my $id = me($token{blocked})->{json}{data}{id};
	$keelson->sql("update keelson.users set status = 'blocked' where id = '$id'");
	is(me($token{blocked})->{status}, 401, 'blocked: not with the next request');
	$keelson->sql("update keelson.users set status = 'active' where id = '$id'");
	is(me($token{blocked})->{status}, 200, 'unblocked');

	my %ada  = (token => $token{taken});
	my $list = $gateway->get('/api/user/external-identities', %ada)->{json}{data};
	is_deeply([ map { "$_->{issuer} $_->{subject}" } @$list ], ["$issuer taken"], 'a user sees as whom they are known');
	is($gateway->delete("/api/user/external-identities/$id", token => $token{blocked})->{status}, 404, 'what is not theirs is not there');
	my $own = $gateway->get('/api/user/external-identities', token => $token{blocked})->{json}{data}[0]{id};
	is($gateway->delete("/api/user/external-identities/$own", token => $token{blocked})->{status}, 409, 'the only way in stays');
	is($gateway->delete("/api/user/external-identities/$list->[0]{id}", %ada)->{status}, 204, 'one of two goes');
	is(me($token{taken})->{status}, 403, 'and its token opens the account no more');
};

subtest 'the kill switch' => sub {
	my $admin = $keelson->user($gateway);
	my %as = (token => $admin->{token});
	is($gateway->get('/api/admin/issuers', %as)->{status}, 403, 'not for everybody');
	$keelson->sql("select keelson.role_grant('$admin->{id}', 'admin')");
	my ($row) = grep { $_->{issuer} eq $issuer } @{ $gateway->get('/api/admin/issuers', %as)->{json}{data} };
	ok($row->{isEnabled}, 'the issuer is listed');
	my @tokens = @{ $made->{good} }{ sort keys %{ $made->{good} } };
	is(me($_)->{status}, 200, 'good') for @tokens;
	is($gateway->post("/api/admin/issuers/$row->{id}/disable", {}, %as)->{json}{data}{isEnabled}, JSON::PP::false, 'disabled');
	is(me($_)->{status}, 401, 'not with the next request') for @tokens;
	is($gateway->post("/api/admin/issuers/$row->{id}/enable", {}, %as)->{status}, 200, 'enabled');
	is(me($_)->{status}, 200, 'good again') for @tokens;
	is($gateway->post("/api/admin/issuers/$admin->{id}/enable", {}, %as)->{status}, 404, 'an issuer that is none');

	is($keelson->sql("select keelson.issuer_keys_set('$issuer', @{[ keys_text($made->{other}) ]})"), 1, 'other keys');
	is(me($_)->{status}, 401, 'what the old ones signed is good no more') for @tokens;
	is(me($token{other})->{status}, 200, 'what the new one signed is');
	is($keelson->sql("select keelson.issuer_remove('$issuer')"), 't', 'removed');
	is(me($token{other})->{status}, 401, 'gone');
};

unlike($keelson->server_log . $gateway->log_text, qr/\Q$made->{good}{RS256}\E/, 'no token in the logs');
done_testing();
