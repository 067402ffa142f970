# Keys that issuers publish: fetched off the path of requests, from an issuer on loopback that rotates them, fails, hangs,
# and sends what is no key set.

use strict;
use warnings;

use KeelsonTest;
use KeelsonTest::Sink;
use Test::More;

-d "$KeelsonTest::root/regress/node_modules/jose" or plan skip_all => 'the library jose is not there';

my @tls     = KeelsonTest::Sink::certificate($ENV{TESTDIR});
my $keelson = KeelsonTest->new('jwks',
	conf => "keelson.environment = development\nkeelson.allow_private_targets = on\nkeelson.courier_ca_file = '$tls[1]'");
my $gateway = $keelson->gateway(KEELSON_ENV => 'development');
my $sink    = KeelsonTest::Sink->new('issuer', tls => \@tls);
my $issuer  = 'https://login.example.com';
my $keys    = json_decode(scalar `node '$KeelsonTest::root/regress/jose/rotation.js' '$issuer' our-api 6`);
my $url     = $sink->url('/as/mode');

sub status { return $gateway->get('/api/auth/me', token => $keys->[ $_[0] ]{token})->{status} }
sub publish { return $sink->put('keys', json_encode({ keys => [ map { $keys->[$_]{jwk} } @_ ] })) }
sub mode { return $sink->put(mode => $_[0]) }
sub fetches { return scalar $sink->requests('/as/mode') }
sub state_of { return $keelson->sql("select failures, error, fetched_at is not null from keelson.issuer_fetches") }
sub counted { return $keelson->sql("select value::int from keelson.gateway_metrics() where name = 'keelson_issuer_fetches_total' and labels ->> 'outcome' = '$_[0]'") }

# As if half a minute had passed since the last fetch was asked for.
my $later = "update keelson.issuer_fetches set asked_at = asked_at - interval '31 seconds'";
sub later { return $keelson->sql($later) }

# Fetches and waits for what comes of it.
sub fetch
{
	my ($what) = @_;
	my $before = counted($what);
	# At once: the keeper, which may want keys itself, is not to come in between.
	is($keelson->sql("begin; $later; select keelson.issuer_fetch('$issuer'); commit"), 't', 'asked for');
	return ok(wait_until(sub { counted($what) > $before }, 20), "fetched: $what");
}

publish(0);
mode('/file/keys');
$sink->put('keys.headers', '{"cache-control": "public, max-age=7200"}');
is(status(0), 401, 'before the issuer is known its tokens are nothing');

subtest 'the first keys' => sub {
	$keelson->sql("select keelson.issuer_add('$issuer', '{our-api}', jwks_url => '$url')");
	ok(wait_until(sub { status(0) == 200 }, 20), 'are fetched at once');
	is(state_of(), '0||t', 'noted');
	is($keelson->sql('select extract(epoch from due_at - fetched_at)::int from keelson.issuer_fetches'), 7200, 'and again after max-age');
	my ($request) = $sink->requests('/as/mode');
	is("$request->{method} $request->{headers}{accept}", 'GET application/jwk-set+json, application/json', 'as they are asked for');
	is($keelson->sql("select keelson.issuer_fetch('$issuer')"), 'f', 'not twice within half a minute');
};

subtest 'rotation' => sub {
	publish(0, 1);
	my $before = fetches();
	is(status(1), 401, 'a token that names a key which is not known waits for nothing');
	status(1) for 1 .. 20;
	is(fetches(), $before, 'within half a minute nothing is fetched');
	later();
	ok(wait_until(sub { status(1) == 200 }, 20), 'then soon it is good');
	is(fetches(), $before + 1, 'by one fetch');
	is(status(0), 200, 'the old key counts while it is published');
	is($keelson->sql("select count(*) from keelson.audit_events where event_type = 'config.change' and data ->> 'what' = 'issuer''s keys fetched'"), 2, 'the trail has each change');
	publish(1);
	fetch('changed');
	is(status(0), 401, 'no more when it is not');
	is(status(1), 200, 'the present one does');
	fetch('unchanged');
};

subtest 'names made up' => sub {
	my $before = fetches();
	is(status(0), 401, 'a key that is published no more');
	later();
	ok(wait_until(sub { fetches() > $before }, 20), 'is looked for once');
	ok(wait_until(sub { $keelson->sql('select count(*) from keelson.deliveries') == 0 }, 20), 'in vain');
	$before = fetches();
	for (1 .. 3)
	{
		later();
		status(0);
	}
	(my $head = $keys->[0]{token}) =~ s/\..*//;
	is($gateway->get('/api/auth/me', token => "$head.e30.AAAA")->{status}, 401, 'signed or not');
	$keelson->sql("select keelson.issuer_fetch('$issuer')");
	ok(wait_until(sub { fetches() > $before }, 20), 'what an administrator asks for');
	is(fetches(), $before + 1, 'is the only fetch');
};

