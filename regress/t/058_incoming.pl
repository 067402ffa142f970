# Webhooks that others send, through HTTP: signatures over raw bytes, each event once, Stripe's subscriptions,
# failures by hand, and what a kill -9 leaves.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex hmac_sha256);
use KeelsonTest;
use MIME::Base64 qw(encode_base64);
use Test::More;
use Time::HiRes qw(sleep time);

my $keelson = KeelsonTest->new('incoming', conf => "keelson.environment = development\nkeelson.webhook_handler_timeout = 2");
our $gateway = $keelson->gateway;
my $secret = 'whsec_of_the_test_that_nobody_may_read';
my $serial = 0;

sub sql { return $keelson->sql($_[0]); }

# A delivery as Stripe makes one.
sub stripe
{
	my ($body, %given) = @_;
	my $time = $given{time} // int(time);
	my $signature = $given{signature} // "t=$time,v1=" . hmac_sha256_hex("$time.$body", $given{secret} // $secret);
	return $gateway->request(POST => $given{path} // '/webhooks/stripe', body => $body,
		headers => { 'Content-Type' => 'application/json; charset=utf-8', length $signature ? ('Stripe-Signature' => $signature) : () });
}

sub event
{
	my ($type, $object, %given) = @_;
	return json_encode({ id => $given{id} // 'evt_' . ++$serial, object => 'event', type => $type, created => $given{created} // int(time),
		livemode => JSON::PP::false, data => { object => $object } });
}

sub state_of { return sql("select e.event_type, e.processed_at is not null from keelson.incoming_events as e where e.external_id = '$_[0]'"); }
sub is_settled { return wait_until(sub { sql('select count(*) from keelson.incoming_events where due_at <= clock_timestamp()') == 0 }, 30); }
sub stored { return sql('select count(*), (select count(*) from keelson.webhook_receipts) from keelson.incoming_events'); }

sub refused
{
	my ($reply, $status, $code, $name) = @_;
	is($reply->{status}, $status, $name) or diag $reply->{content};
	is(($reply->{json} || {})->{code}, $code, "$name: $code") or diag $reply->{content};
	return;
}

# Before anything is set up.
refused(stripe('{}'), 404, 'NOT_FOUND', 'no secret yet');
sql("select keelson.secret_set('stripe_webhook_secret', '$secret')");

subtest 'what is refused leaves nothing' => sub {
	my $body = event('customer.created', { id => 'cus_0' });
	my $good = hmac_sha256_hex(int(time) . ".$body", $secret);
	refused(stripe($body, signature => ''), 400, 'BAD_REQUEST', 'missing');
	refused(stripe($body, signature => $_), 400, 'BAD_REQUEST', "malformed: $_")
		for 't=1', 'v1=ab', 'nonsense', 't=x,v1=' . $good, "t=@{[ int time ]},v1=zz", "t=@{[ int time ]},v0=$good", 'v1=' . 'a' x 5000;
	refused(stripe($body, secret => 'another'), 400, 'BAD_REQUEST', 'another secret');
	refused(stripe($body, time => int(time) - 301), 400, 'BAD_REQUEST', 'old');
	refused(stripe($body, time => int(time) + 400), 400, 'BAD_REQUEST', 'of the future');
	refused(stripe("$body ", signature => 't=' . int(time) . ",v1=$good"), 400, 'BAD_REQUEST', 'a byte more');
	refused(stripe('not json'), 400, 'MALFORMED_JSON', 'no JSON');
	refused(stripe('[]'), 400, 'MALFORMED_JSON', 'no object');
	refused(stripe("{\"id\": \"evt_x\", \"a\": \"\\u0000\"}"), 400, 'MALFORMED_JSON', 'a zero byte in it');
	refused(stripe("{\"id\": \"evt_\xff\"}"), 400, 'MALFORMED_JSON', 'no UTF-8');
	refused(stripe('{"type": "no.id"}'), 400, 'BAD_REQUEST', 'no id');
	refused(stripe($body, path => '/webhooks/nobody'), 404, 'NOT_FOUND', 'no such source');
	refused(stripe($body, path => '/webhooks/ghl'), 404, 'NOT_FOUND', 'one that is not switched on');
	refused(stripe('{"id": "evt_large", "x": "' . 'x' x 262144 . '"}'), 413, 'PAYLOAD_TOO_LARGE', 'over 256 KiB');
	my $twice = join "\r\n", 'POST /webhooks/stripe HTTP/1.1', 'Host: a', 'Connection: close', 'Content-Type: application/json', 'Content-Length: ' . length $body,
		'Stripe-Signature: t=' . int(time) . ",v1=$good", 'Stripe-Signature: t=' . int(time) . ",v1=$good", '', $body;
	refused(KeelsonTest::Gateway::parse_reply($gateway->raw($twice)), 400, 'BAD_REQUEST', 'two signatures');
	is(stored(), '0|0', 'nothing is stored');
	ok(wait_until(sub { sql("select count(*) from keelson.webhook_rejections where source = 'stripe' and fault in ('missing', 'malformed', 'mismatch', 'too_old', 'too_new', 'not_json', 'no_id')") == 7 }),
		'but counted, by what was wrong');
	is(sql("select rejections from keelson.webhook_rejections where source = 'stripe' and fault = 'malformed'"), 8, 'each') or diag sql('select * from keelson.webhook_rejections');
	is(sql("select last_address from keelson.webhook_rejections where source = 'stripe' and fault = 'missing'"), '127.0.0.1', 'with a sample of the latest');
};

