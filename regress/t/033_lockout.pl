# Guessing passwords over HTTP: what locks, what does not, what a crash leaves of it, what an outsider can tell; CAPTCHA;
# and that hashing is bounded.
use strict;
use warnings;

use IO::Socket::INET;
use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('lockout', limits => 1, conf => "max_connections = 120\nlog_min_messages = log");
# Limits hold, so that the CAPTCHA's are counted; those on logins are tested elsewhere, and would refuse these tests.
$keelson->sql(q{select keelson.rate_limit_set(name, 1000000) from keelson.rate_limits where rate_class <> 'custom'});
my $gateway = $keelson->gateway(KEELSON_TRUSTED_PROXIES => '127.0.0.0/8', KEELSON_POOL_SLOW => 8, KEELSON_RATE_LIMITS => 'on');

sub code { return $_[0]{json}{code} // '' }

# A login, as from the given address.
sub login
{
	my ($email, $password, %more) = @_;
	my $from = delete $more{from};
	return $gateway->request('POST', '/api/auth/login', json => { email => $email, password => $password, %more },
		headers => $from ? { 'X-Forwarded-For' => $from } : {});
}

sub register
{
	my ($email, $from, %more) = @_;
	return $gateway->request('POST', '/api/auth/register', json => { email => $email, password => 'correct horse battery staple', %more },
		headers => { 'X-Forwarded-For' => $from });
}

# How many passwords the server has looked at for an address: each that was wrong is a row.
sub failures
{
	my ($email) = @_;
	return $keelson->sql(qq{select count(*) from keelson.authentication_failures where user_id
		= coalesce((select user_id from keelson.user_emails where email = '$email'), keelson._nobody_id('$email'))});
}

# The same request over so many connections at once: the replies.
sub at_once
{
	my ($count, $target, $data) = @_;
	my $body = json_encode($data);
	my $bytes = "POST $target HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
	my @sockets = map { $gateway->connect } 1 .. $count;
	syswrite $_, $bytes for @sockets;
	return map { KeelsonTest::Gateway::read_reply($_, 30) } @sockets;
}

# The same, but whoever finds no room to hash in asks again, as clients do.
sub at_last
{
	my ($count, @request) = @_;
	my @replies;
	wait_until(sub { push @replies, grep { $_->{status} != 503 } at_once($count - @replies, @request); return @replies == $count }, 120);
	return @replies;
}

# How often each status came.
sub statuses
{
	my %seen;
	$seen{ $_->{status} }++ for @_;
	return \%seen;
}

# The statement, once in each of so many sessions at once: what was said.
sub pgbench
{
	my ($clients, $sql) = @_;
	my $file = $keelson->node->basedir . '/statement.sql';
	open my $out, '>', $file or die "$file: $!";
	print $out "$sql;\n";
	close $out;
	my @command = ('pgbench', '-n', '-c', $clients, '-j', 1, '-t', 1, '-f', $file, '-h', $keelson->node->host, '-p', $keelson->node->port, 'keelson');
	return scalar `@command 2>&1`;
}

# What a reply says to an outsider: ids and times masked.
sub masked
{
	my ($reply) = @_;
	my $text = "$reply->{status}\n" . join '', map { "$_: $reply->{headers}{$_}\n" } sort grep { $_ ne 'date' } keys %{ $reply->{headers} };
	$text .= $reply->{content};
	$text =~ s/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}/ID/g;
	$text =~ s/\d{4}-\d\d-\d\dT[\d:.]+Z/TIME/g;
	$text =~ s/^(retry-after: )(\d+)$/$1 . ($2 > 840 && $2 <= 900 ? 'ABOUT 15 MINUTES' : $2)/em;
	$text =~ s/^(x-ratelimit-\w+|ratelimit[\w-]*): .*\n//gm;
	return $text;
}