subtest 'an issuer that fails' => sub {
	$sink->put(garbage => "\0\xff no key set");
	$sink->put(secret => '{"keys": [{"kty": "oct", "kid": "1", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr0"}]}');
	$sink->put(empty => '{"keys": []}');
	$sink->put(many => json_encode({ keys => [ map { { %{ $keys->[0]{jwk} }, kid => "k$_" } } 1 .. 33 ] }));
	$sink->put(words => 'Sign in, please');
	my %faults = (
		'/status/500'                   => 'it was not answered with status 200',
		'/status/204'                   => 'it was not answered with status 200',
		'/redirect?to=https://127.0.0.1:1/' => 'it was not answered with status 200',
		'/reset'                        => qr/the connection was |the response broke the rules/,
		'/partial'                      => qr/the connection was |the response broke the rules/,
		'/huge'                         => 'the answer has more than 64 KiB',
		'/file/garbage'                 => 'the answer is no text',
		'/file/words'                   => 'the key set cannot be used: it is not a JSON object of at most 64 KiB',
		'/file/empty'                   => 'the key set cannot be used: it holds no key that we can verify with',
		'/file/many'                    => 'the key set cannot be used: it holds too many keys',
		'/file/secret'                  => 'the key set cannot be used: ',
		'/hang'                         => 'there was no complete response in time');
	my $failures = 0;
	for my $fault (sort keys %faults)
	{
		mode($fault);
		# The courier's own breaker is another matter.
		$keelson->sql('select keelson.courier_breaker_set(lane, \'closed\') from keelson.courier_lanes');
		fetch('failed');
		$failures++;
		my $error = ref $faults{$fault} ? $faults{$fault} : quotemeta $faults{$fault};
		like(state_of(), qr/^$failures\|(?:$error).*\|t$/, $fault);
		is(status(1), 200, 'the keys that are known stay');
	}
	is($keelson->sql("select due_at between now() + interval '50 minutes' and now() + interval '1 hour' from keelson.issuer_fetches"), 't', 'tried again after a while that grows to an hour');
	my $admin = $keelson->user($gateway);
	$keelson->sql("select keelson.role_grant('$admin->{id}', 'admin')");
	my $row = $gateway->get('/api/admin/issuers', token => $admin->{token})->{json}{data}[0];
	is($row->{fetchFailures}, $failures, 'administrators see it');
	is($row->{fetchError}, $faults{'/status/500'}, 'and why the last of them was one');
	like($row->{keysFetchedAt}, qr/Z$/, 'and how old the keys are');
	like($keelson->sql('select keelson._alert_issuer_keys(5, now())'), qr/\Q$issuer\E \(.+\)$/, 'an alert says so');
	is($keelson->sql("select keelson._alert_issuer_keys($failures + 1, now())"), '', 'if they are many');
	like($gateway->get('/metrics')->{content}, qr/^keelson_issuer_fetch_failures\{issuer="\Q$issuer\E"\} $failures$/m, 'as do those who watch');
	$sink->stop;
	$keelson->sql('select keelson.courier_breaker_set(lane, \'closed\') from keelson.courier_lanes');
	fetch('failed');
	is(status(1), 200, 'gone altogether, too');
};

subtest 'it is back, with other keys' => sub {
	mode('/file/keys');
	publish(2);
	$sink->put('keys.headers', '{"cache-control": "no-store"}');
	$sink->move(@tls);
	$url = $sink->url('/as/mode');
	$keelson->sql("select keelson.issuer_change('$issuer', jwks_url => '$url')");
	ok(wait_until(sub { status(2) == 200 }, 20), 'at another address, at once');
	is(status(1), 401, 'the old one is gone');
	is($keelson->sql('select failures, error, extract(epoch from due_at - fetched_at)::int from keelson.issuer_fetches'), '0||3600', 'an hour without max-age');
	$sink->put('keys.headers', '{"cache-control": "max-age=1"}');
	fetch('unchanged');
	is($keelson->sql('select extract(epoch from due_at - fetched_at)::int from keelson.issuer_fetches'), 300, 'five minutes at least');
	$sink->put('keys.headers', '{"cache-control": "max-age=31536000"}');
	fetch('unchanged');
	is($keelson->sql('select extract(epoch from due_at - fetched_at)::int from keelson.issuer_fetches'), 86400, 'a day at most');
};

subtest 'by its time, and not when it is switched off' => sub {
	publish(3);
	$keelson->sql("update keelson.issuer_fetches set asked_at = null, due_at = now() - interval '1 second'");
	# The keeper looks every half minute; a restart makes it look now.
	$keelson->node->restart;
	ok(wait_until(sub { status(3) == 200 }, 30), 'due, they are fetched');
	$keelson->sql("select keelson.issuer_disable('$issuer')");
	my $before = fetches();
	$keelson->sql("update keelson.issuer_fetches set asked_at = null, due_at = now() - interval '1 second'");
	is($keelson->sql("select count(*) from keelson._issuers_fetch_due('{}')"), 0, 'disabled, nothing is due');
	is($keelson->sql('select count(*) from keelson.deliveries'), 0, 'nothing is sent');
	publish(4);
	$keelson->sql("select keelson.issuer_enable('$issuer')");
	ok(wait_until(sub { status(4) == 200 }, 20), 'enabled, they are fetched at once');
	is(fetches(), $before + 1, 'once');
	$keelson->sql("select keelson.issuer_remove('$issuer')");
	is($keelson->sql('select count(*) from keelson.issuer_fetches'), 0, 'removed, nothing is left');
};

subtest 'where it may not go' => sub {
	my $add = sub { return ($keelson->try_sql("select keelson.issuer_add('https://other.example', '{our-api}', jwks_url => '$_[0]')"))[2] };
	like($add->('http://127.0.0.1/keys'), qr/begins with https/, 'not in the clear');
	like($add->('https://user:pass@login.example.com/keys'), qr/has no user name/, 'nor with a password in it');
	$keelson->node->append_conf('postgresql.conf', 'keelson.allow_private_targets = off');
	$keelson->node->reload;
	wait_until(sub { $keelson->sql('show keelson.allow_private_targets') eq 'off' });
	like($add->($url), qr/uses one of the ports|private, local or reserved/, 'nor inside');
};

$keelson->stop;
done_testing();
