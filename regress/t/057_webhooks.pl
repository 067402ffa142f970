# Webhooks through HTTP: from an event to a signed delivery, and all that receivers do on the way.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use Encode qw(encode_utf8);
use KeelsonTest;
use KeelsonTest::Sink;
use MIME::Base64 qw(decode_base64 encode_base64);
use POSIX ();
use Test::More;

my $keelson = KeelsonTest->new('webhooks',
	conf => "keelson.environment = development\nkeelson.allow_private_targets = on\nkeelson.courier_timeout = 2");
my $gateway = $keelson->gateway;
my $sink = KeelsonTest::Sink->new('hooks');
my $ada = $keelson->user($gateway);
my $bob = $keelson->user($gateway);
$keelson->sql(q{select keelson.webhook_event_type('order.paid', 'An order was paid.', '{"amount": 5, "currency": "EUR"}')});

sub call
{
	my ($who, $method, $path, $body) = @_;
	return $gateway->request($method => "/api/webhooks$path", token => $who->{token}, $body ? (json => $body) : ());
}

sub endpoint
{
	my ($who, $path, %given) = @_;
	my $reply = call($who, POST => '', { url => $sink->url($path), events => ['*'], %given });
	$reply->{status} == 201 or die "no endpoint: $reply->{content}";
	return $reply->{json}{data};
}

sub emit
{
	my ($who, $type, $payload, $key) = @_;
	return $keelson->sql(sprintf q{select keelson.webhook_emit('%s', '%s', '%s'%s)}, $type, $payload, $who->{id},
		defined $key ? ", '$key'" : '');
}

sub verify
{
	my ($request, $secret) = @_;
	my ($key) = $secret =~ /^whsec_(.*)$/;
	my $mine = 'v1,' . encode_base64(hmac_sha256(
		"$request->{headers}{'webhook-id'}.$request->{headers}{'webhook-timestamp'}.$request->{body}", decode_base64($key)), '');
	return scalar grep { $_ eq $mine } split / /, $request->{headers}{'webhook-signature'};
}

sub delivery
{
	my ($who, $endpoint, $event) = @_;
	my ($found) = grep { $_->{eventId} eq $event } @{ call($who, GET => "/$endpoint->{id}/deliveries?limit=100")->{json}{data} };
	return $found;
}

sub is_balanced
{
	my ($name) = @_;
	return is($keelson->sql('select expected = found, missing, doubled, unexpected from keelson.webhook_accounting()'), 't|0|0|0', "accounting: $name");
}

# A change of Keelson's own, delivered and signed.
my $first = endpoint($ada, '/first', events => ['user.*'], headers => { 'X-Team' => 'blue' });
like($first->{secret}, qr/^whsec_/, 'the secret is shown once');
is(call($ada, GET => "/$first->{id}")->{json}{data}{secret}, undef, 'and not again');
$gateway->put('/api/user/profile', { name => 'Ada' }, token => $ada->{token});
ok($sink->wait_for(1, '/first'), 'a changed profile is told');
my ($seen) = $sink->requests('/first');
my $body = json_decode($seen->{body});
is_deeply($body->{data}, { userId => $ada->{id}, changed => ['name'] }, 'with what has changed') or diag($seen->{body});
is($body->{type}, 'user.updated', 'and its type');
ok(verify($seen, $first->{secret}), 'the signature is good');
ok(abs($seen->{headers}{'webhook-timestamp'} - time) < 60, 'the timestamp is now');
is($seen->{headers}{'x-team'}, 'blue', 'further header fields');
ok($seen->{headers}{traceparent} && $seen->{headers}{'x-request-id'}, 'the request is handed on');

