# Secrets are nowhere but sealed: marked ones go through every endpoint, those of later capabilities too, and are
# then looked for, as they are, in base64 and in hexadecimal: in logs, statistics, replies, a dump, the audit trail.

use strict;
use warnings;

use KeelsonTest;
use MIME::Base64 qw(encode_base64);
use Test::More;

# The server logs all that it can be told to log.
my $keelson = KeelsonTest->new('canaries', preload => 'pg_stat_statements,keelson', conf => join "\n",
	'keelson.environment = development', "log_statement = 'all'", 'log_min_duration_statement = 0', 'log_duration = on',
	"log_error_verbosity = 'verbose'", "log_min_messages = 'info'", 'log_parameter_max_length = -1',
	'log_parameter_max_length_on_error = -1', 'track_activity_query_size = 65536', "pg_stat_statements.track = 'all'",
	'pg_stat_statements.track_utility = on');
$keelson->sql('create extension pg_stat_statements');
my $gateway = $keelson->gateway(KEELSON_LOG_LEVEL => 'debug');

# Every marked secret has the mark in it, so that one search finds them all.
my $mark = 'Canary' . join '', map { ('a' .. 'z')[ rand 26 ] } 1 .. 9;
my $count = 0;
sub canary { return $mark . sprintf('%04dzzzz', $count++); }
# A mark in base64, wherever in a triple it begins, less the characters that its neighbours have a part in.
sub base64_of
{
	my ($text) = @_;
	my @forms = map { my $skip = $_; substr(encode_base64('x' x $skip . $text, ''), $skip ? 4 : 0, int((length($text) - 4) / 3) * 4) } 0 .. 2;
	return map { my $url = $_; $url =~ tr{+/}{-_}; ($_, $url) } @forms;
}
my @issued;    # secrets that the system has made: looked for whole

sub places_of
{
	my ($text, @secrets) = @_;
	my @found;
	for my $secret (@secrets)
	{
		for my $form ($secret, base64_of($secret), unpack('H*', $secret), uc unpack('H*', $secret))
		{
			my $at = index $text, $form;
			push @found, substr($text, $at > 100 ? $at - 100 : 0, 220) if $at >= 0;
		}
	}
	return @found;
}

