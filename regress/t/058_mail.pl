# Mails over SMTP: a real mail server with TLS and login, one that misbehaves, a courier that is killed around the 250.

use strict;
use warnings;

use KeelsonTest;
use KeelsonTest::MailServer;
use MIME::QuotedPrint qw(decode_qp);
use MIME::Base64 qw(decode_base64);
use Test::More;

plan skip_all => 'npm\'s package smtp-server is not there' unless KeelsonTest::MailServer::is_available();

my $mark = 'Canary' . join '', map { ('a' .. 'z')[ rand 26 ] } 1 .. 12;
my $server = KeelsonTest::MailServer->new('one', password => "$mark/with:signs");
my $keelson = KeelsonTest->new('mail', conf => join "\n", 'keelson.environment = development', "keelson.courier_ca_file = '" . $server->authority . "'",
	'keelson.mail_from = \'Fish & Chips <no-reply@mail.example.com>\'', "log_statement = 'all'", "log_min_messages = 'info'",
	'log_parameter_max_length = -1', 'log_parameter_max_length_on_error = -1', 'keelson.mail_domain_rate = 0');
my $gateway = $keelson->gateway;

sub use_server
{
	my ($port, %options) = @_;
	(my $password = $options{password} || "$mark/with:signs") =~ s{([/:])}{sprintf '%%%02X', ord $1}ge;
	my $url = $server->url($port, password => $password, %{ $options{at} || {} });
	# As make up does it: the value is a parameter, and no log shows it.
	$keelson->node->psql('keelson', "set log_statement = 'none'; select keelson.secret_set('smtp_url', '$url')", on_error_die => 1);
	return;
}

sub set
{
	my ($name, $value) = @_;
	$keelson->sql("alter system set $name = $value");
	$keelson->sql('select pg_reload_conf()');
	return wait_until(sub { $keelson->sql("select current_setting('$name')") eq $value });
}

# Send a mail of the product's about Ada.
sub send_mail
{
	my ($to, %options) = @_;
	my $template = $options{template} || 'app.note';
	return $keelson->sql("begin; select keelson.act_as('ada\@example.com') \\g /dev/null\n"
		. "select keelson.mail_send('$template', '$to', '{\"thing\": \"" . ($options{thing} || 'tea') . "\"}'); commit;");
}

sub mail_is
{
	my ($to) = @_;
	return $keelson->sql("select format('%s %s %s', state, attempts, error) from keelson.mail_messages where recipient = '$to' order by id desc limit 1");
}

sub becomes
{
	my ($to, $wanted, $name) = @_;
	ok(wait_until(sub { mail_is($to) =~ $wanted }), $name) or diag mail_is($to);
	return;
}

# Whatever waits to be tried again is due.
sub retry_now
{
	return $keelson->sql(q{update keelson.deliveries set due_at = now() where claim_id is null;
		update keelson.courier_lanes set breaker = 'closed', breaker_until = null;
		select count(keelson._courier_hint(user_id, lane, true)) from keelson.deliveries});
}

sub header
{
	my ($mail, $name) = @_;
	my ($head) = split /\r?\n\r?\n/, $mail->{data};
	$head =~ s/\r?\n[ \t]+/ /g;
	return ($head =~ /^\Q$name\E: (.*?)\r?$/m)[0];
}

sub part
{
	my ($mail, $type) = @_;
	return decode_qp(($mail->{data} =~ /Content-Type: \Q$type\E.*?\r?\n\r?\n(.*?)(?:\r?\n--=_|\z)/s)[0]);
}

$keelson->sql(q{select keelson.mail_template_set('app.note', 'A note: {{thing}}', E'Hello {{name}},\n.{{thing}}\n..two dots and a line that is far longer than the seventy-six characters that a line of a mail may have = so it is folded \nBye {{unsubscribeUrl}}', '<p>{{thing}}</p>')});
$gateway->post('/api/auth/register', { email => 'ada@example.com', password => 'correct horse battery staple', name => 'Ada' });

