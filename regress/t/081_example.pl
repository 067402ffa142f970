# The example product, examples/invoices, under what its README does not show: many at once, the quota's edge, the webhook's
# event, what other users see, erasure, and the file put in again while requests come.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('example');
my $gateway = $keelson->gateway;
my $product = 'begin;' . slurp("$KeelsonTest::root/examples/invoices/invoices.sql") . 'commit;';
my $invoice = { customer => 'Analytical Engines', amount => 120.5 };

$keelson->sql($product);
$keelson->sql(q{select keelson.tier_set('team', 'Team', rank => 15); select keelson.tier_limit_set('team', 'invoices', 40, is_hard => true)});
my ($ada, $eve) = map { $keelson->user($gateway, email => "$_\@invoices.example.com") } qw(ada eve);
$keelson->sql(q{select keelson.user_tier_set('ada@invoices.example.com', 'team')});
ok(wait_until(sub { $gateway->get('/api/invoices', token => $eve->{token})->{status} == 200 }, 2), 'it is served');

subtest 'many at once, and the file anew meanwhile' => sub {
	my $load = $gateway->load(6, sub {
		my ($number, $count) = @_;
		return if $count > 50;
		return $gateway->post('/api/invoices', $invoice, token => $ada->{token})->{status};
	});
	my $replaced = 0;
	my %statuses;
	my $is_over = wait_until(sub {
		my ($exit, undef, $messages) = $keelson->try_sql($product);
		is($exit, 0, 'the file can be put in while requests come') or diag $messages;
		$replaced++;
		return $load->lines == 300;
	}, 60);
	$statuses{$_}++ for $load->stop;
	ok($is_over, "all were answered while it was put in $replaced times");
	is_deeply(\%statuses, { 201 => 40, 429 => 260 }, 'exactly what the quota allows, and nothing else') or diag explain \%statuses;
	is($keelson->sql("select count(*) || ' ' || min(number) || ' ' || max(number) from invoices.invoices where user_id = '$ada->{id}'"),
		'40 1 40', 'numbers have no gaps');
};

subtest 'pages' => sub {
	my (@numbers, $cursor);
	do
	{
		my $page = $gateway->get('/api/invoices?limit=15' . ($cursor ? "&cursor=$cursor" : ''), token => $ada->{token})->{json};
		push @numbers, map { $_->{number} } @{ $page->{data} };
		$cursor = $page->{meta}{pagination}{nextCursor};
	} while ($cursor);
	is_deeply(\@numbers, [ reverse 1 .. 40 ], 'each once, the latest first');
};

subtest 'what others have' => sub {
	my $id = $gateway->get('/api/invoices?limit=1', token => $ada->{token})->{json}{data}[0]{id};
	is($gateway->post("/api/invoices/$id/pay", {}, token => $eve->{token})->{status}, 404, 'is not there to be paid');
	is_deeply($gateway->get('/api/invoices', token => $eve->{token})->{json}{data}, [], 'nor seen');
	is($gateway->post('/api/invoices', $invoice, token => $eve->{token})->{json}{data}{number}, 1, 'and numbers are one\'s own');
};

subtest 'the event' => sub {
	$gateway->post('/api/webhooks', { url => 'https://example.com/hooks', events => ['invoice.*'] }, token => $ada->{token});
	my $id = $gateway->get('/api/invoices?limit=1', token => $ada->{token})->{json}{data}[0]{id};
	is($gateway->post("/api/invoices/$id/pay", {}, token => $ada->{token})->{status}, 200, 'paid');
	is($gateway->post("/api/invoices/$id/pay", {}, token => $ada->{token})->{status}, 404, 'once');
	is($keelson->sql("select count(*) || ' ' || min(body::jsonb #>> '{data,id}') || ' ' || bool_and(body::jsonb -> 'data' ? 'paidAt') from keelson.webhook_events where event_type = 'invoice.paid'"),
		"1 $id true", 'one event, as replies write it');
};

subtest 'leaving' => sub {
	my @exported = grep { $_->{table} eq 'invoices.invoices' } @{ $gateway->get('/api/user/export', token => $ada->{token})->{json} };
	is(@exported, 40, 'the export has all');
	is($gateway->delete("/api/users/$ada->{id}", token => $ada->{token})->{status}, 200, 'deleted');
	$keelson->sql("update keelson.users set deleted_at = deleted_at - interval '1 year' where id = '$ada->{id}'");
	$keelson->sql('select keelson.users_erase()');
	is($keelson->sql('select string_agg(distinct user_id::text, \' \') from invoices.invoices'), $eve->{id}, 'erased, and nobody else\'s');
};

subtest 'the description' => sub {
	my $api = $gateway->get('/api/openapi.json')->{json};
	my $post = $api->{paths}{'/api/invoices'}{post};
	is($post->{summary}, 'Write an invoice', 'has the endpoint');
	is($api->{components}{schemas}{InvoicesApiCustomer}{description}, 'A customer\'s name has 1 to 200 characters.', 'and the domains, by a name without underscores');
	ok((grep { $_ eq 'QUOTA_EXCEEDED' } @{ $post->{responses}{429}{content}{'application/json'}{schema}{allOf}[1]{properties}{code}{enum} }), 'and the errors');
};

done_testing();
$keelson->stop;