# What becomes of an account.
my $carol = $keelson->user($gateway);
endpoint($carol, '/account', events => [ 'user.*', 'session.*', 'api_key.*' ]);
my $session = $gateway->post('/api/auth/login', { email => $carol->{email}, password => $carol->{password} })->{json}{data};
$gateway->post('/api/user/api-keys', { service => 'openai', apiKey => "sk-proj-$_" . 'a' x 40 }, token => $carol->{token}) for 1, 2;
$gateway->request(DELETE => '/api/user/api-keys', token => $carol->{token}, json => { service => 'openai' });
$gateway->put('/api/user/profile', { email => 'carol@elsewhere.example', currentPassword => $carol->{password} }, token => $carol->{token});
$gateway->post('/api/auth/logout', {}, token => $session->{accessToken});
$keelson->sql("select keelson._user_set_status('$carol->{id}', '$_')") for qw(blocked active deleted);
$keelson->sql("select keelson._user_restore('$carol->{id}')");
my @expected = sort qw(session.created api_key.stored api_key.replaced api_key.removed user.email_changed session.ended
	user.blocked session.ended user.unblocked user.deleted user.restored);
$sink->wait_for(scalar @expected, '/account');
my @told = map { json_decode(encode_utf8($_->{body})) } $sink->requests('/account');
is(join(' ', sort map { $_->{type} } @told), "@expected", 'what becomes of an account is told');
is(scalar(grep { $_->{data}{userId} ne $carol->{id} } @told), 0, 'whose it is');
my ($changed) = grep { $_->{type} eq 'user.email_changed' } @told;
is_deeply([ @{ $changed->{data} }{qw(oldEmail newEmail)} ], [ $carol->{email}, 'carol@elsewhere.example' ], 'from what to what');

# Of passwords, roles and access keys.
my $dave = $keelson->user($gateway);
endpoint($dave, '/rights', events => [ 'user.password_changed', 'user.role_*', 'access_key.*' ]);
my $key = $gateway->post('/api/user/access-keys', { name => 'CI', scopes => ['usage.write'] }, token => $dave->{token})->{json}{data};
my $next_key = $gateway->post("/api/user/access-keys/$key->{id}/rotate", {}, token => $dave->{token})->{json}{data};
$gateway->request(DELETE => "/api/user/access-keys/$next_key->{id}", token => $dave->{token});
$keelson->sql("select keelson.role_grant('$dave->{email}', 'support'); select keelson.role_revoke('$dave->{email}', 'support')");
$gateway->put('/api/user/profile', { currentPassword => $dave->{password}, newPassword => 'another horse and battery' }, token => $dave->{token});
# Else the reset would take the endpoint away: a stranger might have made it.
$keelson->sql("update keelson.users set email_verified_at = now() where id = '$dave->{id}'");
my $reset = $gateway->post('/api/auth/request-reset', { email => $dave->{email} })->{json}{data}{devToken};
$gateway->post('/api/auth/reset-password', { token => $reset, password => 'a third horse and battery' });
@expected = sort qw(access_key.created access_key.rotated access_key.revoked user.role_granted user.role_revoked user.password_changed user.password_changed);
$sink->wait_for(scalar @expected, '/rights');
is(join(' ', sort map { json_decode($_->{body})->{type} } $sink->requests('/rights')), "@expected", 'so are passwords, however they were changed, roles and access keys');

# Rotation.
my $rotated = call($ada, POST => "/$first->{id}/rotate-secret")->{json}{data};
call($ada, POST => "/$first->{id}/test");
ok($sink->wait_for(2, '/first'), 'a test event');
$seen = ($sink->requests('/first'))[1];
ok(verify($seen, $first->{secret}) && verify($seen, $rotated->{secret}), 'signed with both secrets') or diag($seen->{headers}{'webhook-signature'});
$keelson->sql("update keelson.webhook_endpoints set previous_until = now(), version = version + 1 where id = '$first->{id}'");
call($ada, POST => "/$first->{id}/test");
ok($sink->wait_for(3, '/first'), 'another');
$seen = ($sink->requests('/first'))[2];
ok(!verify($seen, $first->{secret}) && verify($seen, $rotated->{secret}), 'with the new one alone once the time is over');
my $dry = call($ada, POST => "/$first->{id}/dry-run", { type => 'user.updated' })->{json}{data};
ok(verify({ headers => $dry->{headers}, body => $dry->{body} }, $rotated->{secret}), 'a dry run is signed as it would be');

