# What users are told of their accounts, undoing a change of address, and what an endpoint may ask to be shown.
use strict;
use warnings;

use Digest::SHA qw(hmac_sha1);
use KeelsonTest;
use Test::More;

# Of all limits only that on changes of address is met here.
my $keelson = KeelsonTest->new('notices', limits => 1, conf => 'keelson.environment = development');
$keelson->sql(q{select keelson.rate_limit_set(name, 1000000) from keelson.rate_limits where name <> 'email_change'});
my $gateway = $keelson->gateway(KEELSON_RATE_LIMITS => 'on');
my $password = 'correct horse battery staple';

# The words of the newest mail to an address, of a template; '' for none.
sub mail
{
	my ($email, $template) = @_;
	return $keelson->sql(qq{select m.body_text from keelson.mails as m where m.recipient = '$email' and m.template = '$template'
		order by m.created_at desc, m.id desc limit 1});
}

sub count_of
{
	my ($email, $template) = @_;
	return $keelson->sql("select count(*) from keelson.mail_messages where recipient = '$email' and template like '$template'");
}

sub token { my ($text) = @_; return ($text =~ /token=(ks[vpum]_[\w-]+)/)[0]; }
sub code  { my ($reply) = @_; return $reply->{json}{code} // ''; }

sub verified_user
{
	my $user = $keelson->user($gateway, password => $password, @_);
	$gateway->post('/api/auth/verify', { token => token(mail($user->{email}, 'email.verify')) });
	return $user;
}

sub change_address
{
	my ($user, $to) = @_;
	return $gateway->put('/api/user/profile', { email => $to, currentPassword => $user->{password} }, token => $user->{token});
}

sub email_of { my ($user) = @_; return $keelson->sql("select email || case when email_verified_at is null then ' unverified' else ' verified' end from keelson.users where id = '$user->{id}'"); }

subtest 'a change of address' => sub {
	my $ada = verified_user();
	my $old = $ada->{email};
	is(change_address($ada, 'thief@example.net')->{status}, 200, 'changed');
	my $verify = token(mail('thief@example.net', 'email.verify'));
	like($verify, qr/^ksv_/, 'the new address gets a link to verify it');
	my $told = mail($old, 'email.changed');
	like($told, qr/changed from this one to thief\@example\.net/, 'the old one is told');
	my $undo = token($told);
	like($undo, qr/^ksu_[0-9a-f]{64}[\w-]{43}$/, 'with a link to undo it');
	is(change_address($ada, 'again@example.net')->{status}, 200, 'and again');
	is(token(mail('thief@example.net', 'email.changed')), undef, 'an address that was never verified gets no such link');
	like(mail('thief@example.net', 'email.changed_for_good'), qr/changed from this one to again example net at/, 'it is told all the same, and nothing that could be followed');
	my $page = $gateway->get("/api/auth/undo-email-change?token=$undo", headers => { Accept => 'text/html' });
	is($page->{status}, 200, 'the link shows a page');
	like($page->{content}, qr/<button>Undo the change/, 'with a button');
	is(email_of($ada), 'again@example.net unverified', 'and changes nothing');
	my $reset = $gateway->post('/api/auth/request-reset', { email => 'again@example.net' })->{json}{data}{devToken};
	is(code($gateway->post('/api/auth/undo-email-change', { token => $_ })), 'INVALID_TOKEN', 'a token of another kind')
		for $verify, 'ksu_x', substr($undo, 0, -1) . ($undo =~ /A$/ ? 'B' : 'A'), 'ksu_' . '0' x 64 . 'A' x 43;
	my $done = $gateway->post('/api/auth/undo-email-change', { token => $undo });
	is($done->{status}, 200, 'the button does it') or diag $done->{content};
	is_deeply($done->{json}{data}, { email => $old, emailVerified => JSON::PP::true() }, 'and says what holds now');
	is(email_of($ada), "$old verified", 'the old address, verified as it was');
	is($gateway->get('/api/auth/me', token => $ada->{token})->{status}, 401, 'sessions have ended');
	is(code($gateway->post('/api/auth/verify', { token => token(mail('again@example.net', 'email.verify')) })), 'INVALID_TOKEN', 'what was mailed to the others is void');
	is(code($gateway->post('/api/auth/reset-password', { token => $reset, password => 'a sentence of the thief' })), 'INVALID_TOKEN', 'a reset too');
	is(code($gateway->post('/api/auth/undo-email-change', { token => $undo })), 'INVALID_TOKEN', 'it works once');
};

subtest 'an address that was put into somebody else\'s account' => sub {
	my $eve = verified_user();
	my $mallory = $eve->{email};
	my $reset = sub {
		my ($email) = @_;
		return $gateway->post('/api/auth/reset-password', { password => 'a sentence of who reads it', token => $gateway->post('/api/auth/request-reset', { email => $email })->{json}{data}{devToken} })->{status};
	};
	is($reset->($mallory), 200, 'a reset');
	is(count_of($mallory, 'email.undo_open'), 0, 'tells of nothing that could be undone');
	$eve = { %$eve, password => 'a sentence of who reads it', token => $gateway->post('/api/auth/login', { email => $mallory, password => 'a sentence of who reads it' })->{json}{data}{accessToken} };
	is(change_address($eve, 'stranger@example.org')->{status}, 200, 'a stranger\'s');
	is($reset->('stranger@example.org'), 200, 'who sets a password of their own');
	like(mail('stranger@example.org', 'email.undo_open'), qr/Until \d{4}-\d\d-\d\d \d\d:\d\d UTC whoever reads mail there can take it back/, 'is told that it can be taken back');
	is($gateway->post('/api/auth/undo-email-change', { token => token(mail($mallory, 'email.changed')) })->{status}, 200, 'and it can');
	is(email_of($eve), "$mallory verified", 'by who had it before');
	is($reset->($mallory), 200, 'who sets a new password again');
	is(count_of($mallory, 'email.undo_open'), 0, 'and is told of nothing that was undone');
};

subtest 'what makes a link to a new password void' => sub {
	my $user = verified_user();
	my $ask = sub { return $gateway->post('/api/auth/request-reset', { email => $user->{email} })->{json}{data}{devToken}; };
	my $is_void = sub { return code($gateway->post('/api/auth/reset-password', { token => $_[0], password => 'a sentence of the thief' })); };
	my $reset = $ask->();
	$gateway->put('/api/user/profile', { currentPassword => $password, newPassword => 'another good sentence' }, token => $user->{token});
	is($is_void->($reset), 'INVALID_TOKEN', 'a change of the password');
	$user->{password} = 'another good sentence';
	$reset = $ask->();
	is(change_address($user, $_)->{status}, 200, "to $_") for 'elsewhere@example.net', $user->{email};
	is($is_void->($reset), 'INVALID_TOKEN', 'a change of the address, even when it comes back');
	is($is_void->($ask->()), '', 'a new one is good');
};

subtest 'an address that nobody has verified' => sub {
	my $email = 'victim@example.org';
	my $reply = $gateway->post('/api/auth/register', { email => $email, password => $password, name => 'Win at https://evil.example.com/now' });
	is($reply->{status}, 201, 'somebody registers with it');
	like(mail($email, 'email.verify'), qr/^Hello victim,/, 'its mail names nobody');
	unlike(mail($email, 'email.verify'), qr/evil/, 'and says nothing that they wrote');
	like(mail($email, 'email.verify'), qr/leave it alone: whoever has knows the password/, 'but what confirming would mean');
	like($gateway->get('/api/auth/verify?token=' . token(mail($email, 'email.verify')), headers => { Accept => 'text/html' })->{content}, qr/they know its password/, 'as its page does');
	$gateway->post('/api/auth/login', { email => $email, password => $password }, headers => { 'User-Agent' => "Go to www$_.evil.example.com/now" }) for 1 .. 8;
	like(mail($email, 'session.new_device'), qr/: Go to www\d evil example com now\./, 'nor holds a link of theirs');
	is($keelson->sql("select count(*) from keelson.mail_messages where recipient = '$email'"), 5, 'and there are no more than five an hour');
	$gateway->post('/api/auth/verify', { token => token(mail($email, 'email.verify')) });
	$gateway->post('/api/auth/login', { email => $email, password => $password }, headers => { 'User-Agent' => 'Lynx' });
	like(mail($email, 'session.new_device'), qr/^Hello Win at/, 'who has verified it is told, by name');
};

subtest 'an endpoint that was disabled' => sub {
	my $user = verified_user();
	my $disable = sub {
		my $id = $gateway->post('/api/webhooks', { url => 'https://example.com/' . $_[0], events => ['user.*'] }, token => $user->{token})->{json}{data}{id};
		return $keelson->sql("select keelson._webhook_disable('$user->{id}', '$id', 'gone')");
	};
	$keelson->sql("select keelson.mail_notice_set('webhook.disabled', false)");
	$disable->('one');
	is(count_of($user->{email}, 'webhook.disabled'), 0, 'is told of as the operator says');
	$keelson->sql("select keelson.mail_notice_set('webhook.disabled', true)");
	$disable->('two');
	like(mail($user->{email}, 'webhook.disabled'), qr{sent to https://example\.com/two: it answered that it is gone}, 'its owner knows which');
};

subtest 'when it cannot be undone' => sub {
	my $bob = verified_user();
	my $old = $bob->{email};
	change_address($bob, 'bob2@example.net');
	my $undo = token(mail($old, 'email.changed'));
	$keelson->sql("update keelson.email_changes set undo_until = now() where user_id = '$bob->{id}'");
	is(code($gateway->post('/api/auth/undo-email-change', { token => $undo })), 'INVALID_TOKEN', 'after seven days');
	is(email_of($bob), 'bob2@example.net unverified', 'nothing has changed');
	my $before = $keelson->sql('select count(*) from keelson.mail_messages');
	is(change_address($bob, 'BOB2@example.net')->{status}, 200, 'the same mailbox, written otherwise');
	is($keelson->sql('select count(*) from keelson.mail_messages'), $before, 'is nothing to tell');
	my $eve = verified_user();
	my $old_eve = $eve->{email};
	$keelson->sql("begin; select keelson.act_as('$bob->{id}'); rollback;");
	$keelson->sql("select keelson.role_grant('$bob->{id}', 'owner')");
	is($gateway->put("/api/admin/users/$eve->{id}", { email => 'eve2@example.net', emailVerified => JSON::PP::true() }, token => $bob->{token})->{status}, 200, 'an administrator changes one');
	is(count_of('eve2@example.net', 'email.verify'), 0, 'and says that it is verified: then nobody is asked to');
	is(count_of($old_eve, 'email.changed'), 1, 'its user is told');
};

subtest 'a password, roles, a tier' => sub {
	my $user = verified_user();
	$gateway->put('/api/user/profile', { currentPassword => $password, newPassword => 'another good sentence' }, token => $user->{token});
	like(mail($user->{email}, 'password.changed'), qr/was changed at .* from 127\.0\.0\.1/, 'a new password');
	is(count_of($user->{email}, 'password.changed'), 1, 'told once');
	$keelson->sql("select keelson.role_grant('$user->{id}', 'support')");
	like(mail($user->{email}, 'role.changed'), qr/They are now: support\./, 'a role');
	$keelson->sql("select keelson.role_grant('$user->{id}', 'support')");
	is(count_of($user->{email}, 'role.changed'), 1, 'but not what was so already');
	my $tier = $keelson->sql("select id || '|' || name from keelson.tiers where not is_default order by rank limit 1");
	my ($id, $name) = split /\|/, $tier;
	$keelson->sql("select keelson.user_tier_set('$user->{id}', '$id')");
	like(mail($user->{email}, 'tier.changed'), qr/your plan is now \Q$name\E, as of/, 'a tier');
};

subtest 'another way in' => sub {
	my $user = verified_user();
	my $made = $gateway->post('/api/user/access-keys', { name => 'Nightly <import>', scopes => ['usage.write'] }, token => $user->{token})->{json}{data};
	my $told = mail($user->{email}, 'access_key.created');
	like($told, qr/made at .* from 127\.0\.0\.1: Nightly <import>, which begins with \Q$made->{prefix}\E\./, 'an access key');
	unlike($told, qr/\Q$made->{key}\E/, 'but not its text');
	$gateway->post("/api/user/access-keys/$made->{id}/rotate", {}, token => $user->{token});
	is(count_of($user->{email}, 'access_key.created'), 2, 'the next text of one');
	$gateway->post('/api/user/access-keys', { name => 'x', scopes => ['no.such'] }, token => $user->{token});
	is(count_of($user->{email}, 'access_key.created'), 2, 'none that was refused');
	$keelson->sql(q{select keelson.issuer_add('https://login.example', '{api}', jwks => convert_from((keelson.jwks_document()).body, 'UTF8'), links_by_email => true)});
	$keelson->sql("select keelson.external_identity_link('$user->{id}', 'https://login.example', 'by hand')");
	like(mail($user->{email}, 'identity.linked'), qr{your account can be entered with your account at https://login\.example\.}, 'an account elsewhere');
	$keelson->sql("select keelson._external_user('https://login.example', 'by address', '$user->{email}', true, null)");
	is(count_of($user->{email}, 'identity.linked'), 2, 'one that was linked by its address');
	$keelson->sql("select keelson._external_user('https://login.example', 'by address', '$user->{email}', true, null)");
	is(count_of($user->{email}, 'identity.linked'), 2, 'once');
};

subtest 'a new device' => sub {
	my $user = verified_user();
	my $login = sub { my (%given) = @_; return $gateway->post('/api/auth/login', { email => $user->{email}, password => $password, deviceToken => $given{device} },
		headers => { 'User-Agent' => $given{agent} }); };
	my $registered = $keelson->sql("select user_agent from keelson.sessions where user_id = '$user->{id}'");
	$login->(agent => $registered);
	is(count_of($user->{email}, 'session.new_device'), 0, 'the one that registered is known');
	my $reply = $login->(agent => 'Lynx/2.9 <b>');
	is($reply->{status}, 200, 'another one logs in');
	like(mail($user->{email}, 'session.new_device'), qr/from 127\.0\.0\.1: Lynx/, 'its user is told');
	$login->(agent => 'Lynx/2.9 <b>');
	$login->(agent => 'Lynx/3.0', device => $reply->{json}{data}{deviceToken});
	is(count_of($user->{email}, 'session.new_device'), 1, 'once: it is known then, by its looks or by its token');
};

subtest 'theft' => sub {
	my $user = verified_user();
	my $first = $gateway->post('/api/auth/refresh', { refreshToken => $user->{refresh} })->{json}{data}{refreshToken};
	$gateway->post('/api/auth/refresh', { refreshToken => $first });
	is(code($gateway->post('/api/auth/refresh', { refreshToken => $user->{refresh} })), 'TOKEN_REUSED', 'a spent token comes back');
	$gateway->post('/api/auth/refresh', { refreshToken => $user->{refresh} });
	is(count_of($user->{email}, 'session.reused'), 1, 'its user is told, once');
};

subtest 'notices are the operator\'s to change' => sub {
	my $user = verified_user();
	$keelson->sql("select keelson.mail_notice_set('password.changed', false)");
	$gateway->put('/api/user/profile', { currentPassword => $password, newPassword => 'another good sentence' }, token => $user->{token});
	is(count_of($user->{email}, 'password.changed'), 0, 'off');
	$keelson->sql("select keelson.mail_notice_set('password.changed', true)");
	for my $case ([ "mail_notice_set('password.reset', false)", qr/is no notice/ ], [ "mail_notice_set('app.none', false)", qr/there is no notice/ ],
		[ "mail_template_set('password.changed', 'x', '{{nothing}}')", qr/needs the value "nothing"/ ], [ "mail_template_set('password.changed', '{{', 'x')", qr/without a name/ ])
	{
		my ($status, undef, $message) = $keelson->try_sql("select keelson.$case->[0]");
		like($message, $case->[1], $case->[0]);
	}
	# What was spoiled past that function keeps nothing from happening.
	my $words = $keelson->sql("select body_text from keelson.mail_templates where name = 'password.changed'");
	$keelson->sql("update keelson.mail_templates set body_text = '{{nothing}}' where name = 'password.changed'");
	is($gateway->put('/api/user/profile', { currentPassword => 'another good sentence', newPassword => 'a second good sentence' }, token => $user->{token})->{status}, 200,
		'a spoiled template');
	is(count_of($user->{email}, 'password.changed'), 0, 'is no mail');
	like($keelson->server_log, qr/the notice "password\.changed" could not be written: the template needs the value "nothing"/, 'and a warning');
	$keelson->sql("update keelson.mail_templates set body_text = \$\$$words\$\$ where name = 'password.changed'");
	$keelson->sql("select keelson.mail_template_set('password.changed', 'Neues Passwort', 'Hallo {{name}}, {{time}}', language => 'de')");
	$keelson->sql("update keelson.users set preferences = '{\"language\": \"de-AT\"}' where id = '$user->{id}'");
	$gateway->put('/api/user/profile', { currentPassword => 'a second good sentence', newPassword => 'a third good sentence' }, token => $user->{token});
	like(mail($user->{email}, 'password.changed'), qr/^Hallo /, 'in the user\'s language');
};

# RFC 6238, by another implementation than ours.
sub totp
{
	my ($base32) = @_;
	(my $bits = $base32) =~ s/(.)/sprintf '%05b', index 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', $1/ge;
	my $mac = hmac_sha1(pack('Q>', int(time() / 30)), pack 'B*', $bits);
	my $offset = ord(substr $mac, -1) & 15;
	return sprintf '%06d', (unpack('N', substr $mac, $offset, 4) & 0x7fffffff) % 1_000_000;
}

subtest 'what an endpoint may demand' => sub {
	$keelson->sql(<<'END');
create schema vault;
grant usage on schema vault to keelson_app;
create table vault.notes (user_id uuid not null, body text not null);
alter table vault.notes enable row level security;
create policy shown on vault.notes using (user_id = keelson.current_user_id() and keelson.current_aal() >= 2);
grant select on vault.notes to keelson_app;
create type vault.answer as (notes integer);
create function vault.open() returns vault.answer language plpgsql stable as 'declare a vault.answer; begin a.notes := (select count(*) from vault.notes); return a; end';
comment on function vault.open() is 'Open it.';
grant execute on function vault.open() to keelson_app;
select keelson.route('GET /vault/any', 'vault.open');
select keelson.route('GET /vault/verified', 'vault.open', needs_verified_email => true);
select keelson.route('GET /vault/fresh', 'vault.open', factor_within => '5 minutes');
END
	my ($status, undef, $message) = $keelson->try_sql("select keelson.route('GET /vault/x', 'vault.open', is_public => true, needs_verified_email => true)");
	like($message, qr/it is public and demands/, 'nothing that nobody could show');
	my $user = $keelson->user($gateway, password => $password);
	$keelson->sql("insert into vault.notes values ('$user->{id}', 'x')");
	my $ask = sub { return $gateway->get("/vault/$_[0]", token => $user->{token}); };
	ok(wait_until(sub { $ask->('fresh')->{status} != 404 }), 'served');
	is(code($ask->('verified')), 'EMAIL_UNVERIFIED', 'a verified address');
	is($ask->('verified')->{status}, 403, 'is 403');
	$gateway->post('/api/auth/verify', { token => token(mail($user->{email}, 'email.verify')) });
	is($ask->('verified')->{status}, 200, 'then it is served');
	is(code($ask->('fresh')), 'SECOND_FACTOR_REQUIRED', 'a second factor');
	is($ask->('any')->{json}{data}{notes}, 0, 'a policy that asks for one shows nothing');
	my $secret = $gateway->post('/api/auth/totp/enroll', {}, token => $user->{token})->{json}{data}{secret};
	$user->{token} = $gateway->post('/api/auth/totp/confirm', { code => totp($secret) }, token => $user->{token})->{json}{data}{accessToken};
	like(mail($user->{email}, 'factor.changed'), qr/was enabled at/, 'its user is told of enrolment');
	$keelson->sql("update keelson.totp_factors set last_step = 0 where user_id = '$user->{id}'");
	$user->{token} = $gateway->post('/api/auth/totp/verify', { code => totp($secret) }, token => $user->{token})->{json}{data}{accessToken};
	is($keelson->sql("select bool_and(expires_at <= factor_at + interval '24 hours') from keelson.sessions where user_id = '$user->{id}' and aal = 2"), 't',
		'it lasts as long as a session of that level may');
	is($ask->('fresh')->{status}, 200, 'shown') or diag $ask->('fresh')->{content};
	is($ask->('any')->{json}{data}{notes}, 1, 'the policy shows what is there');
	$keelson->sql("update keelson.sessions set factor_at = now() - interval '6 minutes' where user_id = '$user->{id}'");
	is(code($ask->('fresh')), 'SECOND_FACTOR_REQUIRED', 'but not for ever');
	is($ask->('any')->{json}{data}{notes}, 1, 'the level stays');
	my $document = $gateway->get('/api/openapi.json', text => 1)->{content};
	like($document, qr/EMAIL_UNVERIFIED/, 'the description says so');
};

subtest 'a tier that demands one' => sub {
	my $user = verified_user();
	my $tier = $keelson->sql('select id from keelson.tiers where not is_default order by rank limit 1');
	$keelson->sql("select keelson.route('GET /vault/tier', 'vault.open', tier => '$tier')");
	$keelson->sql("select keelson.user_tier_set('$user->{id}', '$tier')");
	my $ask = sub { return $gateway->get('/vault/tier', token => $user->{token}); };
	ok(wait_until(sub { $ask->()->{status} == 200 }), 'served');
	$keelson->sql("select keelson.factor_require_tier('$tier', '7 days')");
	is($ask->()->{status}, 200, 'in the grace too');
	ok($gateway->get('/api/auth/totp', token => $user->{token})->{json}{data}{requiredBy}, 'and the user sees until when');
	$keelson->sql("select keelson.factor_require_tier('$tier', '0')");
	is(code($ask->()), 'SECOND_FACTOR_REQUIRED', 'not afterwards');
	my $key = sub { return $gateway->post('/api/user/access-keys', { name => 'machine', scopes => ['usage.write'] }, token => $user->{token}); };
	is(code($key->()), 'SECOND_FACTOR_REQUIRED', 'nor by an access key');
	is($gateway->get('/api/user/access-keys', token => $user->{token})->{status}, 200, 'which are still shown');
	$keelson->sql("select keelson.factor_require_tier('$tier', null)");
	is($ask->()->{status}, 200, 'until it is not demanded any more');
	is($key->()->{status}, 201, 'and keys are made again');
};

subtest 'changes of address are limited' => sub {
	my $user = verified_user();
	my @replies = map { change_address($user, $_) } map({ "hop$_\@example.net" } 1 .. 5), 'HOP5@example.net', 'hop6@example.net';
	is(join(' ', map { $_->{status} } @replies), '200 200 200 200 200 200 429', 'five an hour; the same mailbox written otherwise does not count');
	ok($replies[-1]{headers}{'retry-after'}, 'and it says for how long');
	is($keelson->sql("select count(*) from keelson.mail_messages where recipient = 'hop6\@example.net'"), 0, 'nobody is mailed');
	is(email_of($user), 'HOP5@example.net unverified', 'and nothing has changed');
};

subtest 'who asks by a change of address which ones are known' => sub {
	my ($user, $other) = (verified_user(), verified_user());
	my $guess = { %$user, password => 'not the password of anybody' };
	is(code(change_address($guess, $_)), 'INVALID_CREDENTIALS', "is told nothing without the password: $_") for $other->{email}, 'nobody@example.net';
	is(code(change_address($user, $other->{email})), 'EMAIL_TAKEN', "time $_") for 1 .. 5;
	is(code(change_address($user, $_)), 'RATE_LIMITED', "has five tries an hour: $_") for $other->{email}, 'nobody@example.net';
	is(email_of($user), "$user->{email} verified", 'and nothing has changed');
};

subtest 'mails that anybody can ask for are limited' => sub {
	my $ask = sub { my ($what, $email) = @_; return $gateway->post("/api/auth/$what", { email => $email })->{status}; };
	$keelson->sql("select keelson.rate_limit_set('reset_email', 3)");
	is($ask->($_, 'nobody@example.org'), 200, $_) for 'request-reset', 'forgot-password', 'resend-verification';
	is($ask->($_, 'NOBODY@example.org'), 429, "$_ for the same address again") for 'request-reset', 'forgot-password', 'resend-verification';
	is($ask->('request-reset', 'another@example.org'), 200, 'for another one');
	$keelson->sql("select keelson.rate_limit_set('reset', 3)");
	my @said = map { $ask->('request-reset', "client$_\@example.org") } 1 .. 4;
	is($said[-1], 429, 'but no more than so many from one client') or diag "@said";
};

$keelson->stop;
done_testing();
