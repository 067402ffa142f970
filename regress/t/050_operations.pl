# Running it: health, metrics, logs without secrets, proxies, TLS in front, configuration.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('operations', preload => 'keelson,pg_stat_statements', conf => "keelson.courier_workers = 2\nlog_statement = all\nlog_min_duration_statement = 0\nlog_connections = on\nlog_min_error_statement = debug5\nlog_error_verbosity = verbose");
$keelson->product;
my $gateway = $keelson->gateway(KEELSON_LOG_LEVEL => 'debug');
my $user = $keelson->user($gateway, password => 'canary-password-7e1c');

subtest 'health' => sub {
	for my $path ('/live', '/ready', '/health', '/health/detailed', '/api/live', '/api/health')
	{
		my $reply = $gateway->get($path);
		is($reply->{status}, 200, $path);
		ok($reply->{json}, "$path is JSON") or diag $reply->{content};
	}
	my $detailed = $gateway->get('/health/detailed')->{content};
	like($detailed, qr/$_/i, "tells of $_") for qw(database pool workers memory uptime version);
	unlike($detailed, qr/\Q$keelson->{password}\E|keyring"\s*:\s*"\//, 'nothing secret');
	is($gateway->request('HEAD', '/ready')->{status}, 200, 'HEAD');
	is($gateway->post('/live', {})->{status}, 405, 'not POST');
};

subtest 'not ready' => sub {
	$keelson->sql("update keelson.installation set code_checksum = code_checksum || 'x'");
	ok(wait_until(sub { $gateway->get('/ready')->{status} == 503 }, 10), 'code and state that differ are not ready');
	like($gateway->get('/ready')->{content}, qr/migrat/i, 'and say so');
	$keelson->sql("update keelson.installation set code_checksum = rtrim(code_checksum, 'x')");
	ok(wait_until(sub { $gateway->get('/ready')->{status} == 200 }, 10), 'ready again');
};

subtest 'metrics' => sub {
	$gateway->get('/api/product/items/first') for 1 .. 5;
	my $reply = $gateway->get('/metrics');
	is($reply->{status}, 200, 'there');
	like($reply->{headers}{'content-type'}, qr{^text/plain}, 'as text');
	my $text = $reply->{content};
	like($text, qr/^# TYPE \S+ histogram$/m, 'a histogram');
	my ($route) = $text =~ m!^(\S*_count\{[^}]*product/items/first[^}]*\}) (\d+)$!m;
	ok($route, 'by route template') or diag $text;
	$gateway->get("/api/product/items/0194e0a0-0000-7000-8000-00000000000$_") for 1 .. 3;
	$text = $gateway->get('/metrics')->{content};
	unlike($text, qr/0194e0a0/, 'and not by path');
	like($text, qr/^\S*pool\S* \S+/m, 'the pool');
	like($text, qr/^\S*dispatch\S* \S+/m, 'the dispatcher');
	unlike($text, qr/\Q$user->{id}\E|\Q$user->{email}\E/, 'no users');
	my %workers = (keeper => 1, courier => 2, incoming => 1, hasher => 1);
	for my $worker (sort keys %workers)
	{
		ok(wait_until(sub { $gateway->get('/metrics')->{content} =~ /^keelson_worker_up\{worker="$worker"\} $workers{$worker}$/m }, 10), "each $worker is there");
	}
	SKIP: {
		skip 'no promtool', 1 unless grep { -x "$_/promtool" } split /:/, $ENV{PATH};
		my $file = $keelson->node->basedir . '/metrics.txt';
		open my $out, '>', $file or die $!;
		print $out $text;
		close $out;
		my $said = `promtool check metrics < '$file' 2>&1`;
		is($?, 0, 'promtool has nothing to say') or diag $said;
	}
};