# Filter, transform, types.
my $filtered = endpoint($ada, '/filtered', events => ['order.*'], filter => '$.amount > 10',
	transform => { text => '{{ $.data.amount }} {{ $.data.currency }} for {{ $.type }}' });
emit($ada, 'order.paid', '{"amount": 5, "currency": "EUR"}');
emit($ada, 'order.paid', '{"amount": 50, "currency": "EUR"}');
ok($sink->wait_for(1, '/filtered'), 'what passes the filter');
($seen) = $sink->requests('/filtered');
is_deeply(json_decode($seen->{body}), { text => '50 EUR for order.paid' }, 'is sent as the template says');
ok(verify($seen, $filtered->{secret}), 'and signed so');

# A template that would not end for what it is sent fails the attempt, says so, and holds up nobody.
my $endless = '@ == "none"';
$endless = "exists(\$.data.list[*] ? ($endless))" for 1 .. 14;
my $stuck = endpoint($ada, '/stuck', events => ['order.*'], retrySchedule => [1], transform => "{{ \$.data ? ($endless) }}");
emit($ada, 'order.paid', '{"amount": 50, "currency": "EUR", "list": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}');
ok($sink->wait_for(2, '/filtered'), 'others are served');
ok(wait_until(sub { $keelson->sql("select count(*) from keelson.deliveries_log where lane = '$stuck->{id}' and state = 'exhausted'") == 1 }, 30),
	'a template that takes too long fails');
is($keelson->sql("select count(*) filter (where error like 'the transform fails for this event: % takes too long') || '|' || count(*) from"
	. " (select error from keelson.delivery_attempts where delivery_id = (select id from keelson.deliveries_log where lane = '$stuck->{id}')"
	. " union all select error from keelson.deliveries_log where lane = '$stuck->{id}') as a"), '2|2', 'and its delivery says so');
is(scalar($sink->requests('/stuck')), 0, 'nothing is sent');
call($ada, DELETE => "/$stuck->{id}");

# Failures: the schedule, attempts, exhaustion, replay.
my $failing = endpoint($bob, '/fail/a/2', retrySchedule => [ 1, 1 ]);
my $event = emit($bob, 'order.paid', '{"n": 1}');
ok(wait_until(sub { (delivery($bob, $failing, $event) || {})->{state} eq 'delivered' }, 20), 'tried again until it is taken');
my $detail = call($bob, GET => "/$failing->{id}/deliveries/" . delivery($bob, $failing, $event)->{id})->{json}{data};
is(join(' ', map { $_->{status} } @{ $detail->{attempts} }), '500 500 200', 'all attempts can be seen');
is(scalar(grep { $_->{durationMs} > 0 && $_->{timings}{firstByteMs} > 0 && $_->{address} eq '127.0.0.1' } @{ $detail->{attempts} }), 3, 'with times and address');
is(scalar(keys %{ { map { $_->{headers}{'webhook-id'} => 1 } $sink->requests('/fail/a') } }), 1, 'each under the same id');
my $broken = endpoint($bob, '/status/503', retrySchedule => [1]);
$event = emit($bob, 'order.paid', '{"n": 2}');
ok(wait_until(sub { (delivery($bob, $broken, $event) || {})->{state} eq 'exhausted' }, 20), 'exhausted in the end');
my $exhausted = delivery($bob, $broken, $event);
is($exhausted->{attempts}, 2, 'after as many attempts as the schedule has, and the first');
call($bob, PUT => "/$broken->{id}", { url => $sink->url('/mended') });
is(call($bob, POST => "/$broken->{id}/deliveries/$exhausted->{id}/replay")->{status}, 202, 'sent again by hand');
ok($sink->wait_for(1, '/mended'), 'to where the endpoint is now');
ok(wait_until(sub { delivery($bob, $broken, $event)->{state} eq 'delivered' }), 'and delivered');
is_balanced('a replay is the same delivery');
is(call($bob, POST => "/$broken->{id}/replay", { since => '2020-01-01T00:00:00Z', state => 'delivered' })->{json}{data}{replayed}, 1, 'all of a time');
ok($sink->wait_for(2, '/mended'), 'are sent again');