subtest 'a hundred at once' => sub {
	my $user = $keelson->user($gateway);
	my @replies = at_once(100, '/api/auth/login', { email => $user->{email}, password => 'wrong horse battery staple' });
	my $seen = statuses(@replies);
	is($seen->{401}, 5, 'five are looked at') or diag explain $seen;
	# The gateway's queue for what hashes has its bounds, too.
	is(($seen->{423} // 0) + ($seen->{503} // 0), 95, 'the others find the account locked, or the queue full');
	cmp_ok($seen->{423}, '>', 40, 'most of them the former');
	is(failures($user->{email}), 5, 'and no more');
	my ($locked) = grep { $_->{status} == 423 } @replies;
	is(code($locked), 'ACCOUNT_LOCKED', 'by its code');
	like($locked->{headers}{'retry-after'}, qr/^(?:8[4-9]\d|900)$/, 'and it says when to come back');
	is(login($user->{email}, $user->{password})->{status}, 423, 'the right password is refused, too');
	is($gateway->get('/api/auth/me', token => $user->{token})->{status}, 200, 'who is signed in stays so');
	is($gateway->post('/api/auth/refresh', { refreshToken => $user->{refresh} })->{status}, 200, 'and is refreshed');

	$seen = statuses(at_once(100, '/api/auth/login', { email => 'nobody@example.com', password => 'wrong horse battery staple' }));
	is($seen->{401}, 5, 'an address that nobody holds is locked alike') or diag explain $seen;
	is(failures('nobody@example.com'), 5, 'at the same cost');

	my $other = $keelson->user($gateway);
	is_deeply(statuses(at_last(20, '/api/auth/login', { email => $other->{email}, password => $other->{password} })), { 200 => 20 },
		'as many at once who know the password all get in');
	# A hundred sessions of the database's own, which no queue stands before.
	my $said = pgbench(100, "select (keelson.session_create('$other->{email}', 'wrong horse battery staple')).status");
	unlike($said, qr/ERROR|FATAL/, 'a hundred sessions of the database') or diag $said;
	is(failures($other->{email}), 5, 'are five attempts');
};

subtest 'it survives a crash' => sub {
	my $user = $keelson->user($gateway);
	login($user->{email}, 'wrong horse battery staple') for 1 .. 5;
	login('crash@example.com', 'wrong horse battery staple') for 1 .. 4;
	$keelson->node->stop('immediate');
	$keelson->node->start;
	ok($gateway->wait_ready, 'the server is back');
	is(login($user->{email}, $user->{password})->{status}, 423, 'locked is locked');
	is(code(login('crash@example.com', 'wrong horse battery staple')), 'INVALID_CREDENTIALS', 'four were four');
	is(code(login('crash@example.com', 'wrong horse battery staple')), 'ACCOUNT_LOCKED', 'and the fifth was the last');
};

subtest 'strangers do not lock the owner out' => sub {
	my $user = $keelson->user($gateway);
	my $device = login($user->{email}, $user->{password})->{json}{data}{deviceToken};
	my $page = login($user->{email}, $user->{password}, cookie => JSON::PP::true);
	my ($cookie) = map { /^(__Host-ks_device=[^;]+)/ } @{ $page->{headers}{'set-cookie'} };
	login($user->{email}, 'wrong horse battery staple') for 1 .. 5;
	is(login($user->{email}, $user->{password})->{status}, 423, 'strangers are locked out');
	is(login($user->{email}, $user->{password}, deviceToken => $device)->{status}, 200, 'a device that has signed in before is not');
	my $by_cookie = $gateway->post('/api/auth/login', { email => $user->{email}, password => $user->{password} }, headers => { Cookie => $cookie });
	is($by_cookie->{status}, 200, 'nor is a browser that has');
	is(login($user->{email}, $user->{password}, deviceToken => $_)->{status}, 423, 'what is no such token does not help')
		for 'nonsense', substr($device, 0, -1), "${device}A", '';
	my $eve = $keelson->user($gateway);
	my $eves = login($eve->{email}, $eve->{password})->{json}{data}{deviceToken};
	is(login($user->{email}, $user->{password}, deviceToken => $eves)->{status}, 423, "nor does another user's");
	is(login($user->{email}, 'wrong horse battery staple', deviceToken => $device)->{status}, 401, 'a device guesses') for 1 .. 5;
	is(login($user->{email}, $user->{password}, deviceToken => $device)->{status}, 423, 'five times, too');
};

subtest 'nobody can tell whether there is an account' => sub {
	my $user = $keelson->user($gateway);
	my $without = 'without@example.com';
	$keelson->sql("select keelson.user_create('$without')");
	my @addresses = ($user->{email}, 'who@example.com', $without);
	for my $n (1 .. 7)
	{
		my ($known, @others) = map { masked(login($_, "wrong horse battery $n")) } @addresses;
		is($_, $known, "attempt $n: the same bytes") for @others;
		like($known, $n <= 5 ? qr/^401\n/ : qr/^423\n.*retry-after: ABOUT 15 MINUTES/s, "attempt $n: refused");
	}
	is(code(register($user->{email}, '192.0.2.99')), 'EMAIL_TAKEN', 'but registering does, bounded by limits and CAPTCHA');
};

subtest 'the present password' => sub {
	my $user = $keelson->user($gateway);
	my $change = sub { return $gateway->put('/api/user/profile', { currentPassword => $_[0], newPassword => 'a whole new sentence' }, token => $user->{token}) };
	is(code($change->("wrong horse battery $_")), 'INVALID_CREDENTIALS', 'a session guesses') for 1 .. 5;
	is(code($change->($user->{password})), 'ACCOUNT_LOCKED', 'five times');
	is(login($user->{email}, $user->{password})->{status}, 200, 'which locks nobody else');
};

subtest 'audit' => sub {
	my $user = $keelson->user($gateway);
	login($user->{email}, 'wrong horse battery staple') for 1 .. 6;
	my $mine = $gateway->get('/api/user/activity?limit=100', token => $user->{token});
	my @failed = grep { $_->{type} eq 'auth.login' && $_->{outcome} eq 'failure' } @{ $mine->{json}{data} };
	is(scalar(@failed), 5, 'every failure is recorded');
	is(scalar(grep { $_->{data}{lockedUntil} } @failed), 1, 'and when one locked the account');
};

subtest 'CAPTCHA' => sub {
	my $count = 0;
	is(register("free$_\@example.com", '192.0.2.20')->{status}, 201, 'without one configured, none is asked for') for 1 .. 6;
	$keelson->sql(q{
		create schema captcha;
		grant usage on schema captcha to keelson_owner;
		create function captcha.is_solved(response text, ip_address inet) returns boolean language plpgsql as $$
		begin
			return response = 'solved at ' || host(ip_address);
		end $$;
		revoke all on function captcha.is_solved(text, inet) from public;
		grant execute on function captcha.is_solved(text, inet) to keelson_owner});
	my $configure = sub {
		my (%settings) = @_;
		$keelson->sql("alter system set keelson.$_ = '$settings{$_}'") for sort keys %settings;
		$keelson->sql('select pg_reload_conf()');
	};
	$configure->(captcha_url => 'https://captcha.example.com/siteverify');
	my $from = '192.0.2.21';
	ok(wait_until(sub { code(register('captcha' . ++$count . '@example.com', $from)) eq 'CAPTCHA_REQUIRED' }), 'configured, it is asked for');
	my $asked = register('asked@example.com', $from);
	is($asked->{status}, 403, 'by 403');
	is($asked->{json}{details}[0]{field}, 'captcha', 'which names the field');
	is(register('another@example.com', '192.0.2.22')->{status}, 201, 'not of another address');
	is(register("v6$_\@example.com", "2001:db8:1:2::$_")->{status}, 201, 'three are free, of a network too') for 1 .. 3;
	is(code(register('v64@example.com', '2001:db8:1:2:ffff::1')), 'CAPTCHA_REQUIRED', 'the fourth is not');
	my $closed = register('closed@example.com', $from, captcha => "solved at $from");
	is($closed->{status}, 503, 'what cannot be verified is refused');
	is(code($closed), 'UNAVAILABLE', 'as what it is');
	ok($closed->{headers}{'retry-after'}, 'for now');
	like($keelson->server_log, qr/a CAPTCHA cannot be verified: the secret captcha_secret is not set/, 'and the log says why');

	$configure->(captcha_function => 'captcha.is_solved');
	ok(wait_until(sub { register('solved' . ++$count . '@example.com', $from, captcha => "solved at $from")->{status} == 201 }), 'a solved one is let in');
	is(code(register('wrong@example.com', $from, captcha => 'nonsense')), 'CAPTCHA_REQUIRED', 'one that was not is asked again');
	is(register('long@example.com', $from, captcha => 'x' x 8193)->{status}, 400, 'a response has its limits');
	is(register('number@example.com', $from, captcha => 1)->{status}, 400, 'and is a text');

	# It would have our rights: what calls it is ours.
	$keelson->sql(q{
		create role captcha_judge;
		grant usage on schema captcha to captcha_judge;
		create table captcha.seen (what text, as_whom text);
		create table captcha.late (id integer);
		grant insert on captcha.seen, captcha.late to captcha_judge;
		create function captcha.late() returns trigger language plpgsql as $$
		begin
			insert into captcha.seen values ('late', current_user);
			return null;
		end $$;
		create constraint trigger late after insert on captcha.late deferrable initially deferred for each row execute function captcha.late();
		create function captcha.judged(response text, ip_address inet) returns boolean language plpgsql as $$
		begin
			insert into captcha.seen values ('called', current_user);
			insert into captcha.late values (1);
			begin
				execute 'declare held cursor with hold for select current_user';
			exception when insufficient_privilege then
				insert into captcha.seen values ('refused to hold', current_user);
			end;
			begin
				perform from keelson.passwords;
			exception when insufficient_privilege then
				insert into captcha.seen values ('refused to read', current_user);
			end;
			return response = 'judged';
		end $$;
		alter function captcha.judged(text, inet) owner to captcha_judge});
	$configure->(captcha_function => 'captcha.judged');
	ok(wait_until(sub { register('judged' . ++$count . '@example.com', $from, captcha => 'judged')->{status} == 201 }), 'a role of the product\'s judges');
	is($keelson->sql(q{select distinct concat_ws(' as ', what, as_whom) as seen from captcha.seen order by seen}),
		join("\n", map { "$_ as captcha_judge" } 'called', 'late', 'refused to hold', 'refused to read'),
		'as itself, whatever it leaves to the commit too');
	is(code(register('unjudged@example.com', $from, captcha => 'nonsense')), 'CAPTCHA_REQUIRED', 'and is believed');
	$configure->(captcha_function => 'captcha.is_solved');
	ok(wait_until(sub { register('again' . ++$count . '@example.com', $from, captcha => "solved at $from")->{status} == 201 }), 'a superuser\'s judges again');

	my $user = $keelson->user($gateway);
	$from = '192.0.2.23';
	my $device = login($user->{email}, $user->{password})->{json}{data}{deviceToken};
	is(code(login($user->{email}, 'wrong horse battery staple', from => $from)), 'INVALID_CREDENTIALS', 'a login may fail') for 1 .. 3;
	is(code(login($user->{email}, $user->{password}, from => $from)), 'CAPTCHA_REQUIRED', 'thrice, then it is suspicious');
	is(code(login($user->{email}, $user->{password}, from => '192.0.2.24')), 'CAPTCHA_REQUIRED', 'wherever it comes from');
	is(failures($user->{email}), 3, 'and nothing is looked at');
	is(login($user->{email}, $user->{password}, deviceToken => $device)->{status}, 200, 'a device that has signed in before is not asked');
	is(login($user->{email}, $user->{password}, from => $from, captcha => "solved at $from")->{status}, 200, 'solved, it goes on');
	is(login($user->{email}, $user->{password}, from => $from)->{status}, 200, 'and is forgotten');
	$from = '192.0.2.25';
	login("suspicious$_\@example.com", 'wrong horse battery staple', from => $from) for 1 .. 10;
	is(code(login($user->{email}, $user->{password}, from => $from)), 'CAPTCHA_REQUIRED', 'an address that has failed ten times is suspicious');
	is(login($user->{email}, $user->{password}, from => '192.0.2.26')->{status}, 200, 'another is not');
	$configure->(captcha_function => '', captcha_url => '');
	ok(wait_until(sub { login($user->{email}, $user->{password}, from => $from)->{status} == 200 }), 'off is off');
};

subtest 'a hundred accounts in an hour' => sub {
	my $from = '192.0.2.66';
	is(login("spray$_\@example.com", 'wrong horse battery staple', from => $from)->{status}, 401, "account $_") for 1 .. 5;
	$keelson->sql("select keelson.block_rule_set('accounts', 6)");
	login("spray$_\@example.com", 'wrong horse battery staple', from => $from) for 6 .. 9;
	ok(wait_until(sub { code(login('spray1@example.com', 'wrong horse battery staple', from => $from)) eq 'IP_BLOCKED' }, 20), 'block the address that tries them');
	is(login('spray2@example.com', 'wrong horse battery staple', from => '192.0.2.67')->{status}, 401, 'and no other');
};

# One hash that takes as long as is allowed, and a hundred that want to run: one runs, 64 wait, the rest are told at once.
subtest 'hashing is bounded' => sub {
	my $slow = '$argon2id$v=19$m=65536,t=16,p=1$' . 'c29tZXNhbHRzb21lc2FsdA$' . 'A' x 43;
	my $sql = "select (keelson._password_check('x', '$slow', 0)).is_match";
	$keelson->node->append_conf('postgresql.conf', 'keelson.password_hash_slots = 1');
	$keelson->node->restart;
	my $said = pgbench(80, $sql);
	my $refused = () = $said =~ /too many passwords are being checked/g;
	cmp_ok($refused, '>=', 80 - 1 - 64, 'what finds no room in the queue is refused') or diag $said;
	unlike($said, qr/(?:ERROR|FATAL):(?!\s+too many passwords)/, 'and nothing else goes wrong');
	ok($gateway->wait_ready, 'the server is there');
	my $user = $keelson->user($gateway);
	is(login($user->{email}, $user->{password})->{status}, 200, 'afterwards all is as before');
};

done_testing();