sub nowhere
{
	my ($where, $text, @secrets) = @_;
	my @found = places_of($text, @secrets);
	is(scalar @found, 0, "$where: none") or diag join "\n", @found[ 0 .. ($#found > 4 ? 4 : $#found) ];
	return;
}

# The search itself finds what it is to find.
is(scalar(places_of("a $mark b", $mark)), 1, 'a mark is found as it is');
for my $skip (0 .. 4)
{
	cmp_ok(scalar(places_of(encode_base64('y' x $skip . "$mark tail", ''), $mark)), '>=', 1, "in base64 after $skip bytes");
}
is(scalar(places_of(unpack('H*', "x$mark"), $mark)), 1, 'in hexadecimal');

my (@replies, @read);
sub ask
{
	my ($method, $path, %options) = @_;
	my $reply = $gateway->request($method, $path, %options);
	# A page of a link that was mailed has a form that sends the link's own token on: nowhere else may it be.
	(my $content = $reply->{content} // '') =~ s/<input type="hidden" name="token" value="[^"]*">//;
	push @replies, "$reply->{status} " . json_encode($reply->{headers}) . $content;
	cmp_ok($reply->{status}, '<', 500, "$method $path is no failure") or diag $reply->{content} if $reply->{status} >= 500;
	return $reply;
}

# A person whose password is marked.
my $people = 0;
sub person
{
	my %person = (email => sprintf('bird%d@example.com', ++$people), password => canary());
	my $reply = ask('POST', '/api/auth/register', json => { email => $person{email}, password => $person{password} });
	$reply->{status} == 201 or die "register answered $reply->{status}: $reply->{content}";
	my $data = $reply->{json}{data};
	# The replies that hand secrets out may have them: those are not read again.
	pop @replies;
	push @issued, @$data{qw(accessToken refreshToken)};
	return { %person, id => $data->{user}{id}, token => $data->{accessToken}, refresh => $data->{refreshToken} };
}

# Every endpoint, with a marked value in each argument that by its name is a secret: as somebody, as nobody, with
# credentials that are none, and with a body cut short.
my $description = $gateway->get('/api/openapi.json')->{json};
my $secret_name = qr/password|secret|token|key|code|captcha|challenge|totp|credential|authorization|pin$/i;
sub value_of
{
	my ($schema, $name) = @_;
	$schema = $description->{components}{schemas}{$1} if ($schema->{'$ref'} || '') =~ m{schemas/(.*)$};
	my ($type) = ref $schema->{type} ? @{ $schema->{type} } : ($schema->{type} // 'string');
	return $schema->{enum}[0] if $schema->{enum};
	return canary() if $type eq 'string' && $name =~ $secret_name;
	return $schema->{minimum} // 1 if $type =~ /integer|number/;
	return JSON::PP::true if $type eq 'boolean';
	return [ $name =~ $secret_name ? canary() : 'a word' ] if $type eq 'array';
	return { map { $_ => value_of($schema->{properties}{$_}, $_) } keys %{ $schema->{properties} || {} } } if $type eq 'object';
	return '0194e0a0-0000-7000-8000-000000000000' if ($schema->{format} || '') eq 'uuid';
	return sprintf 'bird%d@nest.example.com', ++$people if $name =~ /mail/i;
	return 'a word';
}

my $endpoints = 0;
for my $path (sort keys %{ $description->{paths} })
{
	for my $method (sort keys %{ $description->{paths}{$path} })
	{
		my $operation = $description->{paths}{$path}{$method};
		next unless ref $operation eq 'HASH' && $operation->{responses};
		$endpoints++;
		my ($schema) = map { $_->{schema} } grep { $_ } $operation->{requestBody}{content}{'application/json'};
		my (%body, @query);
		$schema = $description->{components}{schemas}{$1} if $schema && ($schema->{'$ref'} || '') =~ m{schemas/(.*)$};
		%body = map { $_ => value_of($schema->{properties}{$_}, $_) } keys %{ $schema->{properties} } if $schema;
		(my $target = $path) =~ s/\{\w+\}/0194e0a0-0000-7000-8000-000000000000/g;
		for my $parameter (@{ $operation->{parameters} || [] })
		{
			push @query, "$parameter->{name}=" . canary() if $parameter->{in} eq 'query' && $parameter->{name} =~ $secret_name;
		}
		$target .= '?' . join '&', @query if @query;
		my @content = $schema ? (json => \%body) : ();
		my $who = person();
		# An idempotency key is a name, no secret: it is kept as it is.
		my %headers = ('Idempotency-Key' => "call $endpoints", 'X-CSRF-Token' => canary());
		# A stream of events has no end: its beginning does.
		if (($operation->{responses}{200} || {})->{content}{'text/event-stream'})
		{
			push @replies, scalar $gateway->raw("GET $target HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer $who->{token}\r\n\r\n", 1);
		}
		else
		{
			ask(uc $method, $target, @content, token => $who->{token}, headers => {%headers});
		}
		ask(uc $method, $target, @content);
		ask(uc $method, $target, @content, token => canary());
		ask(uc $method, $target, @content, headers => { %headers, 'X-API-Key' => 'ks_' . canary() });
		ask(uc $method, $target, @content, headers => { %headers, Authorization => 'Basic ' . encode_base64('ada:' . canary(), '') });
		ask(uc $method, $target, @content, headers => { %headers, Cookie => join '; ', map { "__Host-ks_$_=" . canary() } qw(access refresh csrf device) });
		ask(uc $method, $target, body => substr(json_encode(\%body), 0, -1) . ',', headers => { 'Content-Type' => 'application/json' }, token => $who->{token}) if $schema;
		ask(uc $method, "$target&unknown=" . canary(), token => $who->{token}) if @query;
	}
}
cmp_ok($endpoints, '>', 12, 'every endpoint was called');

# What succeeds: passwords changed, sessions by cookie, API keys of every service stored, replaced, used, refused.
my $ada = person();
my $login = $gateway->post('/api/auth/login', { email => $ada->{email}, password => $ada->{password} });
is($login->{status}, 200, 'a login');
push @issued, @{ $login->{json}{data} }{qw(accessToken refreshToken deviceToken)};
my $cookie = $gateway->post('/api/auth/login', { email => $ada->{email}, password => $ada->{password}, cookie => JSON::PP::true });
push @issued, map { /=([^;]+)/ } ref $cookie->{headers}{'set-cookie'} ? @{ $cookie->{headers}{'set-cookie'} } : $cookie->{headers}{'set-cookie'};
my $next = $gateway->post('/api/auth/refresh', { refreshToken => $ada->{refresh} });
is($next->{status}, 200, 'a refresh');
push @issued, @{ $next->{json}{data} }{qw(accessToken refreshToken)};
ask('POST', '/api/auth/refresh', json => { refreshToken => $ada->{refresh} . 'x' });
my %keys = (openai => 'sk-' . canary() . 'a' x 20, groq => 'gsk_' . canary() . 'b' x 20, elevenlabs => 'sk_' . canary() . 'c' x 20,
	gemini => 'AIza' . substr(canary() . 'd' x 35, 0, 35));
for my $service (sort keys %keys)
{
	my %with = (token => $ada->{token}, headers => { 'Idempotency-Key' => "store $service" });
	is(ask('POST', '/api/user/api-keys', json => { service => $service, apiKey => $keys{$service} }, %with)->{status}, 200, "a key of $service is stored") for 1 .. 2;
	is(ask('POST', '/api/user/api-keys', json => { service => $service, apiKey => $keys{$service} . '!' }, token => $ada->{token})->{status}, 400, 'one that is malformed is not');
	is(ask('POST', '/api/user/api-keys', json => { service => $service, apiKey => $keys{$service} . "\n" }, token => $ada->{token})->{status}, 400, 'nor with a control character');
	is(ask('POST', '/api/user/api-keys', json => { service => $service, apiKey => canary() x 400 }, token => $ada->{token})->{status}, 400, 'nor of 8 KiB');
}
is(ask('GET', '/api/user/api-keys', token => $ada->{token})->{json}{data}[0]{service}, 'elevenlabs', 'they are listed');
$keelson->sql(<<'SQL');
create schema app;
create role app_trusted;
grant keelson_key_user, keelson_app to app_trusted;
grant app_trusted to keelson_gateway;
grant usage on schema app to app_trusted;
create function app.use_key(service text) returns integer language plpgsql as $$
begin
    return pg_catalog.length(keelson.user_api_key_use(keelson.current_user_id(), service));
end
$$;
comment on function app.use_key(text) is 'Use a key of the user''s.';
grant execute on function app.use_key(text) to app_trusted;
create function app.spill(service text) returns integer language plpgsql as $$
begin
    perform keelson.user_api_key_use(keelson.current_user_id(), service);
    return 1 / 0;
end
$$;
comment on function app.spill(text) is 'Fail with a key of the user''s in hand.';
grant execute on function app.spill(text) to app_trusted;
select keelson.route('POST app/use', 'app.use_key', role => 'app_trusted'), keelson.route('POST app/spill', 'app.spill', role => 'app_trusted');
SQL
ok(wait_until(sub { $gateway->post('/api/app/use', { service => 'openai' }, token => $ada->{token})->{status} == 200 }, 15), 'a key is used by an endpoint');
my $spilt = $gateway->post('/api/app/spill', { service => 'openai' }, token => $ada->{token});
is($spilt->{status}, 500, 'which fails with the key in hand');
push @replies, $spilt->{content};
$keelson->sql("update keelson.user_api_keys set sealed_key = set_bit(sealed_key, 300, 1 - get_bit(sealed_key, 300)) where service = 'groq'");
my $unopened = $gateway->post('/api/app/use', { service => 'groq' }, token => $ada->{token});
is($unopened->{status}, 500, 'one that does not open');
push @replies, $unopened->{content};
is(ask('DELETE', '/api/user/api-keys?service=gemini', token => $ada->{token})->{status}, 204, 'one is removed');
is(ask('PUT', '/api/user/profile', json => { currentPassword => $ada->{password}, newPassword => 'new ' . canary() }, token => $ada->{token})->{status}, 200, 'a password is changed');

# The server's own secrets, as make up hands them in.
my $tool = $keelson->node->basedir . '/hand_in';
is(system("gcc -o '$tool' '$KeelsonTest::root/scripts/hand_in.c' \$(pkg-config --cflags --libs libpq)"), 0, 'the tool compiles');
for my $name (split /\n/, $keelson->sql('select name from keelson.secrets order by name'))
{
	local @ENV{qw(PGHOST PGPORT PGDATABASE)} = ($keelson->node->host, $keelson->node->port, 'keelson');
	# What has a form gets it; nobody listens there.
	my $value = $name eq 'smtp_url' ? 'smtp://user:' . canary() . '@127.0.0.1:1' : canary();
	is(system("printf %s '$value' | '$tool' secret $name"), 0, "the secret $name is set");
}

# While all this stands in the database: what others may see of it.
nowhere('error bodies and other replies', join("\n", @replies), $mark);
nowhere('pg_stat_activity', $keelson->sql('select * from pg_stat_activity'), $mark, @issued);
nowhere('pg_stat_statements', $keelson->sql('select query from pg_stat_statements'), $mark, @issued);
cmp_ok($keelson->sql(q{select count(*) from pg_stat_statements where query ~ 'keelson'}), '>', 20, 'which has statements of ours');
nowhere('the audit trail, opened', $keelson->sql('select e.*, keelson._audit_open(e.user_id, e.id, e.personal) from keelson.audit_events as e'), $mark, @issued)
	if $keelson->sql('select count(*) from keelson.audit_events') > 0;
my $dump = `pg_dumpall -h '@{[ $keelson->node->host ]}' -p @{[ $keelson->node->port ]}`;
cmp_ok(length $dump, '>', 100000, 'a dump');
nowhere('the dump', $dump, $mark, @issued);
# Seen by the statements that this test has sent itself, which hold no mark.
nowhere('the server\'s log', $keelson->server_log, $mark, @issued);
like($keelson->server_log, qr/keelson\.dispatch/, 'which has the gateway\'s statements');
nowhere('the gateway\'s log', $gateway->log_text, $mark, @issued);
cmp_ok(scalar $gateway->log_lines, '>', 100, 'which has the requests');

done_testing();
$keelson->stop;