is(call($bob, POST => "/$broken->{id}/replay", { since => '2020-01-01T00:00:00Z', state => 'delivered', %$_ })->{json}{data}{replayed}, 0, 'and no others')
	for { type => 'webhook.test' }, { until => '2020-02-01T00:00:00Z' }, { state => 'exhausted' };
is(scalar(@{ call($bob, GET => "/$broken->{id}/deliveries?$_->[0]")->{json}{data} }), $_->[1], "looked for by $_->[0]")
	for [ 'type=order.paid', 1 ], [ 'type=webhook.test', 0 ], [ 'state=exhausted', 0 ];
is(call($bob, GET => "/$broken->{id}/deliveries?state=lost")->{status}, 400, 'a state that is none');
is(call($ada, $_->[0] => "/$_->[1]/deliveries/$exhausted->{id}$_->[2]")->{status}, 404, "another's delivery is not there: $_->[0]")
	for map { [ GET => $_, '' ], [ POST => $_, '/replay' ] } $broken->{id}, $first->{id};

# An endpoint that is removed while the first that fails is on its way leaves no lane behind.
my $leaving = endpoint($bob, '/as/leaving', events => ['order.*']);
$sink->put(leaving => '/hang');
emit($bob, 'order.paid', '{"n": 3}');
ok($sink->wait_for(1, '/as/leaving'), 'one is on its way');
call($bob, DELETE => "/$leaving->{id}");
ok(wait_until(sub { $keelson->sql("select count(*) from keelson.delivery_attempts as a join keelson.deliveries_log as l on l.id = a.delivery_id where l.lane = '$leaving->{id}'") == 1 }, 30), 'it fails after its endpoint was removed');
is($keelson->sql("select count(*) from keelson.courier_lanes where lane = '$leaving->{id}'"), 0, 'and nothing is left of its lane');

# What a receiver says is read for a while, and kept in part.
my $talking = endpoint($bob, '/huge', events => ['order.*']);
$event = emit($bob, 'order.paid', '{"n": 3}');
ok(wait_until(sub { (delivery($bob, $talking, $event) || {})->{state} eq 'delivered' }, 20), 'a long response counts');
is($keelson->sql("select length(response) || ' ' || (response_size between 65536 and 131072) from keelson.deliveries_log where lane = '$talking->{id}'"),
	'16384 true', '64 KiB of it are read, 16 KiB kept');
call($bob, DELETE => "/$talking->{id}");

# Retry-After, in seconds.
my $busy = endpoint($bob, '/retry-after/429/120', events => ['order.*'], retrySchedule => [1]);
$event = emit($bob, 'order.paid', '{"n": 3}');
ok(wait_until(sub { (delivery($bob, $busy, $event) || {})->{attempts} == 1 }), 'a receiver that is busy');
my $next = $keelson->sql("select extract(epoch from due_at - now())::int from keelson.deliveries where lane = '$busy->{id}'");
ok($next > 100 && $next <= 120, 'is left alone for as long as it asks') or diag($next);
call($bob, DELETE => "/$busy->{id}");
ok(wait_until(sub { $keelson->sql("select count(*) from keelson.deliveries where lane = '$busy->{id}' and due_at <= now()") == 0 }), 'removed');

