# Requests: who am I, by a signed token whose session is looked up; and one that writes a row and a sum. Keelson does more
# besides (limits, row-level security, a request's id, log and metrics), the peers do only this.

use strict;
use warnings;

use Bench;
use Bench::Peers;
use Bench::System;

my @connections = split /[ ,]+/, $ENV{BENCH_CONNECTIONS} || '32';
my $event = '{"feature":"speech","minutes":0.25}';

add_call('read',  'GET',  '/api/auth/me',      'GET auth/me',       undef);
add_call('write', 'POST', '/api/bench/events', 'POST bench/events', $event);
add_call('none',  'GET',  '/live',             undef,               undef);

my %rest = (
	read  => [ 'GET',  '/api/auth/me',      \&Bench::Peers::bearer, undef ],
	write => [ 'POST', '/api/bench/events', \&Bench::Peers::bearer, $event ]);
my %graphql = (
	read => [ 'POST', '/graphql', \&Bench::Peers::bearer,
		'{"query":"{ me { id email emailVerified name avatarUrl preferences roles createdAt } }"}' ],
	write => [ 'POST', '/graphql', \&Bench::Peers::bearer, '{"query":"mutation ($feature: String!, $minutes: Float!) '
		. '{ eventAdd(input: {feature: $feature, minutes: $minutes}) { monthTotal { month minutes requests } } }","variables":' . $event . '}' ]);

sub data { return $_[0]{data}; }
sub graphql_data { my $data = $_[0]{data} // die KeelsonTest::json_encode($_[0]), "\n"; return $data->{me} // $data->{eventAdd}{monthTotal}; }
sub auth_user { my $user = $_[0]{user}; return { map { $_ => $user->{$_} } qw(id email emailVerified createdAt) }; }

my %peers = (
	'express'       => { calls => \%rest, unwrap => \&data },
	'express-fn'    => { calls => \%rest, unwrap => \&data },
	'fastify-fn'    => { calls => \%rest, unwrap => \&data },
	'fastify-fn-1'  => { calls => \%rest, unwrap => \&data, program => 'fastify-fn', processes => 1 },
	'postgraphile'  => { calls => \%graphql, unwrap => \&graphql_data },
	'better-auth'   => { calls => { read => [ 'GET', '/api/auth/get-session', \&Bench::Peers::cookie, undef ] }, unwrap => \&auth_user });

my $is_prepared;

# Each must say of each person what Keelson says; better-auth knows less of them.
sub compare_reads
{
	my ($name) = @_;
	for my $person (people)
	{
		my $ours = gateway->get('/api/auth/me', token => $person->{token})->{json}{data};
		my $theirs = $peers{$name}{unwrap}->(peer_ask($name, $peers{$name}{calls}{read}, $person));
		$ours = { map { $_ => $ours->{$_} } keys %$theirs } if $name eq 'better-auth';
		same_value($ours) eq same_value($theirs) or die "$name says ", same_value($theirs), " instead of ", same_value($ours), "\n";
	}
	return;
}

# Two writes of a person, from nothing, must answer as Keelson's do.
sub compare_writes
{
	my ($name) = @_;
	my $person = (people)[0];
	keelson->sql('truncate bench.events, bench.totals, peer.events, peer.totals');
	for (1 .. 2)
	{
		my $ours = gateway->post('/api/bench/events', KeelsonTest::json_decode($event), token => $person->{token})->{json}{data};
		my $theirs = $peers{$name}{unwrap}->(peer_ask($name, $peers{$name}{calls}{write}, $person));
		same_value($ours) eq same_value($theirs) or die "$name says ", same_value($theirs), " instead of ", same_value($ours), "\n";
	}
	return;
}

sub prepare
{
	return if $is_prepared++;
	prepare_peers();
	for my $name (sort keys %peers)
	{
		start_peer($name, %{ $peers{$name} });
		compare_reads($name);
		compare_writes($name) if $peers{$name}{calls}{write};
	}
	for my $name (sort keys %peers)
	{
		warm_peer($_, $name) for grep { $peers{$name}{calls}{$_} } qw(read write);
	}
	unkept(sub { run_gateway($_, 32); run_bare_gateway($_, 32) }) for qw(read write);
	keelson->sql('truncate bench.events, bench.totals, peer.events, peer.totals');
	return;
}

# Whoever can answer a call, each run once; and what part each reaches of what Keelson does.
sub run_all
{
	my ($what, $connections, $function) = @_;
	return unless wanted("$what.$connections");
	my %run = (
		keelson  => sub { my $sample = run_gateway($what, $connections); $sample->{memory_mib} = private_mib(gateway->pid); return $sample; },
		pgbench  => sub { run_pgbench($what, $connections) },
		function => sub { run_function($what, $connections, $function) },
		'bare-gateway' => sub { run_bare_gateway($what, $connections) });
	for my $name (grep { $peers{$_}{calls}{$what} } keys %peers)
	{
		$run{$name} = sub { my $sample = run_peer($what, $connections, $name); $sample->{memory_mib} = peer_memory($name); return $sample; };
	}
	my %sample = map { $_ => $run{$_}->() } in_turn("$what.$connections", sort keys %run);
	relate(\%sample, "$what.$connections");
	return;
}

sub run_round
{
	my ($connections) = @_;
	run_all('read', $connections, 'select peer.me(:session_id, :user_id);');
	run_all('write', $connections, q{select peer.event_add(:session_id, :user_id, 'speech', 0.25);});
	return;
}

measure('requests', sub {
	prepare();
	run_round($_) for @connections;
	run_gateway('none', 32);
	run_bare('none', 32);
});

1;
