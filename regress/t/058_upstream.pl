# What a request waits for: the CAPTCHA's provider, the check of a user's API key with its service, and calls with such a
# key. Each against a service that accepts, refuses, fails, hangs and answers nonsense.

use strict;
use warnings;

use KeelsonTest;
use KeelsonTest::Sink;
use Test::More;

my $keelson = KeelsonTest->new('upstream', limits => 1,
	conf => "keelson.environment = development\nkeelson.allow_private_targets = on\nkeelson.upstream_calls_per_user = 3\nlog_min_messages = log\nlog_statement = all\nmax_connections = 80");
$keelson->sql(q{select keelson.rate_limit_set(name, 1000000) from keelson.rate_limits where rate_class <> 'custom'});
my $gateway = $keelson->gateway(
	KEELSON_TRUSTED_PROXIES => '127.0.0.0/8', KEELSON_POOL_SLOW => 8, KEELSON_POOL_UPSTREAM => 8, KEELSON_RATE_LIMITS => 'on', KEELSON_ENV => 'development');
my $sink = KeelsonTest::Sink->new('provider');
my $count = 0;

sub code { return $_[0]{json}{code} // '' }
sub reset_breaker { return $keelson->sql("select keelson.upstream_reset('$_[0]')") }
sub breaker { return $keelson->sql("select breaker from keelson.upstream_status() where upstream = '$_[0]'") }

sub configure
{
	my (%settings) = @_;
	$keelson->sql("alter system set keelson.$_ = '$settings{$_}'") for sort keys %settings;
	$keelson->sql('select pg_reload_conf()');
	wait_until(sub { $keelson->sql("show keelson.$_") eq $settings{$_} }) for keys %settings;
	return;
}

# Registers from an address that has used up what is free of a CAPTCHA.
sub register
{
	my ($captcha) = @_;
	return $gateway->request('POST', '/api/auth/register', headers => { 'X-Forwarded-For' => '192.0.2.21' },
		json => { email => 'captcha' . ++$count . '@example.com', password => 'correct horse battery staple', defined $captcha ? (captcha => $captcha) : () });
}

subtest 'CAPTCHA' => sub {
	my $secret = '0x4AAAAAAA-our+secret&with=signs';
	configure(captcha_url => $sink->url('/as/captcha'));
	$sink->put(yes => '{"success": true, "challenge_ts": "2025-01-15T00:00:00Z", "hostname": "example.com", "error-codes": []}');
	$sink->put(no => '{"success": false, "error-codes": ["timeout-or-duplicate"]}');
	$sink->put(ours => '{"success": false, "error-codes": ["invalid-input-secret"]}');
	$sink->put(words => '<html>busy</html>');
	$sink->put(nul => '{"success": "\u0000"}');
	$sink->put(list => '[true]');
	$sink->put(captcha => '/file/yes');
	wait_until(sub { code(register()) eq 'CAPTCHA_REQUIRED' });
	my $closed = register('solved');
	is("$closed->{status} " . code($closed), '503 UNAVAILABLE', 'without our secret nothing can be verified, and is refused');
	like($keelson->server_log, qr/a CAPTCHA cannot be verified: the secret captcha_secret is not set/, 'the log says why');
	is(scalar($sink->requests), 0, 'nobody was asked');
	# Not log_statement's to see.
	$keelson->sql("set log_statement = none; select keelson.secret_set('captcha_secret', '$secret')");
	my $let_in = register("solved & more=1 \x{fc}");
	is($let_in->{status}, 201, 'solved, it is let in') or diag $let_in->{content};
	my ($asked) = $sink->requests('/as/captcha');
	is("$asked->{method} $asked->{headers}{'content-type'}", 'POST application/x-www-form-urlencoded', 'the provider was asked');
	is($asked->{body}, 'secret=0x4AAAAAAA-our%2Bsecret%26with%3Dsigns&response=solved%20%26%20more%3D1%20%C3%BC&remoteip=192.0.2.21', 'as hCaptcha and Turnstile want it');
	$sink->put(captcha => '/file/no');
	is(code(register('not solved')), 'CAPTCHA_REQUIRED', 'not solved, it is asked again');
	my $user = $keelson->user($gateway);
	my $login = sub { return $gateway->request('POST', '/api/auth/login', headers => { 'X-Forwarded-For' => '192.0.2.30' },
			json => { email => $user->{email}, password => $_[0], captcha => 'x' }) };
	is(code($login->('wrong horse battery staple')), 'INVALID_CREDENTIALS', 'a login that fails') for 1 .. 3;
	is(code($login->($user->{password})), 'CAPTCHA_REQUIRED', 'then needs a solved one too');
	$sink->put(captcha => '/file/yes');
	is($login->($user->{password})->{status}, 200, 'and with it goes on');
	my $rows = $keelson->sql('select count(*) from keelson.users');
	for my $fault (qw(/file/ours /file/words /file/nul /file/list /status/500 /status/400 /redirect?to=http://127.0.0.1:1/ /huge /reset /partial /garbage))
	{
		$sink->put(captcha => $fault);
		reset_breaker('captcha');
		my $reply = register('solved');
		is("$reply->{status} " . code($reply), '503 UNAVAILABLE', "$fault: refused, and it is nobody's fault");
		unlike($reply->{content}, qr/captcha_secret|0x4A|127\.0\.0\.1/, 'of which the client hears nothing');
	}
	$sink->put(captcha => '/hang');
	reset_breaker('captcha');
	my @hanging = map { $gateway->connect } 1 .. 5;
	for my $socket (@hanging)
	{
		my $body = json_encode({ email => 'captcha' . ++$count . '@example.com', password => 'correct horse battery staple', captcha => 'x' });
		syswrite $socket, "POST /api/auth/register HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 192.0.2.21\r\nContent-Type: application/json\r\nContent-Length: "
			. length($body) . "\r\n\r\n$body";
	}
	ok(wait_until(sub { $keelson->sql("select waiting from keelson.upstream_status() where upstream = 'captcha'") == 5 }, 10), 'while five wait for it');
	is($gateway->get('/api/auth/me', token => $user->{token})->{status}, 200, 'others do not');
	is($keelson->sql("select count(*) from pg_locks where mode like '%Exclusive%' and transactionid is not null"), 0, 'nothing is written or locked meanwhile');
	my @replies = map { KeelsonTest::Gateway::read_reply($_, 20) } @hanging;
	is(scalar(grep { $_->{status} == 503 } @replies), 5, 'they are refused in the end');
	is(breaker('captcha'), 'open', 'and the breaker opens');
	my $before = $sink->requests('/as/captcha');
	is(code(register('solved')), 'UNAVAILABLE', 'who comes then is refused at once');
	is(scalar($sink->requests('/as/captcha')), $before, 'without a call');
	like($gateway->get('/metrics')->{content}, qr/^keelson_upstream_open\{upstream="captcha"\} 1$/m, 'which can be watched');
	like($keelson->sql('select keelson._alert_upstreams_open(1, now())'), qr/: captcha$/, 'an alert says so');
	is($keelson->sql('select count(*) from keelson.users'), $rows, 'nobody came in');
	is(reset_breaker('captcha'), 't', 'an administrator closes it');
	$sink->put(captcha => '/file/yes');
	is(register('solved')->{status}, 201, 'and it goes on');
	unlike($keelson->server_log . $gateway->log_text, qr/\Q$secret\E|0x4AAAAAAA-our%2B/, 'the secret is in no log');
	configure(captcha_url => '');
};

$keelson->product;
$keelson->sql(qq{
	select keelson.api_key_service_set('acme', 'Acme', 'ac_[a-z0-9]+', 'begins with ac_', prefix => 'ac_',
		base_url => '@{[ $sink->url('/as') ]}', key_header => 'X-Acme-Key', key_prefix => 'Key ', verify_path => '/verify');
	select keelson.api_key_service_set('silent', 'Silent', 'si_[a-z0-9]+', 'begins with si_', prefix => 'si_');
	create schema app;
	grant usage on schema app to keelson_app;
	create function app.ask(question text) returns jsonb language plpgsql as \$\$
	declare
		answer keelson.upstream_answer := keelson.call_with_key('acme', '/ask?lang=en', 'POST', jsonb_build_object('question', question), '{"X-More": "1"}');
	begin
		return jsonb_build_object('status', answer.status, 'type', answer.content_type, 'payload', answer.payload, 'size', octet_length(answer.body));
	end \$\$;
	comment on function app.ask(text) is 'Ask Acme. With the key of whoever asks.';
	create function app.try(path text, method text default 'GET', headers jsonb default '{}', service text default 'acme') returns jsonb language plpgsql as \$\$
	declare
		answer keelson.upstream_answer := keelson.call_with_key(service, path, method, headers => headers);
	begin
		return to_jsonb(answer.status);
	end \$\$;
	comment on function app.try(text, text, jsonb, text) is 'Try something. Anything.';
	create table app.written (id int);
	grant insert on app.written to keelson_app;
	create function app.late() returns jsonb language plpgsql as \$\$
	begin
		insert into app.written values (1);
		return to_jsonb((keelson.call_with_key('acme', '/ask')).status);
	end \$\$;
	comment on function app.late() is 'Write first. Then call.';
	create function app.twice() returns jsonb language plpgsql as \$\$
	begin
		return jsonb_build_array((keelson.call_with_key('acme', '/ask')).status, (keelson.call_with_key('acme', '/ask')).status);
	end \$\$;
	comment on function app.twice() is 'Call twice. Then write.';
	select keelson.route('POST ask', 'app.ask', pool => 'upstream');
	select keelson.route('POST try', 'app.try', pool => 'upstream');
	select keelson.route('POST late', 'app.late', pool => 'upstream');
	select keelson.route('POST twice', 'app.twice', pool => 'upstream');
	select keelson.route('POST fast', 'app.twice');
	select keelson.route('POST slow', 'app.twice', pool => 'slow');
});
my $ada = $keelson->user($gateway);
my $bob = $keelson->user($gateway);
my %as  = (token => $ada->{token});
my $key = 'ac_' . 'k3y0fada' x 4;
ok(wait_until(sub { $gateway->post('/api/ask', {}, %as)->{status} != 404 }), 'the product is there');

subtest 'verifying a key' => sub {
	my $store = sub { return $gateway->post('/api/user/api-keys', { service => 'acme', apiKey => $key, keyName => 'mine', @_ }, %as) };
	my $services = $gateway->get('/api/user/api-keys/services', %as)->{json}{data};
	is_deeply([ map { $_->{service} } @$services ], [ sort qw(acme elevenlabs gemini groq openai silent) ], 'the services are listed');
	is_deeply($services->[0], { service => 'acme', title => 'Acme', hint => 'begins with ac_', prefix => 'ac_', minLength => 20, maxLength => 256,
			canVerify => JSON::PP::true, isStored => JSON::PP::false }, 'with what their keys look like');
	my $plain = $store->();
	is($plain->{status}, 200, 'a key is stored without being asked about') or diag $plain->{content};
	is($plain->{json}{data}{verified}, undef, 'nothing is known of it then');
	is(scalar($sink->requests('/as/verify')), 0, 'nobody was asked');
	$sink->put(verify => '/status/200');
	my $good = $store->(verify => JSON::PP::true);
	is($good->{json}{data}{verified}, JSON::PP::true, 'the service accepts it') or diag $good->{content};
	like($good->{json}{data}{verifiedAt}, qr/Z$/, 'noted');
	my ($asked) = $sink->requests('/as/verify');
	is("$asked->{method} $asked->{headers}{'x-acme-key'}", "GET Key $key", 'it was sent where the service wants it');
	my $stored = $keelson->sql("select id from keelson.user_api_keys where user_id = '$ada->{id}'");
	for my $status (401, 403)
	{
		$sink->put(verify => "/status/$status");
		my $bad = $store->(verify => JSON::PP::true);
		is("$bad->{status} " . code($bad) . " $bad->{json}{details}[0]{field}", '400 VALIDATION_FAILED apiKey', "$status: it does not");
	}
	for my $fault (qw(/status/500 /status/404 /redirect?to=http://127.0.0.1:1/ /reset /garbage /hang))
	{
		$sink->put(verify => $fault);
		reset_breaker('api-key acme');
		my $reply = $store->(verify => JSON::PP::true);
		is("$reply->{status} " . code($reply), '502 UPSTREAM_FAILED', "$fault: it says neither");
		unlike($reply->{content}, qr/\Q$key\E|127\.0\.0\.1/, 'and nothing leaks');
	}
	is($keelson->sql("select id from keelson.user_api_keys where user_id = '$ada->{id}'"), $stored, 'what was stored stays');
	is($gateway->post('/api/user/api-keys', { service => 'silent', apiKey => 'si_' . 'a' x 30, verify => JSON::PP::true }, %as)->{status}, 400, 'not every service can be asked');

	reset_breaker('api-key acme');
	$sink->put(verify => '/status/401');
	my $checked = $gateway->post('/api/user/api-keys/verify', { service => 'acme' }, %as);
	is($checked->{json}{data}{verified}, JSON::PP::false, 'one that is stored can be asked about later') or diag $checked->{content};
	$sink->put(verify => '/status/200');
	is($gateway->post('/api/user/api-keys/verify', { service => 'acme' }, %as)->{json}{data}{verified}, JSON::PP::true, 'and again');
	is($gateway->post('/api/user/api-keys/verify', { service => 'acme' }, token => $bob->{token})->{status}, 404, 'who has none gets none');
	is($gateway->post('/api/user/api-keys/verify', {}, %as)->{status}, 400, 'of a service');
	is($gateway->get('/api/user/api-keys', %as)->{json}{data}[0]{verified}, JSON::PP::true, 'the list has it');
	my $begun = $keelson->sql("begin; select keelson.act_as('$ada->{id}') is not null; select (keelson.user_api_key_verify('acme')).verified; commit");
	like($begun, qr/t$/, 'from psql too');
};

subtest 'a call with a key' => sub {
	$sink->put(answer => '{"answer": 42}');
	$sink->put(ask => '/file/answer');
	my $before = $sink->requests('/as/ask');
	my $reply = $gateway->request('POST', '/api/ask', json => { question => 'why?' }, headers => { 'Idempotency-Key' => 'once' }, %as);
	is_deeply($reply->{json}{data}, { status => 200, type => 'application/json', payload => { answer => 42 }, size => 14 }, 'is answered') or diag $reply->{content};
	my ($asked) = reverse $sink->requests('/as/ask');
	is("$asked->{method} $asked->{path} $asked->{body}", 'POST /as/ask?lang=en {"question": "why?"}', 'as it was asked');
	is(join(' ', map { $asked->{headers}{$_} // '' } qw(x-acme-key x-more content-type x-request-id)), "Key $key 1 application/json $reply->{headers}{'x-request-id'}",
		'with the key, and the name of the request');
	is($gateway->request('POST', '/api/ask', json => { question => 'why?' }, headers => { 'Idempotency-Key' => 'once' }, %as)->{headers}{'idempotency-replayed'}, 'true', 'again, it is not');
	is(scalar($sink->requests('/as/ask')), $before + 1, 'made twice');
	is($gateway->post('/api/ask', { question => 'x' }, token => $bob->{token})->{status}, 404, 'who has no key has no call');
	is($gateway->post('/api/ask', { question => 'x' })->{status}, 401, 'nor has nobody');
	ok(wait_until(sub { $keelson->sql("select count(*) from keelson.audit_events where user_id = '$ada->{id}' and event_type = 'key.use' and data ->> 'isSent' = 'true'") >= 2 }, 20),
		'each is in the trail');
	$keelson->sql('select keelson._access_keys_write_down()');
	is($keelson->sql("select last_used_at is not null from keelson.user_api_keys where user_id = '$ada->{id}'"), 't', 'and the use is noted');
	is_deeply($gateway->post('/api/twice', {}, %as)->{json}{data}, [ 200, 200 ], 'two calls are two');
	# Bytes that are no text of ours.
	$sink->put('odd.headers' => '{"content-type": "application/json; x=\u00ff"}');
	$sink->put(odd => '{"answer": 42}');
	$sink->put(ask => '/file/odd');
	my $odd = $gateway->post('/api/ask', { question => 'why?' }, %as);
	is("$odd->{status} " . ($odd->{json}{data}{type} // 'none'), '200 none', 'a media type that is no text is none') or diag $odd->{content};
	$sink->put(ask => '/status/401');
	is($gateway->post('/api/try', { path => '/ask' }, %as)->{json}{data}, 401, 'a refusal of the service is an answer');
	$sink->put(ask => '/redirect?to=' . $sink->url('/elsewhere'));
	is($gateway->post('/api/try', { path => '/ask' }, %as)->{json}{data}, 302, 'a redirect is one too');
	is(scalar($sink->requests('/elsewhere')), 0, 'and not followed');
	$sink->put(large => 'x' x 1048576);
	$sink->put(ask => '/file/large');
	is($gateway->post('/api/try', { path => '/ask' }, %as)->{json}{data}, 200, 'a MiB of answer is taken');
	$sink->put(large => 'x' x 1048577);
	is(code($gateway->post('/api/try', { path => '/ask' }, %as)), 'UPSTREAM_FAILED', 'no more');
};

subtest 'the example of the documentation' => sub {
	my ($example) = slurp("$KeelsonTest::root/docs/upstream.md") =~ /```sql\n(.*?)```/s;
	$keelson->sql($example);
	$keelson->sql("update keelson.api_key_services set base_url = '@{[ $sink->url('/as') ]}' where service = 'mistral'");
	$sink->put(mistral => '{"choices": [{"message": {"role": "assistant", "content": "Guten Tag"}}]}');
	$sink->put(v1 => '/file/mistral');
	my $mistral = 'm1str4l' x 4 . 'abcd';
	is($gateway->post('/api/user/api-keys', { service => 'mistral', apiKey => $mistral }, %as)->{status}, 200, 'a key is stored');
	my $reply;
	wait_until(sub { ($reply = $gateway->post('/api/translate', { textToTranslate => 'Good day', language => 'German' }, %as))->{status} != 404 });
	is_deeply($reply->{json}{data}, { translation => 'Guten Tag' }, 'a text is translated') or diag $reply->{content};
	my ($asked) = reverse $sink->requests('/as/v1');
	is("$asked->{path} $asked->{headers}{authorization}", "/as/v1/chat/completions Bearer $mistral", 'with the key');
	$sink->put(v1 => '/status/429');
	is(code($gateway->post('/api/translate', { textToTranslate => 'Good day', language => 'German' }, %as)), 'UPSTREAM_FAILED', 'or not');
};

subtest 'what a call may not be' => sub {
	$sink->put(ask => '/file/answer');
	my $before = $sink->requests;
	my $try = sub { return $gateway->post('/api/try', { path => '/ask', @_ }, %as) };
	for my $path ('ask', '', '/../secret', '/x/%2e%2E/secret', '/x/..', '/./ask', "/a b", "/a\nX-Evil: 1", '/a#b', '/a\\b', 'https://evil.example/', '@evil.example/', "/\x{fc}", '/' . 'a' x 2048)
	{
		is($try->(path => $path)->{status}, 400, 'path ' . json_encode(substr $path, 0, 30));
	}
	is($try->(method => $_)->{status}, 400, "method $_") for 'get', 'CONNECT', 'TRACE', "GET\r\nX: 1", '';
	for my $headers ({ 'x-acme-KEY' => 'mine' }, { Authorization => 'Bearer x' }, { Host => 'evil.example' }, { 'Content-Length' => '5' },
		{ 'Transfer-Encoding' => 'chunked' }, { 'X-One' => "1\r\nX-Two: 2" }, { 'X One' => '1' }, { 'X-One' => 1 }, { 'X-One' => ['1'] }, { '' => '1' }, { 'Proxy-Authorization' => 'x' })
	{
		is($try->(headers => $headers)->{status}, 400, 'header ' . json_encode($headers));
	}
	is($try->(headers => ['x'])->{status}, 400, 'headers that are none');
	is($try->(headers => { map { ("X-$_" => '1') } 1 .. 33 })->{status}, 400, 'too many');
	is($try->(service => 'silent')->{status}, 400, 'a service that cannot be called');
	is($try->(service => 'nothing')->{status}, 400, 'or is none');
	is(scalar($sink->requests), $before, 'nothing was sent');
	# It stays with its host, whatever it looks like.
	is($try->(path => '//evil.example/x')->{json}{data}, 404, 'two slashes are a path');
	my ($sent) = reverse $sink->requests;
	is($sent->{path}, '/as//evil.example/x', 'of the same host');
	is($gateway->post('/api/late', {}, %as)->{status}, 500, 'after a write there is no call');
	ok(wait_until(sub { $gateway->log_text =~ /a call to another service comes before whatever the transaction writes/ }), 'as the log says');
	is($keelson->sql('select count(*) from app.written'), 0, 'and nothing of it stays');
	is($gateway->post("/api/$_", {}, %as)->{status}, 500, "nor on the pool $_") for 'fast', 'slow';
	ok(wait_until(sub { $gateway->log_text =~ /an endpoint that calls another service is of the pool/ }), 'as it says too');
};

# Begins a request that calls; its socket.
sub begin_call
{
	my ($who) = @_;
	my $socket = $gateway->connect;
	syswrite $socket, "POST /api/twice HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer $who->{token}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
	return $socket;
}

# Waits until so many calls are under way.
sub wait_under_way
{
	my ($calls) = @_;
	return wait_until(sub { $keelson->sql("select waiting from keelson.upstream_status() where upstream = 'api-key acme'") == $calls }, 10);
}

subtest 'a call that is broken off' => sub {
	for my $case ([ 'pg_cancel_backend', '504 504 504' ], [ 'pg_terminate_backend', '503 503 503' ])
	{
		my ($break_off, $told) = @$case;
		$sink->put(ask => '/hang');
		my @sockets = map { begin_call($ada) } 1 .. 3;
		ok(wait_under_way(3), "$break_off: as many as a user may have are under way");
		$keelson->sql("select $break_off(pid) from pg_stat_activity where usename = 'keelson_gateway' and state = 'active' and pid <> pg_backend_pid() and query like 'select keelson.dispatch%'");
		is(join(' ', map { KeelsonTest::Gateway::read_reply($_, 30)->{status} } @sockets), $told, "$break_off: who asked is told");
		ok(wait_under_way(0), "$break_off: none is under way any more");
		is(breaker('api-key acme'), 'closed', "$break_off: which says nothing of the service");
		$sink->put(ask => '/file/answer');
		is($gateway->post('/api/try', { path => '/ask' }, %as)->{json}{data}, 200, "$break_off: and the user may make others");
	}
};

subtest 'a service that is down' => sub {
	$sink->put(ask => '/hang');
	reset_breaker('api-key acme');
	my $bobs = $gateway->post('/api/user/api-keys', { service => 'acme', apiKey => 'ac_' . 'k3y0fbob' x 4 }, token => $bob->{token});
	is($bobs->{status}, 200, 'two have a key') or diag $bobs->{content};
	my @sockets = map { begin_call($ada) } 1 .. 3;
	ok(wait_under_way(3), 'three of one user wait');
	is(code($gateway->post('/api/twice', {}, %as)), 'RATE_LIMITED', 'a fourth is refused at once');
	push @sockets, map { begin_call($bob) } 1 .. 2;
	ok(wait_under_way(5), 'and leaves room for others: five wait');
	is($gateway->get('/api/auth/me', %as)->{status}, 200, 'others do not');
	my @replies = map { KeelsonTest::Gateway::read_reply($_, 30) } @sockets;
	is(join(' ', map { $_->{status} } @replies), '502 502 502 502 502', 'and hear that it has not answered');
	is(breaker('api-key acme'), 'open', 'the breaker opens');
	my $reply = $gateway->post('/api/try', { path => '/ask' }, %as);
	is("$reply->{status} " . code($reply), '503 UNAVAILABLE', 'then they hear so at once');
	ok($reply->{headers}{'retry-after'}, 'and when to come back');
	is(reset_breaker('api-key acme'), 't', 'closed again');
	$sink->put(ask => '/file/answer');
	is($gateway->post('/api/try', { path => '/ask' }, %as)->{json}{data}, 200, 'it is called again');
};

my $logs = $keelson->server_log . $gateway->log_text;
unlike($logs, qr/\Q$key\E/, 'the key is in no log');
is($keelson->sql("select count(*) from keelson.audit_events where data::text like '%k3y0fada%'"), 0, 'nor in the trail');

$keelson->stop;
done_testing();