# By date.
my $date = POSIX::strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time + 600));
my $dated = endpoint($bob, '/retry-after/503/' . $date =~ s/([ ,])/sprintf '%%%02X', ord $1/egr, events => ['order.*'], retrySchedule => [1]);
$event = emit($bob, 'order.paid', '{"n": 3}');
ok(wait_until(sub { (delivery($bob, $dated, $event) || {})->{attempts} == 1 }), 'one that says until when');
$next = $keelson->sql("select extract(epoch from due_at - now())::int from keelson.deliveries where lane = '$dated->{id}'");
ok($next > 540 && $next <= 600, 'is left alone until then') or diag("$date: $next");
call($bob, DELETE => "/$dated->{id}");
ok(wait_until(sub { $keelson->sql("select count(*) from keelson.deliveries where lane = '$dated->{id}' and due_at <= now()") == 0 }), 'removed');

my $patient = endpoint($bob, '/retry-after/503/864000', events => ['order.*']);
$event = emit($bob, 'order.paid', '{"n": 3}');
ok(wait_until(sub { (delivery($bob, $patient, $event) || {})->{attempts} == 1 }), 'one that wants to be left alone for ten days');
$next = $keelson->sql("select extract(epoch from due_at - now())::int from keelson.deliveries where lane = '$patient->{id}'");
ok($next > 82800 && $next <= 86400, 'is asked again after one') or diag($next);
call($bob, DELETE => "/$patient->{id}");

# The usual schedule: deliveries that have been tried 0 to 9 times are tried once more. (The first may be tried again meanwhile.)
my @schedule = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400);
my $usual = endpoint($bob, '/status/502', events => ['order.*']);
$keelson->sql("select keelson.courier_breaker_set('$usual->{id}', 'forced_open')");
emit($bob, 'order.paid', '{"n": 4}') for 0 .. @schedule;
$keelson->sql("update keelson.deliveries as d set attempts = n.tried from (select id, row_number() over (order by id) - 1 as tried"
	. " from keelson.deliveries where lane = '$usual->{id}') as n where d.id = n.id");
$keelson->sql("select keelson.courier_breaker_set('$usual->{id}', 'forced_closed')");
ok(wait_until(sub { $keelson->sql("select (select count(distinct delivery_id) from keelson.delivery_attempts as a"
	. " where a.delivery_id in (select id from keelson.deliveries where lane = '$usual->{id}'))"
	. " + (select count(*) from keelson.deliveries_log where lane = '$usual->{id}')") == @schedule + 1 }, 20), 'each is tried once more');
is($keelson->sql("select state || attempts from keelson.deliveries_log where lane = '$usual->{id}'"), 'exhausted10', 'after the last wait it is exhausted');
my @waits = split /\n/, $keelson->sql("select round(extract(epoch from coalesce(later.started_at, d.due_at) - a.started_at), 3) from keelson.deliveries as d"
	. ' join lateral (select number, started_at from keelson.delivery_attempts where delivery_id = d.id order by number limit 1) as a on true'
	. ' left join keelson.delivery_attempts as later on later.delivery_id = d.id and later.number = a.number + 1'
	. " where d.lane = '$usual->{id}' order by d.id");