subtest 'metrics with a token' => sub {
	my $token = 'canary-of-the-metrics-token';
	my $closed = $keelson->gateway(KEELSON_METRICS_TOKEN => $token);
	for my $path (qw(/metrics /api/metrics /v1/metrics))
	{
		my $refused = $closed->get($path);
		is($refused->{status}, 401, "$path: not without it");
		is($refused->{headers}{'www-authenticate'}, 'Bearer', 'said how');
		unlike($refused->{content}, qr/keelson_gateway/, 'and nothing else');
		is($closed->get($path, token => $_)->{status}, 401, 'not with another') for substr($token, 1), "${token}x", uc $token, $user->{token};
		like($closed->get($path, token => $token)->{content}, qr/^keelson_gateway_ready 1$/m, 'with it');
	}
	is($closed->get($_)->{status}, 200, "$_ is as open as ever") for qw(/live /ready /health);
	unlike($closed->log_text, qr/$token/, 'it is in no line of the log');
	$closed->stop;
};

subtest 'log lines' => sub {
	my $id = 'c0ffee00-1111-4222-8333-444455556666';
	$gateway->get('/api/product/items/0194e0a0-0000-7000-8000-000000000001?x=canary-query', headers => {
		'X-Request-ID' => $id, 'User-Agent' => "agent \"quoted\" \\" });
	my $line = $gateway->log_line($id);
	ok($line, 'one for the request') or return;
	my @needed = qw(time level requestId traceId method route status durationUs databaseUs bytes ip userAgent);
	ok(exists $line->{$_}, "has $_") for @needed;
	is($line->{route}, 'product/items/:id', 'the template and not the path');
	is($line->{status}, 400, 'the status');
	is(grep({ ($_->{requestId} || '') eq $id && ($_->{event} || '') eq 'request' } $gateway->log_lines), 1, 'no second');
	my $signed = $gateway->get('/api/product/whoami', token => $user->{token});
	is($gateway->log_line($signed->{headers}{'x-request-id'})->{userId}, $user->{id}, 'the user\'s id');
	my @strange = grep { !/^\{.*\}$/ } split /\n/, $gateway->log_text;
	is_deeply(\@strange, [], 'every line of the log is JSON');
	is($line->{userAgent}, "agent \"quoted\" \\", 'what the client says of itself, escaped');
};

# Canaries: whatever a person or a program hands in as a secret must never stand anywhere that is read by others.
subtest 'canaries' => sub {
	my %canary = map { $_ => "canary-$_-" . sprintf '%08x', rand 2**32 } qw(password new wrong bearer key cookie csrf body query refresh idempotency);
	$gateway->post('/api/auth/login', { email => $user->{email}, password => $canary{wrong} });
	$gateway->post('/api/auth/register', { email => 'canary@example.com', password => $canary{password} });
	$gateway->post('/api/auth/login', { email => 'canary@example.com', password => $canary{password} });
	$gateway->post('/api/auth/register', { email => 'not an address', password => $canary{new}, nonsense => $canary{body} });
	$gateway->put('/api/user/profile', { currentPassword => $canary{wrong}, newPassword => $canary{new} }, token => $user->{token});
	$gateway->get('/api/product/whoami', token => $canary{bearer});
	$gateway->get('/api/product/whoami', token => "ks_$canary{bearer}");
	$gateway->get('/api/product/whoami', headers => { 'X-API-Key' => "ks_$canary{key}" });
	$gateway->get('/api/product/whoami', headers => { Cookie => "__Host-ks_access=$canary{cookie}; __Host-ks_refresh=$canary{refresh}", 'X-CSRF-Token' => $canary{csrf} });
	$gateway->get("/api/product/echo?name=$canary{query}");
	$gateway->get("/api/none/$canary{query}?token=$canary{query}");
	$gateway->post('/api/product/notes', { text => $canary{body} }, token => $user->{token}, headers => { 'Idempotency-Key' => $canary{idempotency} });
	$gateway->post('/api/product/fail', { how => $canary{body} });
	$gateway->request('POST', '/api/product/echo', body => "{\"name\": \"$canary{body}\"", headers => { 'Content-Type' => 'application/json' });
	$gateway->post('/api/auth/refresh', { refreshToken => "ksr_$canary{refresh}" });
	$keelson->sql('create extension pg_stat_statements');
	my %secret = (%canary, token => $user->{token}, refresh_token => $user->{refresh}, database_password => $keelson->{password},
		first_password => $user->{password}, keyring => (split ' ', slurp($keelson->{keyring}))[-1]);
	my $activity = $keelson->sql("select string_agg(query, ' ') from pg_stat_activity where pid <> pg_backend_pid()");
	my %place = (
		'the gateway\'s log'  => $gateway->log_text,
		'pg_stat_activity'    => $activity,
		'pg_stat_statements'  => $keelson->sql('select string_agg(query, chr(10)) from pg_stat_statements'),
		'the gateway\'s arguments and environment to others' => slurp('/proc/' . $gateway->pid . '/cmdline'),
		'the metrics'         => $gateway->get('/metrics')->{content},
		'the settings'        => $keelson->sql('select string_agg(setting, chr(10)) from pg_settings'),
		'the routes'          => $gateway->get('/api/openapi.json', text => 1)->{content},
	);
	for my $where (sort keys %place)
	{
		# The database password is the test's own: it has set it by a statement.
		my @found = grep { index($place{$where}, $secret{$_}) >= 0 && !($where =~ /statements/ && $_ eq 'database_password') } sort keys %secret;
		is_deeply(\@found, [], "nothing in $where");
	}
	# The server's log with log_statement = all shows bound parameters, unless the gateway's sessions forbid it.
	my $log = $keelson->server_log;
	my @found = grep { $_ ne 'database_password' && index($log, $secret{$_}) >= 0 } sort keys %secret;
	is_deeply(\@found, [], 'nothing in the server\'s log, though it logs every statement with its parameters');
	my $stored = join '', map { $keelson->sql("select coalesce(string_agg(t::text, ''), '') from $_ as t") }
		split /\n/, $keelson->sql("select oid::regclass from pg_class where relnamespace = 'keelson'::regnamespace and relkind in ('r', 'p')");
	@found = grep { $_ ne 'body' && $_ ne 'idempotency' && index($stored, $secret{$_}) >= 0 } sort keys %secret;
	is_deeply(\@found, [], 'nothing in the tables');
};

