# Idempotency-Key: the first reply is kept and returned again (contract, part 2).

use strict;
use warnings;

use KeelsonTest;
use Test::More;
use Time::HiRes qw(time);

my $keelson = KeelsonTest->new('idempotency');
$keelson->product;
my $gateway = $keelson->gateway;
my ($ada, $eve) = map { $keelson->user($gateway) } 1 .. 2;

sub add
{
	my ($user, $key, $data, %options) = @_;
	return $gateway->post($options{path} || '/api/product/notes', $data, token => $user->{token},
		fresh => $options{fresh}, headers => { 'Idempotency-Key' => $key });
}

sub notes { my ($text) = @_; return $keelson->sql("select count(*) from product.notes where text = '$text'"); }

my $first = add($ada, 'key-1', { text => 'first' });
is($first->{status}, 201, 'the first');
ok(!$first->{headers}{'idempotency-replayed'}, 'is no replay');
my $second = add($ada, 'key-1', { text => 'first' });
is($second->{status}, 201, 'the same again');
is($second->{headers}{'idempotency-replayed'}, 'true', 'is a replay');
is_deeply($second->{json}{data}, $first->{json}{data}, 'of the first reply');
isnt($second->{headers}{'x-request-id'}, $first->{headers}{'x-request-id'}, 'with a request id of its own');
is(notes('first'), 1, 'and nothing was done twice');

my $other = add($ada, 'key-1', { text => 'another' });
is("$other->{status} $other->{json}{code}", '409 IDEMPOTENCY_CONFLICT', 'the key with another body');
$other = add($ada, 'key-1', { text => 'first' }, path => '/api/product/notes/refused');
is("$other->{status} $other->{json}{code}", '409 IDEMPOTENCY_CONFLICT', 'the key with another endpoint');
is(add($eve, 'key-1', { text => 'first' })->{status}, 201, 'somebody else\'s key of the same name is another');
is(notes('first'), 2, 'and does its own');

my $refused = add($ada, 'key-2', { text => 'refused' }, path => '/api/product/notes/refused');
my $again = add($ada, 'key-2', { text => 'refused' }, path => '/api/product/notes/refused');
is("$again->{status} $again->{json}{code} $again->{json}{challenge}", '403 NOT_TODAY abc', 'a refusal that committed is kept');
is($again->{headers}{'retry-after'}, 7, 'with its headers');
is(notes('refused'), 1, 'and its work is not done twice');

is(add($ada, 'key-3', { text => 'forbidden' })->{status}, 400, 'what rolled back');
is(add($ada, 'key-3', { text => 'allowed' })->{status}, 201, 'keeps nothing: the key is free');

for my $bad ('', 'x' x 256)
{
	my $reply = add($ada, $bad, { text => 'bad key ' . length $bad });
	ok($reply->{status} == 400 || $bad eq '' && $reply->{status} == 201, 'a key of ' . length($bad) . ' characters') or diag $reply->{content};
}
is($keelson->sql("select count(*) from keelson.idempotency_keys where position('first'::bytea in reply) > 0"), 0, 'replies are sealed');
cmp_ok($keelson->sql('select count(*) from keelson.idempotency_keys'), '>', 2, 'and kept');

subtest 'one in flight' => sub {
	my $slow = $gateway->load(1, sub {
		my (undef, $count) = @_;
		return if $count > 1;
		return add($ada, 'key-4', { text => 'slow', seconds => 2 * $KeelsonTest::slow }, path => '/api/product/notes/slow', fresh => 1)->{status};
	});
	wait_until(sub { $keelson->sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'") > 0 }) or fail('the slow one runs');
	my $started = time();
	my $reply = add($ada, 'key-4', { text => 'slow', seconds => 2 * $KeelsonTest::slow }, path => '/api/product/notes/slow');
	is("$reply->{status} $reply->{json}{code}", '409 IDEMPOTENCY_IN_PROGRESS', 'is told');
	cmp_ok(time() - $started, '<', 1 * $KeelsonTest::slow, 'without waiting');
	wait_until(sub { ($slow->lines)[0] }) or fail('the slow one ends');
	is(($slow->stop)[0], 201, 'the one in flight goes on');
	is(add($ada, 'key-4', { text => 'slow', seconds => 2 * $KeelsonTest::slow }, path => '/api/product/notes/slow')->{headers}{'idempotency-replayed'},
		'true', 'and is replayed then');
};

subtest 'many at once' => sub {
	my $load = $gateway->load(8, sub {
		my (undef, $count) = @_;
		return if $count > 1;
		return add($ada, 'key-5', { text => 'parallel' }, fresh => 1)->{status};
	});
	wait_until(sub { 8 == (() = $load->lines) }) or fail('all answered');
	my %seen;
	$seen{$_}++ for $load->stop;
	is(notes('parallel'), 1, 'one does the work');
	is(($seen{201} || 0) + ($seen{409} || 0), 8, 'the others get its reply or are told to wait') or diag explain \%seen;
};

subtest 'where it does not count' => sub {
	my $reply = $gateway->post('/api/product/echo', { name => 'Ada' }, headers => { 'Idempotency-Key' => 'open' });
	is($reply->{status}, 200, 'a caller whom nobody knows');
	$reply = $gateway->post('/api/product/echo', { name => 'Eve' }, headers => { 'Idempotency-Key' => 'open' });
	is($reply->{json}{data}{name}, 'Eve', 'has no keys');
	my $made = $gateway->post('/api/user/access-keys', { name => 'key', scopes => ['usage.write'] }, token => $ada->{token});
	for my $name ('Ida', 'Ivy')
	{
		$reply = $gateway->post('/api/product/echo', { name => $name }, headers => { 'Idempotency-Key' => 'open', 'X-API-Key' => $made->{json}{data}{key} });
		is($reply->{status}, 200, 'an access key where everybody may call') or diag $reply->{content};
		is($reply->{json}{data}{name}, $name, 'is nobody too');
	}
	$reply = $gateway->get('/api/product/whoami', token => $ada->{token}, headers => { 'Idempotency-Key' => 'key-1' });
	is($reply->{status}, 200, 'nor has a GET');
};

done_testing();
$keelson->stop;
