# Verification and recovery over HTTP: in development with tokens in the reply, in production through the keeper;
# and many at once with one token.
use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('recovery');
my $gateway = $keelson->gateway;
my $password = 'correct horse battery staple';

sub mailed
{
	my ($email, $template) = @_;
	return $keelson->sql(qq{select (regexp_match(m.body_text, 'token=(ks[vpu]_[A-Za-z0-9_-]+)'))[1] from keelson.mails as m
		where m.recipient = '$email' and m.template = '$template' order by m.created_at desc, m.id desc limit 1});
}

sub in_environment
{
	my ($name) = @_;
	$keelson->sql("alter system set keelson.environment = $name");
	$keelson->sql('select pg_reload_conf()');
	return KeelsonTest::wait_until(sub { $keelson->sql("select current_setting('keelson.environment')") eq $name });
}

in_environment('development');

subtest 'verification' => sub {
	my $reply = $gateway->post('/api/auth/register', { email => 'ada@example.com', password => $password });
	is($reply->{status}, 201, 'registered');
	my $token = mailed('ada@example.com', 'email.verify');
	like($token, qr/^ksv_/, 'a link was mailed with it');
	my $page = $gateway->get("/api/auth/verify?token=$token", headers => { Accept => 'text/html' });
	is($page->{status}, 200, 'the link shows a page');
	like($page->{headers}{'content-type'}, qr{^text/html}, 'in HTML');
	like($page->{headers}{'content-security-policy'}, qr/default-src 'none'.*script-src 'sha256-/, 'which may do next to nothing');
	is($page->{headers}{'cache-control'}, 'no-store', 'and is kept nowhere');
	my $reader = $reply->{json}{data}{accessToken};
	ok(!$gateway->get('/api/auth/me', token => $reader)->{json}{data}{emailVerified}, 'seeing it verifies nothing');
	is($gateway->post('/api/auth/verify', { token => $token })->{status}, 200, 'the button does');
	ok($gateway->get('/api/auth/me', token => $reader)->{json}{data}{emailVerified}, 'at once');
	is($gateway->post('/api/auth/verify', { token => $token })->{json}{code}, 'INVALID_TOKEN', 'once');
	is($gateway->get('/dev/mails')->{status}, 200, 'developers see the mails');
};

subtest 'a link that is sent again' => sub {
	my $user = $keelson->user($gateway);
	my $resend = sub { return $gateway->post('/api/auth/resend-verification', { email => uc $user->{email} })->{json}{data}{devToken}; };
	my $first = mailed($user->{email}, 'email.verify');
	my $second = $resend->();
	is(mailed($user->{email}, 'email.verify'), $second, 'is mailed');
	is($gateway->post('/api/auth/verify', { token => $first })->{json}{code}, 'INVALID_TOKEN', 'and makes the one before void');
	is($gateway->get("/api/auth/verify?token=$second", headers => { Accept => 'application/json' })->{status}, 200, 'a GET that asks for JSON verifies');
	is($resend->(), undef, 'who is verified gets none');
	is($keelson->sql("select count(*) from keelson.mails where recipient = '$user->{email}' and template = 'email.verify'"), '2', 'nor a mail');
};

subtest 'a reset' => sub {
	my $reply = $gateway->post('/api/auth/forgot-password', { email => 'ada@example.com' });
	my $token = $reply->{json}{data}{devToken};
	my $page = $gateway->get("/api/auth/reset-password?token=$token");
	like($page->{content}, qr/type="password"/, 'the link shows a form');
	is($gateway->post('/api/auth/reset-password', { token => $token, password => 'another good sentence' })->{status}, 200, 'done');
	is($gateway->post('/api/auth/login', { email => 'ada@example.com', password => 'another good sentence' })->{status}, 200,
		'the new password is good');
	is($gateway->post('/api/auth/login', { email => 'ada@example.com', password => $password })->{status}, 401, 'the old one is not');
};

subtest 'one token, many at once' => sub {
	my $token = $gateway->post('/api/auth/request-reset', { email => 'ada@example.com' })->{json}{data}{devToken};
	my @sockets = map { $gateway->connect } 1 .. 12;
	for my $n (0 .. $#sockets)
	{
		my $body = KeelsonTest::json_encode({ token => $token, password => "the sentence number $n of many" });
		syswrite $sockets[$n], "POST /api/auth/reset-password HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
			. 'Content-Length: ' . length($body) . "\r\n\r\n$body";
	}
	my @replies = map { KeelsonTest::Gateway::read_reply($_) } @sockets;
	is(scalar(grep { $_->{status} == 200 } @replies), 1, 'one succeeds') or diag join ' ', map { $_->{status} } @replies;
	is(scalar(grep { $_->{status} >= 500 && $_->{status} != 503 } @replies), 0, 'the others are refused');
};

subtest 'in production' => sub {
	in_environment('production');
	my @answers = map { $gateway->post('/api/auth/request-reset', { email => $_ }) } 'ada@example.com', 'nobody@example.com';
	is_deeply($answers[0]{json}{data}, $answers[1]{json}{data}, 'the answer is the same for all');
	my ($known, $unknown) = map {
		my $reply = $gateway->post('/api/auth/resend-verification', { email => $_ });
		my $text = join "\n", $reply->{status}, $reply->{content}, map { "$_: $reply->{headers}{$_}" } sort grep { !/^(?:x-request-id|date)$/ } keys %{ $reply->{headers} };
		$text =~ s/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/ID/gr =~ s/\d{4}-\d\d-\d\dT[\d:.]+Z/TIME/gr;
	} $keelson->user($gateway)->{email}, 'nobody@example.com';
	is($known, $unknown, 'to whom a link is sent again, too, byte for byte');
	like($known, qr/^200\n/, 'and there is no error');
	is_deeply([ sort keys %{ $answers[0]{json}{data} } ], [qw(devToken message)], 'in shape too');
	is($answers[0]{json}{data}{devToken}, undef, 'and holds no token');
	ok(KeelsonTest::wait_until(sub { $keelson->sql('select count(*) from keelson.recovery_requests') eq '0' }), 'the keeper answers');
	is($keelson->sql(q{select count(*) from keelson.recovery_tokens where purpose = 'reset_password' and used_at is null}), '1',
		'whom there is');
	is($keelson->sql(q{select count(*) from keelson.mails where body_text is not null}), '0', 'nobody reads what waits');
	is($gateway->get('/dev/mails')->{status}, 404, 'there is no page of mails');
};

subtest 'who has no password' => sub {
	in_environment('development');
	# As somebody who came by an external issuer.
	$keelson->sql("select keelson.user_create('issuer\@example.com')");
	my $ask = sub { return $gateway->post('/api/auth/request-reset', { email => 'issuer@example.com' })->{json}{data}{devToken}; };
	like($ask->(), qr/^ksp_/, 'gets one by a reset');
	$keelson->sql('alter system set keelson.reset_sets_first_password = off');
	$keelson->sql('select pg_reload_conf()');
	ok(KeelsonTest::wait_until(sub { !defined $ask->() }), 'unless keelson.reset_sets_first_password is off');
	is($gateway->post('/api/auth/request-reset', { email => 'ada@example.com' })->{json}{data}{devToken} =~ /^ksp_/, 1, 'who has one does');
};

$keelson->stop;
done_testing;