subtest 'proxies' => sub {
	my $behind = $keelson->gateway(KEELSON_TRUSTED_PROXIES => '127.0.0.0/8,10.0.0.0/8,fd00::/8');
	my $ip = sub { return $behind->get('/api/product/whoami', token => $user->{token}, headers => { 'X-Forwarded-For' => $_[0] })->{json}{data}{ip}; };
	my %expected = (
		'203.0.113.7'                            => '203.0.113.7',
		'203.0.113.7, 10.0.0.1'                  => '203.0.113.7',
		'1.2.3.4, 203.0.113.7, 10.0.0.1'         => '203.0.113.7',
		'10.0.0.9, 10.0.0.1'                     => '10.0.0.9',
		'2001:db8::1, fd00::1'                   => '2001:db8::1',
	);
	is($ip->($_), $expected{$_}, "X-Forwarded-For: $_") for sort keys %expected;
	for my $bad ('nonsense', '203.0.113.7, nonsense', '', ', ,', '203.0.113.7:99999999')
	{
		like($ip->($bad) // 'null', qr/^(127\.0\.0\.1|203\.0\.113\.7|10\..*)$/, "X-Forwarded-For: $bad does no harm");
	}
	$behind->stop;
};

subtest 'TLS in front' => sub {
	my $secure = $keelson->gateway(KEELSON_TLS => 'proxy', KEELSON_TRUSTED_PROXIES => '127.0.0.1');
	my %by = map { $_ => { 'X-Forwarded-Proto' => $_, 'X-Forwarded-For' => '203.0.113.7' } } qw(http https);
	my $reply = $secure->get('/api/product/items/first', headers => $by{https});
	is($reply->{status}, 200, 'https');
	like($reply->{headers}{'strict-transport-security'}, qr/max-age=(\d{8,}).*includeSubDomains/, 'HSTS');
	$reply = $secure->post('/api/auth/login', { email => 'a@example.com', password => 'x' }, headers => $by{http});
	is("$reply->{status} " . ($reply->{json}{code} // ''), '403 HTTPS_REQUIRED', 'http on auth');
	$reply = $secure->get('/api/product/items/first?x=1', headers => $by{http});
	is($reply->{status}, 308, 'http elsewhere');
	like($reply->{headers}{location} // '', qr{^https://.*/api/product/items/first\?x=1$}, 'is sent to https');
	is($secure->get('/live')->{status}, 200, 'health checks come by http');
	$secure->stop;
};

subtest 'configuration' => sub {
	my $fails = sub {
		my ($name, $pattern, %env) = @_;
		my $broken = KeelsonTest::Gateway->new(directory => $keelson->node->basedir, name => "broken-$name",
			env => { KEELSON_DATABASE_URL => $keelson->url, %env });
		$broken->start;
		ok(wait_until(sub { !$broken->running }, 10), "$name: does not start");
		isnt($broken->{exit} // 0, 0, "$name: with a status");
		my $said = $broken->log_text;
		like($said, $_, "$name: says what") for @$pattern;
		unlike($said, qr/\Q$keelson->{password}\E/, "$name: and no secret");
		$broken->stop;
	};
	$fails->('unknown', [qr/KEELSON_COLOUR/], KEELSON_COLOUR => 'red');
	$fails->('several', [ qr/KEELSON_PORT/, qr/KEELSON_LOOPS/, qr/KEELSON_LOG_LEVEL/, qr/KEELSON_TRUSTED_PROXIES/ ],
		KEELSON_PORT => 'x', KEELSON_LOOPS => '-1', KEELSON_LOG_LEVEL => 'loud', KEELSON_TRUSTED_PROXIES => '300.1.1.1');
	$fails->('production', [qr/KEELSON_TLS|KEELSON_RATE_LIMITS/], KEELSON_ENV => 'production', KEELSON_RATE_LIMITS => 'off');
	$fails->('origins', [qr/ALLOWED_ORIGINS/], ALLOWED_ORIGINS => 'https://a.example.com/path');
	$fails->('wildcard', [qr/ALLOWED_ORIGINS/], ALLOWED_ORIGINS => '*');
	my $second = KeelsonTest::Gateway->new(directory => $keelson->node->basedir, name => 'second',
		env => { KEELSON_DATABASE_URL => $keelson->url, KEELSON_PORT => $gateway->port });
	$second->start;
	ok(wait_until(sub { !$second->running }, 10), 'a port in use: does not start');
	like($second->log_text, qr/in use/i, 'says so');
	$second->stop;
};

subtest 'cookies' => sub {
	my $reply = $gateway->post('/api/auth/login', { email => $user->{email}, password => $user->{password}, cookie => JSON::PP::true });
	is($reply->{status}, 200, 'a cookie session') or return;
	my %cookie = map { /^([^=]+)=([^;]*)/ } @{ $reply->{headers}{'set-cookie'} };
	my $jar = join '; ', map { "$_=$cookie{$_}" } sort keys %cookie;
	is($gateway->get('/api/product/whoami', headers => { Cookie => $jar })->{json}{data}{userId}, $user->{id}, 'is known by its cookie');
	my $post = sub { return $gateway->post('/api/product/notes', { text => "by cookie $_[0]" }, headers => { Cookie => $jar, @_[ 1 .. $#_ ] }); };
	my $without = $post->('without');
	is("$without->{status} " . ($without->{json}{code} // ''), '403 CSRF_FAILED', 'a change without the token');
	is($post->('wrong', 'X-CSRF-Token' => 'x' x 40)->{status}, 403, 'with a wrong one');
	my $csrf = $cookie{'__Host-ks_csrf'};
	is($post->('right', 'X-CSRF-Token' => $csrf, 'Sec-Fetch-Site' => 'same-origin')->{status}, 201, 'with it');
	is($post->('cross', 'X-CSRF-Token' => $csrf, 'Sec-Fetch-Site' => 'cross-site')->{status}, 403, 'from another site');
	is($post->('foreign', 'X-CSRF-Token' => $csrf, Origin => 'https://evil.example.com')->{status}, 403, 'from a foreign origin');
	is($gateway->post('/api/product/notes', { text => 'by both' }, token => $user->{token}, headers => { Cookie => $jar })->{status}, 201, 'a bearer token needs none');
};

done_testing();
$keelson->stop;