subtest 'without a mail server' => sub {
	is($keelson->sql("select count(*) from keelson.mails where state = 'pending'"), 1, 'mails wait');
	is($keelson->sql('select count(*) from keelson.deliveries'), 0, 'and nobody is to send them');
	like(mail_is('ada@example.com'), qr/^pending 0 /, 'nothing is counted as tried');
};

subtest 'a URL that is none' => sub {
	for my $url ('smtp.example.com', 'http://example.com', 'smtp://', 'smtp://a b', "smtp://user:$mark\@")
	{
		my ($status, undef, $message) = $keelson->try_sql("set log_statement = 'none'; set log_min_error_statement = 'panic'; select keelson.secret_set('smtp_url', '$url')");
		like($message, qr/the mail server's URL is not as smtps:/, 'is refused');
		unlike($message =~ s/^(LINE|STATEMENT).*//mgr, qr/\Q$mark/, 'without telling it');
	}
};

subtest 'STARTTLS and login' => sub {
	use_server('starttls');
	# Or the keeper has done it before.
	$keelson->sql('select keelson._mails_deliver()');
	ok(wait_until(sub { $keelson->sql('select count(*) from keelson.deliveries') eq '1' }, 20), 'what waited is to be sent, once');
	my ($mail) = $server->wait_for(1, 'ada@example.com');
	ok($mail, 'and is') or return diag $keelson->sql('select * from keelson.delivery_attempts');
	ok($mail->{secure}, 'over TLS');
	is($mail->{user}, 'keelson', 'logged in');
	is($mail->{from}, 'no-reply@mail.example.com', 'from the address of keelson.mail_from');
	is($mail->{name}, 'mail.example.com', 'and we say who we are');
	is(header($mail, 'From'), '"Fish & Chips" <no-reply@mail.example.com>', 'the name is quoted');
	is(header($mail, 'Subject'), 'Confirm your e-mail address', 'the subject');
	like(header($mail, 'Date'), qr/^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000$/, 'the date');
	is(header($mail, 'Auto-Submitted'), 'auto-generated', 'nobody is to answer');
	is(header($mail, 'List-Unsubscribe'), undef, 'nobody unsubscribes from security mail');
	like(part($mail, 'text/plain'), qr{/api/auth/verify\?token=ksv_[0-9a-f]{32}[\w-]{43}\s}, 'the link is whole');
	like(part($mail, 'text/html'), qr{<a href="http[^"]+/api/auth/verify\?token=ksv_[0-9a-f]{32}[\w-]{43}"}, 'in HTML too');
	becomes('ada@example.com', qr/^sent 1 $/, 'recorded as sent');
	is($keelson->sql(q{select count(*) from keelson.mail_messages where state = 'sent' and content is not null}), 0, 'its words are forgotten');
	is($keelson->sql('select keelson._mails_deliver()'), 0, 'and it is not sent again');
	my ($token) = part($mail, 'text/plain') =~ /(ksv_[\w-]+)/;
	is($gateway->post('/api/auth/verify', { token => $token })->{status}, 200, 'the link works');
};

subtest 'what a mail looks like' => sub {
	send_mail('eve@example.org', thing => '\u00e4hm, <b>, ' . 'x' x 60);
	my ($mail) = $server->wait_for(1, 'eve@example.org');
	my $subject = join '', map { decode_base64($_) } header($mail, 'Subject') =~ /=\?UTF-8\?B\?([^?]+)\?=/g;
	is($subject, "A note: \xc3\xa4hm, <b>, " . 'x' x 60, 'a subject that is not ASCII is encoded');
	my $text = part($mail, 'text/plain');
	like($text, qr/^\.\xc3\xa4hm/m, 'a dot at the beginning of a line stays');
	like($text, qr/^\.\.two dots and a line .* = so it is folded \r?$/m, 'and two, and what was folded');
	like(part($mail, 'text/html'), qr/&lt;b&gt;/, 'values are escaped in HTML');
	is(scalar(grep { length > 76 && !/^List-Unsubscribe:/ } split /\r?\n/, $mail->{data}), 0, 'no line is too long');
	like(header($mail, 'List-Unsubscribe'), qr{^<http://[^>]+/api/mail/unsubscribe\?token=ksm_[\w-]+>$}, 'it can be unsubscribed from');
	is(header($mail, 'List-Unsubscribe-Post'), 'List-Unsubscribe=One-Click', 'by one click');
	my ($link) = header($mail, 'List-Unsubscribe') =~ m{(/api/mail.*)>};
	is($gateway->get($link, headers => { Accept => 'text/html' })->{status}, 200, 'the link shows a page');
	is($keelson->sql('select count(*) from keelson.mail_suppressions'), 0, 'which changes nothing');
	my $click = $gateway->request('POST', $link, body => 'List-Unsubscribe=One-Click', headers => { 'Content-Type' => 'application/x-www-form-urlencoded' });
	is($click->{status}, 200, 'the click is taken') or diag $click->{content};
	is($keelson->sql("select reason from keelson.mail_suppressions where recipient = 'eve\@example.org'"), 'unsubscribe', 'and holds');
	(my $forged = $link) =~ s/(.)$/$1 eq 'A' ? 'B' : 'A'/e;
	is($gateway->request('POST', "$_", headers => { 'Content-Type' => 'multipart/form-data; boundary=x' }, body => "--x--\r\n")->{json}{code}, 'INVALID_TOKEN',
		'a link that is none') for $forged, '/api/mail/unsubscribe?token=ksm_x';
	send_mail('eve@example.org');
	like(mail_is('eve@example.org'), qr/^suppressed/, 'nothing more is sent there');
};

subtest 'many, over few connections' => sub {
	my $before = $server->connections;
	$keelson->sql("begin; select keelson.act_as('ada\@example.com'); select keelson.mail_send('app.note', 'p' || n || '\@many.example.com', '{\"thing\": \"x\"}') from generate_series(1, 60) n; commit");
	ok(wait_until(sub { $keelson->sql(q{select count(*) from keelson.mail_messages where recipient like '%many.example.com' and state = 'sent'}) == 60 }, 60), 'all are sent');
	my @many = grep { $_->{to}[0] =~ /many/ } $server->mails;
	is(scalar @many, 60, 'each once');
	is(scalar(grep { @{ $_->{to} } != 1 } @many), 0, 'to one recipient each');
	cmp_ok($server->connections - $before, '<=', 8, 'over no more connections than keelson.mail_connections');
};

subtest 'TLS from the start, and none' => sub {
	use_server('implicit');
	send_mail('implicit@example.com');
	ok(scalar $server->wait_for(1, 'implicit@example.com'), 'smtps');
	use_server('plain');
	send_mail('plain@example.com');
	becomes('plain@example.com', qr/^pending 1 the mail server offers no TLS$/, 'a server without TLS gets nothing');
	is(scalar $server->mails('plain@example.com'), 0, 'not a word');
	set('keelson.smtp_tls', 'optional');
	retry_now();
	ok(scalar $server->wait_for(1, 'plain@example.com'), 'unless keelson.smtp_tls says that it may');
	set('keelson.smtp_tls', 'required');
	use_server('starttls', at => { host => '127.0.0.1' });
	send_mail('cert@example.com');
	becomes('cert@example.com', qr/^pending 1 the TLS certificate could not be verified$/, 'a certificate of another name');
	use_server('implicit');
	my $trust = sub {
		$keelson->sql("alter system set keelson.courier_ca_file = '$_[0]'");
		$keelson->sql('select pg_reload_conf()');
		return wait_until(sub { $keelson->sql("select current_setting('keelson.courier_ca_file')") eq $_[0] });
	};
	$trust->('');
	# The courier reads its settings a moment later.
	my $to = 'authority-0@example.com';
	ok(wait_until(sub {
		$to =~ s/(\d+)/$1 + 1/e;
		send_mail($to);
		wait_until(sub { mail_is($to) !~ /^pending 0 / });
		return mail_is($to) eq 'pending 1 the TLS certificate could not be verified'; }), 'an authority that is not known any more') or diag mail_is($to);
	$trust->($server->authority);
	ok(wait_until(sub { retry_now(); scalar $server->mails($to) }), 'and is again: it is enough to reload the setting');
	use_server('starttls', password => 'wrong');
	send_mail('login@example.com');
	becomes('login@example.com', qr/^pending 1 the server refused our name and password$/, 'a wrong password');
	use_server('starttls');
	retry_now();
	ok(scalar $server->wait_for(1, $_), "$_ goes out when that is mended") for 'cert@example.com', 'login@example.com';
};

subtest 'refusals' => sub {
	send_mail('reject-1@example.com');
	becomes('reject-1@example.com', qr/^failed 1 the mail server refuses the mail: 550 5\.1\.1 no such mailbox$/, '550 is final');
	is($keelson->sql("select reason from keelson.mail_suppressions where recipient = 'reject-1\@example.com'"), 'bounce', 'nobody sends there again');
	send_mail('refuse-1@example.com');
	becomes('refuse-1@example.com', qr/^failed 1 the mail server refuses the mail: 554 5\.7\.1/, '554 after the text too');
	send_mail('defer-2@example.com');
	becomes('defer-2@example.com', qr/^pending 1 the mail server asks to try again later: 451 4\.7\.1 come back later$/, '451 is not');
	ok($keelson->sql("select d.due_at > now() + interval '3 minutes' from keelson.deliveries d where d.kind = 'mail'") eq 't', 'it is left alone for minutes');
	retry_now();
	becomes('defer-2@example.com', qr/^pending 2 /, 'tried again');
	retry_now();
	becomes('defer-2@example.com', qr/^sent 3 $/, 'until it is taken');
	is(scalar $server->mails('defer-2@example.com'), 1, 'once');
	$keelson->sql(q{update keelson.mail_messages set expires_at = now() + interval '2 minutes' where id = (} . "'" . send_mail('defer-9@example.com') . "')");
	wait_until(sub { mail_is('defer-9@example.com') =~ /^pending 1/ });
	retry_now();
	becomes('defer-9@example.com', qr/^failed \d+ the mail server asks to try again later/, 'not for longer than it is worth');
	# What takes its sense from a mail comes with it, so that the courier sees both: of an administrator, as no user may do either.
	my $unless = sub {
		my ($to, $statement) = @_;
		return $keelson->sql("begin; select keelson._mail_queue(user_id, 'app.note', '$to', '{\"thing\": \"tea\"}') as id\n"
			. "from keelson.user_emails where email = 'ada\@example.com' \\gset\n$statement; commit");
	};
	$unless->('spared@example.com', q{insert into keelson.mail_suppressions (recipient, reason) values ('spared@example.com', 'complaint')});
	becomes('spared@example.com', qr/^suppressed \d+ nobody sends to the address$/, 'nothing goes to who wants none by now');
	$unless->('stale@example.com', q{update keelson.mail_messages set expires_at = now() + interval '1 microsecond' where id = :'id'});
	becomes('stale@example.com', qr/^expired \d+ it is not worth sending any more$/, 'nor what is too late');
	my $gone = $unless->('gone@example.com', q{delete from keelson.mail_messages where id = :'id' returning id});
	ok(wait_until(sub { $keelson->sql("select state from keelson.deliveries_log where id = '$gone'") eq 'cancelled' }), 'nor what is gone');
	is(scalar(map { $server->mails($_) } qw(spared@example.com stale@example.com gone@example.com)), 0, 'none of them arrives');
	# Whoever holds a mail holds up nobody, and what came of it is recorded afterwards.
	my $held = $unless->('held@example.com', q{update keelson.deliveries set due_at = now() + interval '1 hour' where id = :'id' returning id});
	my $holder = $keelson->node->background_psql('keelson');
	$holder->query_safe("begin; select from keelson.mail_messages where id = '$held' for update");
	retry_now();
	ok(wait_until(sub { $keelson->sql("select state from keelson.deliveries_log where id = '$held'") eq 'delivered' }), 'one that somebody has locked is sent');
	like(mail_is('held@example.com'), qr/^pending 0 $/, 'which the mail does not say yet');
	is($keelson->sql('select keelson._mails_catch_up()'), 0, 'nor while it is locked');
	$holder->query_safe('rollback');
	$holder->quit;
	$keelson->sql('select keelson._mails_catch_up()');
	is(mail_is('held@example.com'), 'sent 1 ', 'but afterwards');
	is($keelson->sql("select content is null and settled_at is not null from keelson.mail_messages where id = '$held'"), 't', 'and its words are forgotten');
	is($keelson->sql(q{select count(*) from keelson.deliveries}), 0, 'nothing waits');
	is($keelson->sql(q{select count(*) from keelson.courier_lanes where breaker <> 'closed'}), 0, 'refused recipients open no breaker');
};

subtest 'a mail that was tampered with' => sub {
	$keelson->sql("select keelson.secret_set('smtp_url', null)");
	my $id = send_mail('tampered@example.com');
	$keelson->sql("update keelson.mail_messages set content = set_byte(content, 40, 255 - get_byte(content, 40)) where id = '$id'");
	use_server('starttls');
	$keelson->sql('select keelson._mails_deliver()');
	becomes('tampered@example.com', qr/^pending 1 the request could not be made/, 'does not go out');
	is(scalar $server->mails('tampered@example.com'), 0, 'nothing of it');
	send_mail('untouched@example.com');
	ok(scalar $server->wait_for(1, 'untouched@example.com'), 'others do');
	# It is what administrators are told of.
	$keelson->sql("select keelson.role_grant('ada\@example.com', 'admin')");
	ok(wait_until(sub { $keelson->sql("select count(*) from keelson.audit_events where event_type = 'security.unseal_failed'") > 0 }, 20), 'the trail has it');
	is($keelson->sql('select keelson._alerts_evaluate(1)'), 1, 'a rule finds it');
	is($keelson->sql('select rule from keelson.alerts'), 'unseal-failures', 'that of values that do not open');
	ok(wait_until(sub { grep { header($_, 'Subject') eq 'Alert: unseal-failures' } $server->mails('ada@example.com') }), 'and they have a mail');
	$keelson->sql("delete from keelson.deliveries where id = '$id'; delete from keelson.mail_messages where id = '$id'");
};

subtest 'a server that misbehaves' => sub {
	set('keelson.smtp_tls', 'optional');
	use_server('bad');
	my %said = (
		garbage  => qr/^pending 1 the (response was not understood|connection was )/,
		greeting => qr/^pending 1 the mail server refuses to take mail from us: 554 5\.3\.2 not today$/,
		sender   => qr/^pending 1 the mail server refuses to take mail from us: 550 5\.7\.1 you may not send$/,
		drop     => qr/^pending 1 the (connection|response) /);
	for my $fault (sort keys %said)
	{
		$server->fault($fault);
		send_mail("$fault\@bad.example.com");
		becomes("$fault\@bad.example.com", $said{$fault}, $fault);
	}
	$server->fault('hang');
	send_mail('hang@bad.example.com');
	ok(wait_until(sub { $keelson->sql('select in_flight from keelson._courier_status()') eq '1' }), 'a server that says nothing holds the mail');
	send_mail('meanwhile@other.example.com');
	$server->stop;
	becomes('hang@bad.example.com', qr/^pending 1 the /, 'until its connection breaks');
	becomes('meanwhile@other.example.com', qr/^pending [1-9] the (connection|response) /, 'and one that refuses to be connected to');
	$server->start;
	use_server('starttls');
	set('keelson.smtp_tls', 'required');
	wait_until(sub { retry_now(); $keelson->sql('select count(*) from keelson.deliveries') eq '0' }, 60);
	my %ids;
	for my $to ((map { "$_\@bad.example.com" } sort(keys %said), 'hang'), 'meanwhile@other.example.com')
	{
		my ($mail) = $server->mails($to);
		ok($mail, "$to goes out in the end");
		like(header($mail || { data => '' }, 'Message-ID') || '', qr/^<[0-9a-f-]{36}\@mail\.example\.com>$/, 'with its Message-ID');
	}
};

# The courier's process; '' while the server cannot say.
sub courier
{
	my ($host, $port) = ($keelson->node->host, $keelson->node->port);
	chomp(my $pid = `psql -XAtqw -h '$host' -p $port -d keelson -c "select pid from pg_stat_activity where backend_type = 'keelson courier'" 2>/dev/null`);
	return $pid;
}

# Kills it, and waits for the next one; the server restarts all its processes between.
sub kill_courier
{
	my ($pid) = @_;
	kill_server_process($pid);
	return wait_until(sub { my $next = courier(); $next && $next ne $pid }, 60);
}

subtest 'killed around the 250' => sub {
	my $seed = $ENV{KEELSON_TEST_SEED} || time;
	srand $seed;
	diag "seed $seed";
	my $rounds = 6;
	for my $round (1 .. $rounds)
	{
		my $delay = int rand 500;
		my $to = "slow-400\@round$round.example.com";
		my $pid = wait_until(\&courier, 60);
		send_mail($to);
		# The server has the text and answers after 400 ms.
		ok(scalar $server->wait_for(1, $to), "round $round: the mail is under way");
		Time::HiRes::sleep($delay / 1000);
		ok(kill_courier($pid), 'back after the crash');
		becomes($to, qr/^sent /, 'it is sent');
		my @sent = $server->mails($to);
		cmp_ok(scalar @sent, '<=', 2, 'once, or what was in flight once more');
		my %ids = map { header($_, 'Message-ID') => 1 } @sent;
		is(scalar keys %ids, 1, 'with one Message-ID');
	}
	# What is recorded as sent is not sent again, whatever happens then.
	my $count = () = $server->mails;
	kill_courier(wait_until(\&courier, 60));
	send_mail('last@example.com');
	$server->wait_for(1, 'last@example.com');
	is(scalar(() = $server->mails), $count + 1, 'what was recorded is not repeated');
};

subtest 'throttle of a domain' => sub {
	set('keelson.mail_domain_rate', '2');
	$keelson->sql("begin; select keelson.act_as('ada\@example.com'); select keelson.mail_send('app.note', 't' || n || '\@throttled.example.com', '{\"thing\": \"x\"}') from generate_series(1, 7) n; commit");
	send_mail('free@unthrottled.example.com');
	ok(scalar $server->wait_for(1, 'free@unthrottled.example.com'), 'another domain does not wait');
	ok(wait_until(sub { $keelson->sql(q{select count(*) from keelson.mail_messages where recipient like '%@throttled%' and state = 'sent'}) == 7 }, 60), 'all go out');
	my @at = sort { $a <=> $b } map { $_->{at} } grep { ($_->{to}[0] || '') =~ /\@throttled/ } $server->mails;
	cmp_ok($at[-1] - $at[0], '>=', 2000, 'two a second, after the first two');
};

subtest 'no secret in any log' => sub {
	my $log = $keelson->server_log . slurp($keelson->node->basedir . '/gateway0.log');
	is(index($log, $mark), -1, 'not the password');
	unlike($log, qr/ks[vpmu]_[0-9a-f]{32}[\w-]{43}/, 'no token of a mail');
	is($keelson->sql("select count(*) from keelson.deliveries_log as l where l::text like '%$mark%' or l::text like '%example.com%'"), 0,
		'nor in the log of deliveries, which has no address either');
};

$keelson->stop;
$server->stop;
done_testing();