subtest 'raw bytes, each event once' => sub {
	my $body = "{ \"id\" : \"evt_raw\",\n\t\"type\":\"customer.created\", \"created\": 1.7e9,\r\n \"data\": {\"object\": {\"name\": \"Zo\xc3\xab \xf0\x9f\x9b\xb6 \\u00e9\", \"n\": 1.10}} }\n";
	my $reply = stripe($body);
	is($reply->{status}, 200, 'taken') or diag $reply->{content};
	is($reply->{json}{data}{duplicate}, JSON::PP::false, 'for the first time');
	like($reply->{json}{data}{id}, qr/^[0-9a-f-]{36}$/, 'with an id of ours');
	is(sql("select encode(body, 'hex') from keelson.incoming_events where external_id = 'evt_raw'"), unpack('H*', $body), 'to the byte');
	$reply = stripe($body, path => '/api/v1/webhooks/stripe/');
	is("$reply->{status} $reply->{json}{data}{duplicate}", '200 1', 'again: acknowledged') or diag $reply->{content};
	is(stored(), '1|1', 'and nothing else');
	is(stripe('{"id": "evt_wide", "x": "' . 'x' x (262144 - 29) . '"}')->{status}, 200, 'up to 256 KiB');
	ok(is_settled(), 'handled');
	is(state_of('evt_raw'), 'customer.created|t', 'though nobody wants it');
	# Two secrets at once while one is replaced.
	sql("select keelson.webhook_secret_add('stripe', 'whsec_the_next_one')");
	is(stripe(event('customer.created', {}), secret => $_)->{status}, 200, 'signed with either secret') for $secret, 'whsec_the_next_one';
	sql("select keelson.webhook_secret_remove('stripe', id) from keelson.webhook_source_secrets where source = 'stripe'");
	refused(stripe(event('customer.created', {}), secret => 'whsec_the_next_one'), 400, 'BAD_REQUEST', 'no more once it is removed');
};