is(scalar(grep { $waits[$_] < 0.8 * $schedule[$_] || $_ > 0 && $waits[$_] > 1.2 * $schedule[$_] + 10 } 0 .. $#schedule), 0,
	'the others wait as long as the schedule says, give or take a fifth') or diag("@waits");
cmp_ok(scalar(keys %{ { map { sprintf('%.3f', $waits[$_] / $schedule[$_]) => 1 } 1 .. $#schedule } }), '>', 1, 'not all alike');
call($bob, DELETE => "/$usual->{id}");

# Gone.
my $gone = endpoint($bob, '/status/410', events => ['order.*']);
emit($bob, 'order.paid', '{"n": 4}');
ok(wait_until(sub { !call($bob, GET => "/$gone->{id}")->{json}{data}{enabled} }), '410 disables the endpoint');
is(call($bob, GET => "/$gone->{id}")->{json}{data}{disabledReason}, 'gone', 'and says why');
is(scalar($sink->requests('/status/410')), 1, 'asked once');
is(call($bob, POST => "/$gone->{id}/test")->{status}, 409, 'no test of what is disabled');
my @mails = split /\n/, $keelson->sql("select recipient from keelson.mail_messages where template = 'webhook.disabled'");
is("@mails", $bob->{email}, 'its owner is told by mail');
ok($sink->wait_for(1, '/mended') && wait_until(sub { grep { /webhook.disabled/ } map { $_->{body} } $sink->requests('/mended') }), 'the other endpoints are told');

# Days of failures.
my $dead = endpoint($bob, '/status/500', events => ['order.*']);
$keelson->sql("update keelson.courier_lanes set failing_since = now() - interval '6 days' where lane = '$dead->{id}'");
emit($bob, 'order.paid', '{"n": 5}');
ok(wait_until(sub { (call($bob, GET => "/$dead->{id}")->{json}{data}{disabledReason} || '') eq 'failing' }), 'five days of failures disable');

# What waits for a disabled endpoint goes when it is enabled.
my $paused = endpoint($ada, '/paused', events => ['order.*']);
$keelson->sql("select keelson.courier_breaker_set('$paused->{id}', 'forced_open')");
emit($ada, 'order.paid', '{"amount": 1}') for 1 .. 3;
call($ada, PUT => "/$paused->{id}", { enabled => JSON::PP::false });
$keelson->sql("select keelson.courier_breaker_set('$paused->{id}', 'closed')");
emit($ada, 'order.paid', '{"amount": 2}');
is(scalar($sink->requests('/paused')), 0, 'nothing is sent while a breaker is forced open, or to a disabled endpoint');
is($keelson->sql("select count(*), sum(attempts) from keelson.deliveries where lane = '$paused->{id}'"), '3|0', 'what was asked for waits, its attempts kept');
call($ada, PUT => "/$paused->{id}", { enabled => JSON::PP::true });
ok($sink->wait_for(3, '/paused'), 'and is sent once it is enabled');

# Order.
my $ordered = endpoint($ada, '/switch/order', events => ['order.*'], retrySchedule => [ (1) x 20 ]);
open my $switch, '>', $sink->folder . '/order' or die $!;
print $switch 500;
close $switch;
emit($ada, 'order.paid', qq({"seq": $_}), 'k') for 1 .. 5;
ok($sink->wait_for(2, '/switch/order'), 'the first of a key fails');
is(scalar(grep { json_decode($_->{body})->{data}{seq} != 1 } $sink->requests('/switch/order')), 0, 'the others wait for it');
open $switch, '>', $sink->folder . '/order' or die $!;
print $switch 200;
close $switch;
ok(wait_until(sub { grep { json_decode($_->{body})->{data}{seq} == 5 } $sink->requests('/switch/order') }, 30), 'then all go');
my @order = map { json_decode($_->{body})->{data}{seq} } $sink->requests('/switch/order');
is(join(' ', @order), join(' ', sort { $a <=> $b } @order), 'in their order');

# A rate limit.
my $slow = endpoint($ada, '/limited', events => ['order.*'], rateLimit => 5);
my $began = time;
emit($ada, 'order.paid', '{"amount": 1}') for 1 .. 15;
ok($sink->wait_for(15, '/limited', 30), 'all of them');
my @at = map { $_->{at} } $sink->requests('/limited');
ok($at[14] - $at[0] > 1500, 'not faster than the limit') or diag($at[14] - $at[0]);

# Somebody else's is not there; evil input changes nothing.
is(call($bob, GET => "/$first->{id}")->{status}, 404, q{another's endpoint is not there});
is(call($bob, $_->[0] => "/$first->{id}$_->[1]", $_->[2])->{status}, 404, "$_->[0] $_->[1]")
	for [ PUT => '', { enabled => JSON::PP::false } ], [ DELETE => '' ], [ POST => '/test' ], [ POST => '/rotate-secret' ], [ POST => '/dry-run', { type => 'user.updated' } ],
	[ GET => '/deliveries' ], [ POST => '/replay', { since => '2020-01-01T00:00:00Z' } ];
my $count = $keelson->sql('select count(*) from keelson.webhook_endpoints');
for my $bad ({ url => 'http://169.254.169.254/' }, { url => 'ftp://x/' }, { events => [] }, { events => ['nothing.such'] },
	{ filter => '$.a' }, { headers => { Host => 'x' } }, { headers => { 'X-A' => "a\r\nb" } }, { transform => '{{ $.[ }}' }, { retrySchedule => [0] }, { nonsense => 1 })
{
	my $reply = call($ada, POST => '', { url => $sink->url('/'), events => ['*'], %$bad });
	is($reply->{status}, 400, 'refused: ' . json_encode($bad)) or diag($reply->{content});
}
is($keelson->sql('select count(*) from keelson.webhook_endpoints'), $count, 'nothing was stored');
unlike($keelson->server_log, qr/whsec_/, 'no secret in the log');

# Header fields that were stored in clear once are sealed when the tables are brought up to date.
my $old = endpoint($ada, '/old', events => ['order.*']);
$keelson->sql(q{
	alter table keelson.webhook_endpoints drop column header_names, alter column headers type jsonb using '{"X-Old": "in clear"}',
		alter column headers set default '{}', alter column headers set not null;
	delete from keelson.migrations where capability = 'webhooks' and number = 2;
	delete from keelson.seal_purposes where name = 'webhook-headers';
	select keelson.migrate();
});
is($keelson->sql(q{select count(*), count(*) filter (where encode(headers, 'escape') like '%in clear%'), min(header_names) from keelson.webhook_endpoints}),
	$count + 1 . '|0|{X-Old}', 'header fields in clear are sealed by the migration');
emit($ada, 'order.paid', '{"amount": 7}');
ok($sink->wait_for(1, '/old'), 'and opened');
is(($sink->requests('/old'))[0]{headers}{'x-old'}, 'in clear', 'to be sent');

# More endpoints than a courier keeps keys of: keys are wiped then, and opened again when they are needed.
my ($few, @others) = split /\n/, $keelson->sql(q{select keelson.user_create(format('many%s@example.com', n)::keelson.email_address) from generate_series(1, 21) as n});
my %secret_of = map { split /\|/ } map {
	split /\n/, $keelson->sql(qq{begin; select keelson.act_as('$_') \\g /dev/null
		select path, (keelson.webhook_create('@{[ $sink->url('') ]}' || path, '{order.*}')).secret from (select '/many/$_/' || n from generate_series(1, 50) as n) as p (path); commit})
} $few, @others;
is(scalar(keys %secret_of), 1050, 'many endpoints');
my $emit_to = sub { $keelson->sql(join ';', map { qq{select keelson.webhook_emit('order.paid', '{"amount": 8}', '$_')} } @_) };
$emit_to->($few);
ok($sink->wait_for(50, '/many/'), 'some are told');
my $courier = $keelson->sql(q{select pid from pg_stat_activity where backend_type = 'keelson courier'});
my $held = sub { return process_holds($courier, decode_base64($secret_of{"/many/$few/1"} =~ s/^whsec_//r)) };
my $can_look = $KeelsonTest::slow == 1 && defined $held->();
is($held->(), 1, 'the courier keeps the key of the first') if $can_look;
$emit_to->(@others);
ok($sink->wait_for(1050, '/many/', 60), 'then all others');
is($held->(), 0, 'whose keys take its place, and it is wiped') if $can_look;
$emit_to->($few);
ok($sink->wait_for(1100, '/many/', 60), 'and opened again');
is(scalar(grep { !verify($_, $secret_of{ $_->{path} }) } $sink->requests('/many/')), 0, 'each signature is good');
is_balanced('in the end');

$keelson->stop;
done_testing();
