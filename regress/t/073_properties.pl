# Properties of the whole, through HTTP, tried with generated values (lib/KeelsonTest/Property.pm).

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use Encode ();
use KeelsonTest;
use KeelsonTest::Property;
use KeelsonTest::Sink;
use MIME::Base64 qw(decode_base64 encode_base64);
use Test::More;
use Unicode::Normalize qw(NFC);

my $keelson = KeelsonTest->new('properties', conf => "keelson.environment = development\nkeelson.allow_private_targets = on");
# One loop: its log is in the order of its counters.
my $gateway = $keelson->gateway(KEELSON_LOOPS => 1, KEELSON_TRUSTED_PROXIES => '127.0.0.0/8');
my $sink = KeelsonTest::Sink->new('properties');
my $user = $keelson->user($gateway);
my $admin = $keelson->user($gateway);
$keelson->sql("select keelson.role_grant('$admin->{email}', '$_')") for qw(admin owner);
my $openapi = $gateway->get('/api/openapi.json')->{json};

# A text as an SQL literal.
sub literal { my ($text) = @_; $text =~ s/'/''/g; return "'$text'"; }
sub json_literal { return literal(Encode::decode('UTF-8', json_encode($_[0]))); }
sub rows { return map { [ split /\|/, $_, -1 ] } split /\n/, $keelson->sql(Encode::encode('UTF-8', $_[0])); }
sub same { return json_encode($_[0]) eq json_encode($_[1]); }
sub shown { my ($reply) = @_; return "$reply->{status} $reply->{content}"; }

my @routes = map { { method => $_->[0], template => $_->[1], permission => $_->[2], scope => $_->[3], public => $_->[4] eq 't', raw => $_->[5] eq 't' } }
	rows('select method, template, permission, scope, is_public, is_raw from keelson.effective_routes order by template, method');

# The path of a route with something in its places.
sub path_of { my ($route) = @_; (my $path = "/api/$route->{template}") =~ s/:\w+/0194e0a0-0000-7000-8000-000000000000/g; return $path; }

property('a signed JWT says what was signed, and nothing else when a letter of it is changed', 12, sub {
	my %claims = (%{ { map { some_text(8) => some_value(3) } 1 .. integer(0, 5) } }, exp => 4000000000 + integer(0, 1000));
	my $token = (rows('select keelson.jwt_sign(' . json_literal(\%claims) . ')'))[0][0];
	my ($same) = rows("select keelson.jwt_verify('$token') = " . json_literal(\%claims) . '::jsonb');
	return "not the same: $token" unless $same->[0] eq 't';
	my $place = integer(0, length($token) - 1);
	my $letter = substr $token, $place, 1;
	substr $token, $place, 1, pick(grep { $_ ne $letter } 'A' .. 'Z', 'a' .. 'z', 0 .. 9, '-', '_', '.');
	my ($status, undef, $message) = $keelson->try_sql("select keelson.jwt_verify('$token')");
	return $status != 0 && $message =~ /token is not valid/ ? '' : "taken: $token $message";
});

my %preferences;
property('a profile comes back as it was given', 25, sub {
	my $name = some_text(40);
	$name =~ s/\x{202e}//g;
	$name =~ s/^\s+|\s+$//gu;
	my %change;
	$change{theme} = pick(undef, 'light', 'dark', 'system') if rand() < 0.5;
	$change{language} = pick(undef, 'en', 'pt-BR', 'zh-Hant-TW') if rand() < 0.5;
	$change{notifications} = pick(undef, JSON::PP::true, { map { $_ => pick(JSON::PP::true, JSON::PP::false) } subset(qw(news billing a.b-c_d)) }) if rand() < 0.5;
	my $reply = $gateway->put('/api/user/profile', { preferences => \%change, length $name ? (name => $name) : () }, token => $user->{token});
	return 'refused: ' . shown($reply) unless $reply->{status} == 200;
	merge(\%preferences, \%change);
	my $profile = $gateway->get('/api/user/profile', token => $user->{token})->{json}{data}{user};
	my $by_id = $gateway->get("/api/users/$user->{id}", token => $user->{token})->{json}{data};
	return 'another name: ' . json_encode($profile) if length $name && $profile->{name} ne NFC($name);
	return 'other preferences: ' . json_encode([ $profile->{preferences}, \%preferences ]) unless same($profile->{preferences}, \%preferences);
	return same($by_id, $profile) ? '' : 'another by id: ' . json_encode([ $by_id, $profile ]);
});

# RFC 7396.
sub merge
{
	my ($into, $change) = @_;
	for my $name (keys %$change)
	{
		my $value = $change->{$name};
		if (!defined $value) { delete $into->{$name}; }
		elsif (ref $value eq 'HASH')
		{
			$into->{$name} = {} unless ref $into->{$name} eq 'HASH';
			merge($into->{$name}, $value);
		}
		else { $into->{$name} = $value; }
	}
	return;
}

# A request that is allowed goes on to its arguments, of which one is unknown: so nothing is done by asking.
property('who may do what is the same for the gateway and keelson.has_permission()', 3, sub {
	my ($number) = @_;
	my %held = map { $_->[0] => 1 } rows("select permission from keelson.role_permissions where role = 'user'");
	my @permissions = map { $_->[0] } rows('select name from keelson.permissions order by name');
	my @given = subset(@permissions);
	my $made = $gateway->put("/api/admin/roles/generated_$number", { description => 'generated', permissions => \@given }, token => $admin->{token});
	return 'no role: ' . shown($made) unless $made->{status} < 300;
	my $holder = $keelson->user($gateway);
	my $roles = ["generated_$number", subset(qw(support))];
	my $changed = $gateway->put("/api/admin/users/$holder->{id}/roles", { roles => [ 'user', @$roles ] }, token => $admin->{token});
	return 'no roles: ' . shown($changed) unless $changed->{status} == 200;
	my $list = join ', ', map { "'$_'" } @permissions;
	my %may = map { $_->[0] => $_->[1] eq 't' } grep { @$_ == 2 }
		rows("begin; select keelson.act_as('$holder->{id}'); select p, keelson.has_permission(p) from unnest(array[$list]) as p; rollback");
	return 'no decisions' unless keys %may == @permissions;
	for my $route (grep { !$_->{public} } @routes)
	{
		my $reply = $gateway->request($route->{method}, path_of($route) . '?nonsense=1', token => $holder->{token});
		# What names a scope alone is for access keys and schedulers.
		my $may = $route->{permission} ne '' ? $may{ $route->{permission} } : $route->{scope} eq '';
		return "$route->{method} $route->{template} wants $route->{permission}, held by @given and @$roles: " . shown($reply)
			unless $reply->{status} == ($may ? 400 : 403) && $reply->{json}{code} eq ($may ? 'VALIDATION_FAILED' : 'FORBIDDEN');
		my $open = $gateway->request($route->{method}, path_of($route) . '?nonsense=1');
		return "$route->{method} $route->{template} by nobody: " . shown($open) unless $open->{status} == 401;
	}
	return '';
});

# Tables that only what was taken changes; what counts, logs and comes and goes by itself is not among them.
my @lasting = qw(access_keys api_key_services avatars blocks bulk_items bulk_operations email_changes exempt_networks external_identities issuers
	job_definitions mail_templates passwords permissions recovery_codes referral_redemptions referrals role_permissions roles route_overrides
	routes secrets stripe_links subscriptions tier_limits tiers totp_factors usage_events user_api_keys user_emails user_rate_limits user_roles
	users webhook_endpoints webhook_events webhook_source_secrets webhook_sources);

sub state_of_things
{
	my $sql = join ' union all ', map { "select '$_', md5(coalesce(string_agg(t::text, chr(10) order by t::text), '')) from keelson.$_ as t" } @lasting;
	return { map { @$_ } rows($sql) };
}

# The body that a route takes, each member of a kind that none has.
sub bad_body
{
	my ($route) = @_;
	my $schema = $openapi->{paths}{ "/api/$route->{template}" =~ s/:(\w+)/{$1}/gr }{ lc $route->{method} }{requestBody}{content}{'application/json'}{schema} || {};
	my %body = map { $_ => pick({ a => [] }, [ [1] ], 1e300, '', "\x{0}" eq 'x' ? 1 : "\x{202e}" x 2000) } subset(keys %{ $schema->{properties} || {} });
	return pick('', '{', '[]', 'null', '"text"', '{"a":1,"a":2}', '[' x 40, '{"a":"\\u0000"}', "{\"a\":\"\xff\"}", json_encode({ %body, nonsense => 1 }), json_encode({ %body, __proto__ => {} }));
}

my @writing = grep { $_->{method} ne 'GET' && !$_->{raw} && $_->{template} !~ m{^cron/} } @routes;
property('what is refused changes nothing', 3, sub {
	my $before = state_of_things();
	my @asked;
	for my $route (@writing)
	{
		my $body = bad_body($route);
		my $reply = $gateway->request($route->{method}, path_of($route) . '?nonsense=1', token => pick($user, $admin)->{token},
			length $body ? (body => $body, headers => { 'Content-Type' => 'application/json' }) : ());
		push @asked, "$route->{method} $route->{template} $body: $reply->{status}";
		return 'not refused: ' . substr($asked[-1], 0, 500) . shown($reply) unless $reply->{status} >= 400 && $reply->{status} < 500;
	}
	my $after = state_of_things();
	my @changed = grep { $before->{$_} ne $after->{$_} } @lasting;
	return @changed ? "changed: @changed\n" . join "\n", map { substr $_, 0, 200 } @asked : '';
});

property('errors have one shape', 60, sub {
	my $path = pick('/', '/api/', '/api/v1/', '/v9/', '') . join '/', map { pick('user', 'profile', 'users', 'admin', 'webhooks', '%', '%00', '..', 'x' x 100, '%C3%A9', '%ff', '') } 1 .. integer(1, 4);
	$path = "/$path" unless $path =~ m{^/};
	my %headers = (pick(Accept => 'Content-Type'), pick('application/json', 'text/plain', 'application/problem+json', 'x'));
	my $as_problem = ($headers{Accept} || '') =~ /problem/;
	my $reply = $gateway->request(pick(qw(GET POST PUT PATCH DELETE)), $path . pick('', '?a=1', '?a=1&a=2', '?%zz', '?limit=x'), headers => \%headers,
		rand() < 0.3 ? (token => pick($user->{token}, 'nonsense', 'ks_test_nonsense')) : (), rand() < 0.3 ? (body => pick('{', '{}', '[]', "\xff")) : ());
	return '' if $reply->{status} < 400;
	my $body = $reply->{json};
	my $id = $reply->{headers}{'x-request-id'};
	return 'no request id: ' . shown($reply) unless ($id || '') =~ /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
	if ($as_problem && $reply->{headers}{'content-type'} =~ /^application\/problem\+json/)
	{
		return $body->{status} == $reply->{status} && $body->{instance} eq $id && $body->{code} =~ /^[A-Z_]+$/ && $body->{type} =~ /^http/ && length $body->{title} ? '' : shown($reply);
	}
	return 'another shape: ' . shown($reply) unless ref $body eq 'HASH' && !$body->{success} && ref $body->{meta} eq 'HASH' && $body->{code} =~ /^[A-Z][A-Z_]*$/
		&& $body->{error} =~ /^[A-Z"].*[^.]$/s && $body->{meta}{requestId} eq $id && $body->{meta}{timestamp} =~ /^\d{4}-\d\d-\d\dT[\d:.]+Z$/;
	my @strange = grep { !/^(success|error|code|details|meta|violated-policies)$/ } keys %$body;
	return 'more members: ' . shown($reply) if @strange;
	return (grep { !(defined $_->{field} && $_->{code} =~ /^[A-Z_]+$/ && length $_->{message}) } @{ $body->{details} || [] }) ? 'details: ' . shown($reply) : '';
});

property('of a burst as many are answered as the limit says', 4, sub {
	my ($number) = @_;
	my $most = integer(1, 12);
	my $caller = $keelson->user($gateway);
	$keelson->sql("select keelson.rate_limit_override('general', $most, who => '$caller->{id}')");
	my @statuses;
	for my $turn (1 .. $most + integer(1, 5))
	{
		my $reply = $gateway->get('/api/auth/me', token => $caller->{token}, headers => { 'X-Forwarded-For' => "203.0.113.$number" });
		push @statuses, $reply->{status};
		return "turn $turn of $most: " . shown($reply) . json_encode($reply->{headers})
			if $turn <= $most ? $reply->{status} != 200 || $reply->{headers}{'x-ratelimit-remaining'} != $most - $turn
			: $reply->{status} != 429 || $reply->{headers}{'retry-after'} < 1 || $reply->{headers}{'x-ratelimit-limit'} != $most;
	}
	return '';
});

$keelson->sql(q{
	create schema made;
	grant usage on schema made to keelson_app;
	create table made.notes (user_id uuid not null, id uuid not null default keelson.uuid7(), text text not null,
		constraint notes_pkey primary key (user_id, id), constraint notes_text_check check (text <> 'forbidden'));
	alter table made.notes enable row level security;
	create policy own on made.notes using (user_id = keelson.current_user_id()) with check (user_id = keelson.current_user_id());
	grant select, insert on made.notes to keelson_app;
	select keelson.audit_event_type('made.note', 'A note was made.');
	select keelson.webhook_event_type('made.note', 'A note was made.', '{}');
	create function made.do_all(steps text[], fault text default null) returns jsonb language plpgsql as $$
	declare
		step text;
	begin
		foreach step in array steps loop
			case step
				when 'note' then insert into made.notes (user_id, text) values (keelson.current_user_id(), 'a note');
				when 'event' then perform keelson.webhook_emit('made.note', '{}', keelson.current_user_id());
				when 'audit' then perform keelson.audit('made.note');
				when 'usage' then perform keelson.usage_record(feature => 'made', minutes => 0.5);
				when 'fault' then
					case fault
						when 'raise' then perform keelson.raise(409, 'CONFLICT', 'not this time');
						when 'check' then insert into made.notes (user_id, text) values (keelson.current_user_id(), 'forbidden');
						when 'zero' then perform 1 / (cardinality(steps) - cardinality(steps));
						when 'timeout' then perform pg_sleep(60);
						else null;
					end case;
			end case;
		end loop;
		return '{}';
	end; $$;
	comment on function made.do_all(text[], text) is 'Does much.';
	select keelson.route('POST made', 'made.do_all', timeout => '300 milliseconds');
});
wait_until(sub { $gateway->post('/api/made', {})->{status} != 404 }) or die 'no route';
my $hooked = $gateway->post('/api/webhooks', { url => $sink->url('/made'), events => ['made.*'] }, token => $user->{token});
is($hooked->{status}, 201, 'an endpoint that wants the events') or diag shown($hooked);

# What the steps leave behind.
sub traces
{
	return (rows("select (select count(*) from made.notes), (select count(*) from keelson.webhook_events), (select count(*) from keelson.audit_events where event_type = 'made.note'),
		(select count(*) from keelson.usage_events), (select count(*) from keelson.idempotency_keys)"))[0];
}

property('a transaction that fails leaves nothing, one that does not leaves all', 16, sub {
	my ($number) = @_;
	my %place = map { $_ => rand } qw(note event audit usage);
	my @steps = sort { $place{$a} <=> $place{$b} } keys %place;
	my $fault = pick(undef, qw(raise check zero timeout));
	splice @steps, integer(0, @steps), 0, 'fault';
	my $before = traces();
	my $reply = $gateway->post('/api/made', { steps => \@steps, defined $fault ? (fault => $fault) : () }, token => $user->{token}, headers => { 'Idempotency-Key' => "made $number" });
	my $after = traces();
	my %expected = (raise => 409, check => 500, zero => 500, timeout => 504, none => 200);
	return "@steps: " . shown($reply) unless $reply->{status} == $expected{ $fault || 'none' };
	return "@steps with $fault: @$before, then @$after" if $fault && "@$before" ne "@$after";
	return '' if $fault;
	return (grep { $after->[$_] != $before->[$_] + 1 } 0 .. 4) ? "@steps: @$before, then @$after" : '';
});

property('every delivery has a signature that verifies, after a rotation under both secrets', 4, sub {
	my ($number) = @_;
	my $made = $gateway->post('/api/webhooks', { url => $sink->url("/signed/$number/$$"), events => ['made.*'] }, token => $admin->{token});
	my @secrets = ($made->{json}{data}{secret});
	if (rand() < 0.5)
	{
		my $rotated = $gateway->post("/api/webhooks/$made->{json}{data}{id}/rotate-secret", {}, token => $admin->{token});
		push @secrets, $rotated->{json}{data}{secret};
		return 'not rotated: ' . shown($rotated) unless $rotated->{status} == 200;
	}
	my %payload = map { some_text(10) => some_value(2) } 1 .. integer(0, 4);
	rows("select keelson.webhook_emit('made.note', " . json_literal(\%payload) . ", '$admin->{id}')");
	return 'not delivered' unless $sink->wait_for(1, "/signed/$number/$$");
	my ($request) = $sink->requests("/signed/$number/$$");
	my $signed = "$request->{headers}{'webhook-id'}.$request->{headers}{'webhook-timestamp'}." . Encode::encode('UTF-8', $request->{body});
	my %expected = map { ('v1,' . encode_base64(hmac_sha256($signed, decode_base64(s/^whsec_//r)), '')) => 1 } @secrets;
	my @missing = grep { !$expected{$_} } split / /, $request->{headers}{'webhook-signature'};
	return 'wrong: ' . json_encode($request) if @missing || keys %expected != split / /, $request->{headers}{'webhook-signature'};
	my $body = json_decode(Encode::encode('UTF-8', $request->{body}));
	$gateway->delete("/api/webhooks/$made->{json}{data}{id}", token => $admin->{token});
	return same($body->{data}, \%payload) ? '' : 'another payload: ' . json_encode([ $body, \%payload ]);
});

# Each change that an administrator may make, by route: arguments that do it. What needs an event that has failed is t/058's.
my %elsewhere = map { $_ => 1 } 'POST admin/webhooks/failed/:id/dismiss', 'POST admin/webhooks/failed/:id/retry';
my $issuer = (rows(q{select keelson.issuer_add('https://issuer.example.com', '{made}')}))[0][0];
my @changes = (
	[ 'POST admin/users/:id/end-sessions', sub { ({}) } ],
	[ 'PUT admin/roles/:name', sub { ({ name => 'changed' }, { description => 'generated ' . integer(1, 1e6), permissions => [ subset(qw(users.read audit.read)) ] }) } ],
	[ 'PUT admin/users/:id/roles', sub { ({}, { roles => [ 'user', subset(qw(support changed)) , 'changed' ] }) } ],
	[ 'PUT admin/users/:id', sub { ({}, { name => 'Changed ' . integer(1, 1e6) }) } ],
	[ 'PUT admin/users/:id/tier', sub { ({}, { tier => pick(qw(pro)) }) } ],
	[ 'POST admin/users/:id/block', sub { ({}, { reason => 'generated' }) } ],
	[ 'POST admin/users/:id/unblock', sub { ({}) } ],
	[ 'POST admin/users/bulk', sub { ({}, { operation => 'end_sessions', userIds => [ $_[0]{id} ] }) } ],
	[ 'POST admin/blocks', sub { ({}, { network => '198.51.100.' . integer(1, 250) . '/32', reason => 'generated' }) } ],
	[ 'DELETE admin/blocks', sub { ({ query => 'network=' . (rows('select network from keelson.blocks limit 1'))[0][0] }) } ],
	[ 'POST admin/issuers/:id/disable', sub { ({ id => $issuer }) } ],
	[ 'POST admin/issuers/:id/enable', sub { ({ id => $issuer }) } ],
	[ 'PUT admin/webhooks/sources/:source', sub { ({ source => 'changed' }, { preset => 'github', enabled => pick(JSON::PP::true, JSON::PP::false) }) } ],
	[ 'POST admin/webhooks/sources/:source/secrets', sub { ({ source => 'changed' }, { secret => 'a secret of the source ' . integer(1, 1e9) }) } ],
	[ 'DELETE admin/webhooks/sources/:source/secrets/:id', sub { ({ source => 'changed', id => (rows("select id from keelson.webhook_source_secrets where source = 'changed' limit 1"))[0][0] }) } ],
	[ 'DELETE admin/webhooks/sources/:source', sub { ({ source => 'changed' }) } ],
	[ 'DELETE admin/users/:id', sub { ({}) } ],
	[ 'POST admin/users/:id/restore', sub { ({}) } ],
	[ 'DELETE admin/roles/:name', sub { ({ name => 'changed' }) } ],
);

property('every change of an administrator has its event in the audit trail', 2, sub {
	my $target = $keelson->user($gateway);
	for my $change (@changes)
	{
		my ($method, $template) = split / /, $change->[0];
		my ($places, $body) = $change->[1]->($target);
		(my $path = "/api/$template") =~ s/:(\w+)/$places->{$1} || $target->{id}/ge;
		$path .= "?$places->{query}" if $places->{query};
		my $reply = $gateway->request($method, $path, token => $admin->{token}, $body ? (json => $body) : ());
		return "$change->[0]: " . shown($reply) unless $reply->{status} < 300;
		my @events = rows("select event_type, outcome, actor_id from keelson.audit_events where request_id = '$reply->{headers}{'x-request-id'}'");
		return "$change->[0] left no event" unless @events;
		my @strange = grep { $_->[1] ne 'success' || $_->[2] ne $admin->{id} } @events;
		return "$change->[0]: " . json_encode(\@strange) if @strange;
	}
	return '';
});
my @untried = grep { my $name = $_; !$elsewhere{$name} && !grep { $_->[0] eq $name } @changes }
	map { "$_->{method} $_->{template}" } grep { $_->{template} =~ m{^admin/} && $_->{method} ne 'GET' } @routes;
is_deeply(\@untried, [], 'no change of an administrator is left out');

property('health says what its parts say', 4, sub {
	my @broken = subset(qw(code jobs));
	my @off = grep { $_ } map { $_->[0] } subset(rows('select name from keelson.job_definitions order by name'));
	$keelson->sql("update keelson.installation set code_checksum = code_checksum || 'x'") if grep { $_ eq 'code' } @broken;
	$keelson->sql('update keelson.job_definitions set is_enabled = not name in (' . join(', ', map { "'$_'" } @off, '') . ')') if grep { $_ eq 'jobs' } @broken;
	my ($ready, $reason) = @{ (rows('select is_ready, reason from keelson.gateway_ready()'))[0] };
	my $expected = $ready eq 't' ? 200 : 503;
	my %answer;
	my $agree = wait_until(sub { %answer = map { $_ => $gateway->get($_) } qw(/ready /health /health/detailed); !grep { $_->{status} != $expected } values %answer }, 10);
	my $detailed = $answer{'/health/detailed'}{json}{data};
	my $fault = !$agree ? "expected $expected: " . join ' ', map { shown($_) } values %answer
		: $expected == 503 && lc($answer{'/ready'}{json}{error}) ne lc($reason) ? 'another reason: ' . shown($answer{'/ready'})
		: '';
	if (!$fault && $expected == 200)
	{
		my $parts = json_decode($keelson->sql('select keelson.gateway_health()'));
		for my $part (qw(workers jobs courier versions cron))
		{
			$fault = "$part: " . json_encode([ $parts->{$part}, $detailed->{database}{$part} ]) unless same($parts->{$part}, $detailed->{database}{$part});
		}
		my ($enabled) = rows('select count(*) from keelson.job_definitions where is_enabled');
		$fault = 'jobs: ' . json_encode($detailed->{database}{jobs}) unless $detailed->{database}{jobs}{enabled} == $enabled->[0];
	}
	$keelson->sql("update keelson.installation set code_checksum = rtrim(code_checksum, 'x'); update keelson.job_definitions set is_enabled = true");
	wait_until(sub { $gateway->get('/ready')->{status} == 200 }) or return 'not ready again';
	return $fault;
});

# Whatever was asked of the gateway above is in its log, and in its counters.
property('the metrics count what the log tells', 1, sub {
	my $reply = $gateway->get('/metrics');
	return 'no line for it' unless $gateway->log_line($reply->{headers}{'x-request-id'});
	my (%counted, %told);
	while ($reply->{content} =~ /^keelson_http_request_duration_seconds_count\{([^}]*)\} (\d+)$/mg)
	{
		my ($labels, $count) = ($1, $2);
		my %label = $labels =~ /(\w+)="([^"]*)"/g;
		$counted{"$label{route} $label{status}"} += $count if $count;
	}
	my %builtin = map { $_ => 1 } qw(live ready health health/detailed metrics docs);
	for my $line (grep { ($_->{event} || '') eq 'request' } $gateway->log_lines)
	{
		last if $line->{requestId} eq $reply->{headers}{'x-request-id'};
		my $route = $line->{route} eq '-' ? 'none' : $builtin{ $line->{route} } ? 'builtin' : $line->{route};
		$told{"$route " . substr($line->{status}, 0, 1) . 'xx'}++;
	}
	my @differ = grep { ($counted{$_} || 0) != ($told{$_} || 0) } sort keys %{ { %counted, %told } };
	return @differ ? join "\n", map { "$_: the metrics count " . ($counted{$_} || 0) . ', the log ' . ($told{$_} || 0) } @differ : '';
});

done_testing();
$keelson->stop;