subtest 'twenty deliveries of one event at once' => sub {
	sql(q{
		create schema app;
		grant usage on schema app to keelson_app;
		create table app.effects (id text, made_at timestamptz default clock_timestamp());
		grant select, insert on app.effects to keelson_app;
		create function app.take(event keelson.incoming_event) returns void language plpgsql as $$
		begin
			insert into app.effects (id) values (event.external_id);
			perform pg_sleep((event.payload #>> '{data,object,sleep}')::float8);
			if event.payload #>> '{data,object,fails}' = 'yes' then
				raise exception 'it does not work';
			end if;
		end
		$$;
		select keelson.webhook_handler('stripe', 'app.*', 'app.take');
	});
	my $body = event('app.one', {}, id => 'evt_at_once');
	my @pipes;
	for (1 .. 20)
	{
		pipe my $in, my $out or die $!;
		my $pid = fork // die $!;
		if (!$pid)
		{
			my $reply = stripe($body);
			syswrite $out, "$reply->{status} " . ($reply->{json}{data}{duplicate} ? 'again' : 'first') . "\n";
			require POSIX;
			POSIX::_exit(0);
		}
		close $out;
		push @pipes, [ $in, $pid ];
	}
	my %count;
	for (@pipes)
	{
		my ($in, $pid) = @$_;
		chomp(my $said = <$in> // 'nothing');
		waitpid $pid, 0;
		$count{$said}++;
	}
	is_deeply(\%count, { '200 first' => 1, '200 again' => 19 }, 'all are acknowledged, one is the first') or diag explain \%count;
	ok(is_settled(), 'handled');
	is(sql("select count(*) from app.effects where id = 'evt_at_once'"), 1, 'one effect');
	# One that takes too long does not hold up the others for long.
	stripe(event('app.slow', { sleep => 600 }, id => 'evt_slow'));
	stripe(event('app.quick', {}, id => 'evt_quick'));
	ok(wait_until(sub { sql("select count(*) from app.effects where id = 'evt_quick'") == 1 }), 'the next is handled');
	is(sql("select error_code, error from keelson.failed_webhook_events where external_id = 'evt_slow'"),
		'57014|the handler took longer than keelson.webhook_handler_timeout', 'the slow one has failed');
	is(sql("select count(*) from app.effects where id = 'evt_slow'"), 0, 'and nothing of it stays');
	sql("select keelson.webhook_dismiss(id) from keelson.failed_webhook_events where external_id = 'evt_slow'");
};

subtest 'Stripe moves the subscription' => sub {
	my $user = $keelson->user($gateway);
	my $profile = sub { return $gateway->get('/api/user/profile', token => $user->{token})->{json}{data}{subscription}; };
	my %fixture;
	if ($ENV{VECTORS} && -e "$ENV{VECTORS}/stripe/objects.json")
	{
		%fixture = %{ json_decode(slurp("$ENV{VECTORS}/stripe/objects.json"))->{resources} || {} };
	}
	diag('without Stripe\'s own objects: VECTORS is not set') unless %fixture;
	my $now = int(time);
	my ($start, $end) = ($now - $now % 3600, $now - $now % 3600 + 30 * 86400);
	sql("select keelson.stripe_price_set('price_pro', 'pro')");
	my $reference = sql("select keelson._stripe_reference('$user->{id}', keelson._token_key_id())");
	# Stripe's own objects, where they are there, with our names in them.
	my $session = { %{ $fixture{'checkout.session'} || {} }, id => 'cs_1', mode => 'subscription', customer => 'cus_1', subscription => 'sub_1', client_reference_id => $reference };
	my $subscription = { %{ $fixture{subscription} || {} }, id => 'sub_1', customer => 'cus_1', status => 'active', metadata => {}, cancel_at => undef, cancel_at_period_end => JSON::PP::false,
		items => { object => 'list', data => [ { price => { id => 'price_pro' }, current_period_start => $start, current_period_end => $end } ] } };
	my $invoice = { %{ $fixture{invoice} || {} }, id => 'in_1', customer => 'cus_1', parent => { subscription_details => { subscription => 'sub_1', metadata => {} } },
		amount_due => 900, amount_paid => 900, currency => 'eur',
		lines => { data => [ { id => 'il_1', period => { start => $start, end => $end }, pricing => { price_details => { price => 'price_pro' } } } ] } };
	is(stripe(event('checkout.session.completed', $session, created => $now - 50))->{status}, 200, 'a checkout');
	is(stripe(event('invoice.payment_succeeded', $invoice, created => $now - 49))->{status}, 200, 'its invoice');
	ok(wait_until(sub { $profile->()->{tier} eq 'pro' }), 'the user has the tier') or diag sql('select * from keelson.failed_webhook_events');
	is(stripe(event('customer.subscription.updated', $subscription, created => $now - 48))->{status}, 200, 'the subscription');
	is(stripe(event('invoice.payment_failed', { %$invoice, id => 'in_2' }, created => $now - 40))->{status}, 200, 'a payment that failed');
	ok(wait_until(sub { $profile->()->{status} eq 'past_due' }), 'is late');
	is($profile->()->{tier}, 'pro', 'and the tier stays for now');
	my $shown = sql("select keelson._time_text(to_timestamp($end))");
	is($profile->()->{periodEnd}, $shown, 'the period is Stripe\'s');
	is(stripe(event('customer.subscription.deleted', { %$subscription, status => 'canceled', ended_at => $now - 30 }, created => $now - 30))->{status}, 200, 'the end');
	ok(wait_until(sub { $profile->()->{status} eq 'canceled' }), 'is cancelled');
	is($profile->()->{tier}, 'free', 'and the tier the default one');
	is(stripe(event('customer.subscription.updated', $subscription, created => $now - 45))->{status}, 200, 'an older event that comes late');
	ok(is_settled(), 'is handled');
	is($profile->()->{status}, 'canceled', 'and does not win');
	is(sql("select count(*) from keelson.failed_webhook_events where state <> 'resolved'"), 0, 'nothing has failed') or diag sql('select * from keelson.failed_webhook_events');
	my @activity = map { $_->{type} } @{ $gateway->get('/api/user/activity?limit=100', token => $user->{token})->{json}{data} };
	ok((grep { $_ eq 'subscription.change' } @activity) >= 3 && grep({ $_ eq 'payment.receive' } @activity), 'the user sees it in their activity') or diag explain \@activity;
};

subtest 'other providers' => sub {
	my $folder = $keelson->node->basedir;
	my $sign = sub {
		my ($key, $body) = @_;
		open my $file, '>:raw', "$folder/body" or die $!;
		print $file $body;
		close $file;
		system("openssl pkeyutl -sign -inkey '$folder/$key.pem' -rawin " . ($key eq 'rsa' ? '-digest sha256 ' : '') . "-in '$folder/body' -out '$folder/signature' 2>/dev/null") == 0
			or die "openssl: $?";
		return encode_base64(slurp("$folder/signature"), '');
	};
	my $post = sub { my ($source, $body, %headers) = @_; return $gateway->request(POST => "/webhooks/$source", body => $body, headers => { 'Content-Type' => 'application/json', %headers }); };
	system("openssl genpkey -algorithm ed25519 -out '$folder/ed.pem' 2>/dev/null && openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048 -out '$folder/rsa.pem' 2>/dev/null") == 0 or die;
	chomp(my ($ed, $rsa) = map { my $pem = `openssl pkey -in '$folder/$_.pem' -pubout`; $pem } 'ed', 'rsa');
	sql("select keelson.webhook_source_set('crm', 'gohighlevel'), keelson.webhook_secret_add('crm', '$ed')");
	my $now = sub { return sql('select keelson._time_text(now() + interval \'' . ($_[0] || 0) . ' seconds\')'); };
	my $body = json_encode({ type => 'ContactCreate', timestamp => $now->(), webhookId => 'hook-1', locationId => 'loc-1' });
	is($post->('crm', $body, 'X-GHL-Signature' => $sign->('ed', $body))->{status}, 200, 'Ed25519');
	is($post->('crm', $body, 'X-GHL-Signature' => $sign->('ed', $body))->{json}{data}{duplicate}, JSON::PP::true, 'once');
	refused($post->('crm', "$body ", 'X-GHL-Signature' => $sign->('ed', $body)), 400, 'BAD_REQUEST', 'another body');
	refused($post->('crm', $body, 'X-GHL-Signature' => 'N/A'), 400, 'BAD_REQUEST', 'none');
	refused($post->('crm', $body, 'X-WH-Signature' => $sign->('rsa', $body)), 400, 'BAD_REQUEST', 'the kind that was retired');
	for my $seconds (-400, 400)
	{
		my $other = json_encode({ type => 'ContactCreate', timestamp => $now->($seconds), webhookId => "hook$seconds" });
		refused($post->('crm', $other, 'X-GHL-Signature' => $sign->('ed', $other)), 400, 'BAD_REQUEST', "signed $seconds seconds off");
	}
	my $timeless = '{"type": "ContactCreate", "webhookId": "hook-9"}';
	refused($post->('crm', $timeless, 'X-GHL-Signature' => $sign->('ed', $timeless)), 400, 'BAD_REQUEST', 'without a time');
	sql("select keelson.webhook_secret_add('crm', 'a shared secret of the crm')");
	is($post->('crm', '{"type": "workflow"}', 'X-Webhook-Secret' => 'a shared secret of the crm')->{status}, 200, 'a shared secret');
	refused($post->('crm', '{"type": "workflow2"}', 'X-Webhook-Secret' => 'a shared secret of the cr'), 400, 'BAD_REQUEST', 'a piece of it');
	is(sql("select headers from keelson.incoming_events where source = 'crm' and event_type = 'workflow'"), '{}', 'which is not kept');
	sql("select keelson.webhook_source_set('old', 'hmac', '{\"schemes\": [{\"algorithm\": \"rsa-sha256\", \"header\": \"x-wh-signature\", \"encoding\": \"base64\"}]}'), keelson.webhook_secret_add('old', '$rsa')");
	is($post->('old', $body, 'X-WH-Signature' => $sign->('rsa', $body))->{status}, 200, 'RSA');
	refused($post->('old', $body, 'X-WH-Signature' => $sign->('ed', $body)), 400, 'BAD_REQUEST', 'with another key');
	sql("select keelson.webhook_source_set('forge', 'github'), keelson.webhook_secret_add('forge', 'a secret of the forge'), keelson.webhook_source_set('shop', 'shopify'), keelson.webhook_secret_add('shop', 'a secret of the shop')");
	is($post->('forge', '{"zen": "x"}', 'X-GitHub-Event' => 'ping', 'X-GitHub-Delivery' => 'd-1', 'X-Hub-Signature-256' => 'sha256=' . hmac_sha256_hex('{"zen": "x"}', 'a secret of the forge'))->{status}, 200, 'GitHub');
	is($post->('shop', '{"id": 1}', 'X-Shopify-Topic' => 'orders/create', 'X-Shopify-Event-Id' => 's-1', 'X-Shopify-Shop-Domain' => 'a.example',
			'X-Shopify-Hmac-Sha256' => encode_base64(hmac_sha256('{"id": 1}', 'a secret of the shop'), ''))->{status}, 200, 'Shopify');
	is(sql("select string_agg(event_type || ' ' || coalesce(headers ->> 'x-shopify-shop-domain', '-'), ', ' order by source) from keelson.incoming_events where source in ('forge', 'shop')"),
		'ping -, orders/create a.example', 'with the headers that say what it is');
	my $again = sub { return $post->('forge', '{"zen": "x"}', 'X-GitHub-Event' => 'ping', 'X-GitHub-Delivery' => $_[0], 'X-Hub-Signature-256' => 'sha256=' . hmac_sha256_hex('{"zen": "x"}', 'a secret of the forge'))->{json}{data}{duplicate} };
	is_deeply([ map { $again->($_) } 'd-1', 'd-2' ], [ JSON::PP::true, JSON::PP::false ], 'GitHub\'s id is what nobody has signed');
	sql(q{select keelson.webhook_source_set('forge', settings => '{"id": ["hash"]}')});
	is_deeply([ map { $again->($_) } 'd-3', 'd-4' ], [ JSON::PP::false, JSON::PP::true ], 'unless the body is the id');
};

subtest 'failures, by hand' => sub {
	my ($admin, $support, $plain) = map { $keelson->user($gateway) } 1 .. 3;
	sql("select keelson.role_grant('$admin->{email}', 'admin'), keelson.role_grant('$support->{email}', 'support')");
	my $failed = sub { return $gateway->get('/api/admin/webhooks/failed' . ($_[0] || ''), token => $admin->{token})->{json}{data}; };
	stripe(event('app.bad', { fails => 'yes' }, id => "evt_bad_$_")) for 1 .. 3;
	ok(wait_until(sub { @{ $failed->() } == 3 }), 'three have failed');
	is(sql("select count(*) from app.effects where id like 'evt_bad%'"), 0, 'and nothing of them stays');
	my ($one) = grep { $_->{externalId} eq 'evt_bad_1' } @{ $failed->() };
	is_deeply({ map { $_ => $one->{$_} } qw(state failures error errorCode handler source type) },
		{ state => 'failed', failures => 1, error => 'it does not work', errorCode => 'P0001', handler => 'app.take', source => 'stripe', type => 'app.bad' }, 'how') or diag explain $one;
	ok($one->{nextRetryAt}, 'it is tried again');
	my $page = $gateway->get('/api/admin/webhooks/failed?limit=2', token => $admin->{token})->{json};
	is(scalar(@{ $page->{data} }), 2, 'by pages');
	is(scalar(@{ $failed->("?limit=2&cursor=$page->{meta}{pagination}{nextCursor}") }), 1, 'the next');
	is(scalar(@{ $failed->('?state=resolved') }), 1, 'by state');
	refused($gateway->get('/api/admin/webhooks/failed?state=odd', token => $admin->{token}), 400, 'VALIDATION_FAILED', 'an odd state');
	is($gateway->get('/api/admin/webhooks/failed', token => $support->{token})->{status}, 200, 'support may look');
	refused($gateway->post("/api/admin/webhooks/failed/$one->{id}/retry", {}, token => $support->{token}), 403, 'FORBIDDEN', 'and not touch');
	refused($gateway->get('/api/admin/webhooks/failed', token => $plain->{token}), 403, 'FORBIDDEN', 'others not even look');
	refused($gateway->get('/api/admin/webhooks/failed'), 401, 'UNAUTHENTICATED', 'nor nobody');
	sql(q{create or replace function app.take(event keelson.incoming_event) returns void language plpgsql as $$ begin insert into app.effects (id) values (event.external_id); end $$});
	is($gateway->post("/api/admin/webhooks/failed/$one->{id}/retry", {}, token => $admin->{token})->{status}, 202, 'retried by hand');
	ok(wait_until(sub { @{ $failed->('?state=resolved') } == 2 }), 'resolved');
	refused($gateway->post("/api/admin/webhooks/failed/$one->{id}/retry", {}, token => $admin->{token}), 409, 'CONFLICT', 'once');
	my ($two) = grep { $_->{externalId} eq 'evt_bad_2' } @{ $failed->() };
	is($gateway->post("/api/admin/webhooks/failed/$two->{id}/dismiss", {}, token => $admin->{token})->{json}{data}{state}, 'resolved', 'or let be');
	# The job: what is due, also without a worker.
	sql("select keelson.workers_stop()");
	ok(wait_until(sub { sql("select count(*) from pg_stat_activity where backend_type = 'keelson incoming' and datname is not null") == 0 }), 'without a worker');
	sql("update keelson.incoming_events set due_at = now() where external_id = 'evt_bad_3'");
	$keelson->node->safe_psql('keelson', "call keelson.job_run('retry-failed-webhooks')");
	is(sql("select counts ->> 'retried' from keelson.job_runs where job = 'retry-failed-webhooks' order by id desc limit 1"), 1, 'the job retries what is due');
	is(sql("select state from keelson.failed_webhook_events where external_id = 'evt_bad_3'"), 'resolved', 'and resolves it');
	sql('select keelson.workers_start()');
	is(sql("select string_agg(id, ' ' order by id) from app.effects where id like 'evt_bad%'"), 'evt_bad_1 evt_bad_3', 'each effect once');
	my $health = $gateway->get('/webhooks/health');
	is($health->{status}, 200, 'health');
	is($health->{json}{data}{resolved}, 4, 'tells of them') or diag $health->{content};

	# Sources through HTTP.
	my $hook = sub { my ($method, $path, $data, $who) = @_; return $gateway->request($method => "/api/admin/webhooks/sources$path", token => ($who || $admin)->{token}, $data ? (json => $data) : ()); };
	is($hook->(PUT => '/billing', { preset => 'standard' })->{json}{data}{enabled}, JSON::PP::true, 'a source');
	my $added = $hook->(POST => '/billing/secrets', { secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw' });
	is($added->{status}, 201, 'its secret') or diag $added->{content};
	unlike($hook->(GET => $_)->{content}, qr/MfKQ9r8/, "GET $_ does not show it") for '', '/billing/secrets';
	my $signed = encode_base64(hmac_sha256('msg_1.' . int(time) . '.{"type": "invoice.paid"}', MIME::Base64::decode_base64('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')), '');
	my $told = $gateway->request(POST => '/webhooks/billing', body => '{"type": "invoice.paid"}', headers => { 'webhook-id' => 'msg_1', 'webhook-timestamp' => int(time), 'webhook-signature' => "v1,$signed" });
	is($told->{status}, 200, 'Standard Webhooks') or diag $told->{content};
	refused($hook->(PUT => '/billing', { settings => { schemes => [] } }), 400, 'VALIDATION_FAILED', 'odd settings');
	my $unknown = $hook->(PUT => '/other', { preset => 'none' });
	refused($unknown, 400, 'VALIDATION_FAILED', 'no such preset');
	like($unknown->{json}{hint}, qr/github.*standard.*stripe/, 'and those that there are');
	refused($hook->(PUT => '/billing', { enabled => JSON::PP::false }, $support), 403, 'FORBIDDEN', 'who may read may not write');
	is($hook->(DELETE => "/billing/secrets/$added->{json}{data}{id}")->{status}, 204, 'its secret removed');
	is($hook->(DELETE => '/billing')->{status}, 204, 'and it itself');
	refused($hook->(GET => '/billing/secrets'), 404, 'NOT_FOUND', 'gone');
	my @changes = map { $_->{data}{what} } @{ $gateway->get('/api/admin/audit?type=config.change&limit=100', token => $admin->{token})->{json}{data} };
	ok(grep({ $_ eq 'webhook secret removed' } @changes), 'all of it audited') or diag explain \@changes;
};

subtest 'limits are for those who cannot sign' => sub {
	my $strict = $keelson->gateway(KEELSON_RATE_LIMITS => 'on');
	local $gateway = $strict;
	sql("select keelson.network_exempt_remove('127.0.0.0/8')");
	is(scalar(grep { stripe(event('app.limit', {}))->{status} != 200 } 1 .. 130), 0, '130 signed deliveries in a minute');
	my $same = event('app.limit', {});
	is(scalar(grep { stripe($same)->{status} != 200 } 1 .. 130), 0, 'and of one that came before');
	my %count;
	$count{ stripe('{}', signature => 't=1,v1=00')->{status} }++ for 1 .. 130;
	ok($count{429} && $count{400}, 'and as many that are not: too many') or diag explain \%count;
	sql("select keelson.network_exempt('127.0.0.0/8', 'tests')");
};

# The worker looks from where it found the last: what a snapshot keeps in the index is not read again for each event.
subtest 'a snapshot held for long, and a commit that comes late' => sub {
	sql(q{create or replace function app.take(event keelson.incoming_event) returns void language plpgsql as $$ begin insert into app.effects (id) values (event.external_id); end $$});
	my $holder = $keelson->node->background_psql('keelson');
	$holder->query_safe('begin isolation level repeatable read; select count(*) from keelson.incoming_events');
	# Taken in, not yet committed: what comes after it is handled before.
	my $late = $keelson->node->background_psql('keelson');
	my $body = event('app.late', {}, id => 'evt_late');
	my $time = int(time);
	my $signature = hmac_sha256_hex("$time.$body", $secret);
	$late->query_safe("begin; select keelson.webhook_receive('stripe', '$body', '{\"stripe-signature\": \"t=$time,v1=$signature\"}')");
	my $entries = sub { return sql("select idx_tup_read from pg_stat_user_indexes where indexrelname = 'incoming_events_due_at_idx'") };
	my ($before, $events) = ($entries->(), 1000);
	sql("insert into keelson.incoming_events (id, source, external_id, event_type, headers, body, due_at)
		select keelson.uuid7(), 'stripe', 'evt_flat_' || n, 'app.flat', '{}', '{}', clock_timestamp() from generate_series(1, $events) as n; select keelson._incoming_wake()");
	# Not by the index, whose reads are counted.
	ok(wait_until(sub { sql("set enable_indexscan = off; set enable_bitmapscan = off; select count(*) from keelson.incoming_events where event_type = 'app.flat' and processed_at is null") == 0 }, 60), 'all are handled');
	ok(wait_until(sub { $entries->() - $before >= 2 * $events }, 20), 'as the statistics say');
	my $each = ($entries->() - $before) / $events;
	cmp_ok($each, '<', 20, "$each entries are read for each");
	$late->query_safe('commit');
	ok(is_settled(), 'the late one is handled');
	is(sql("select count(*) from app.effects where id = 'evt_late'"), 1, 'though others that were due later went before it');
	$_->quit for $late, $holder;
	sql("delete from keelson.incoming_events where event_type = 'app.flat'; delete from app.effects where id like 'evt_flat%'");
};

# A provider sends each until it is acknowledged; processes are killed meanwhile, at times from a fixed seed.
subtest 'kill -9' => sub {
	ok(is_settled(), 'nothing waits');
	sql(q{create or replace function app.take(event keelson.incoming_event) returns void language plpgsql as $$
		begin
			insert into app.effects (id) values (event.external_id);
			perform pg_sleep(0.02);
		end $$});
	my $events = 60;
	srand 20250115;
	my $pid = fork // die $!;
	if (!$pid)
	{
		for my $n (1 .. $events)
		{
			my $body = event('app.kill', {}, id => "evt_kill_$n");
			# A lost reply is as good as none.
			wait_until(sub { stripe($body)->{status} == 200 }, 60) or POSIX::_exit(1);
		}
		POSIX::_exit(0);
	}
	my $killed = 0;
	for my $turn (1 .. 6)
	{
		sleep(0.15 + rand 0.3);
		my $kind = $turn % 2 ? "backend_type = 'keelson incoming' and datname is not null" : "usename = 'keelson_gateway' and state <> 'idle'";
		my ($victim) = split /\n/, (try_sql_rows("select pid from pg_stat_activity where $kind limit 1") // '');
		$killed++ if $victim && $keelson->kill_process($victim);
	}
	waitpid $pid, 0;
	is($?, 0, 'every event was acknowledged');
	ok($killed >= 3, "$killed processes were killed");
	ok(wait_until(sub { (try_sql_rows("select count(*) from keelson.incoming_events where event_type = 'app.kill' and due_at is not null") // 'x') eq '0' }, 60), 'nothing waits');
	# What was met three times waits for a hand.
	sql("select keelson.webhook_retry(id) from keelson.failed_webhook_events where state = 'exhausted' and event_type = 'app.kill'");
	ok(is_settled(), 'nor after that');
	is(sql("select count(*), count(distinct id) from app.effects where id like 'evt_kill%'"), "$events|$events", 'each effect exactly once');
	is(sql("select count(*), count(processed_at) from keelson.incoming_events where event_type = 'app.kill'"), "$events|$events", 'each event stored once, and done');
};

# What the server says, if it can just now: psql may be gone before it has read the question.
sub try_sql_rows
{
	my ($query) = @_;
	my ($status, $output) = eval { local $SIG{PIPE} = 'IGNORE'; $keelson->try_sql($query) };
	return defined $status && $status == 0 ? $output : undef;
}

unlike($keelson->server_log . join('', map { $_->log_text } @{ $keelson->{gateways} }), qr/nobody_may_read|a shared secret of the crm|MfKQ9r8/, 'no secret in a log');
done_testing();
$keelson->stop;
