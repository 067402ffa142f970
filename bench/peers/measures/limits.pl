# Rate limits: a decision by itself, over ten thousand callers; and what limiting adds to the request "who am I": of Keelson,
# whose limits are in the memory of the server, and of the fastest peer with rate-limiter-flexible, which counts in Redis or
# in PostgreSQL. Neither process is the other's: in one process of node a limit is not shared with the next.

use strict;
use warnings;

use Bench;
use Bench::Peers;
use Bench::System;

my @stores = qw(redis postgres);
my ($is_prepared, $redis, $socket);

add_call('read', 'GET', '/api/auth/me', 'GET auth/me', undef);

my %read = (read => [ 'GET', '/api/auth/me', \&Bench::Peers::bearer, undef ]);

sub start_redis
{
	$socket = work_folder() . '/redis.sock';
	($redis) = start_command('redis-server', '--port', 0, '--unixsocket', $socket, '--save', '', '--appendonly', 'no', '--loglevel', 'warning');
	KeelsonTest::wait_until(sub { -S $socket }, 10) or die "redis did not start\n";
	$Bench::System::versions{redis} = `redis-server --version` =~ /v=(\S+)/ ? $1 : 'unknown';
	return;
}

END { local $?; if ($redis) { kill 'TERM', $redis; waitpid $redis, 0; } }

# What bench/peers/decide.js says.
sub decide
{
	my ($store, $what) = @_;
	local %ENV = (%ENV, node_environment(), POOL => pool_size(), REDIS_SOCKET => $socket);
	my ($pid, $said) = start_command('node', "$FindBin::Bin/peers/decide.js", $store, $what);
	my $line = join '', <$said>;
	waitpid $pid, 0;
	my %got = $line =~ /(\w+)=([\d.]+)/g;
	%got or die "decide.js: $line\n";
	return %got;
}

# Of twelve requests in a minute a limit of five lets five through, whoever decides.
sub check_limits
{
	for my $store (@stores)
	{
		my %got = decide($store, 'check');
		$got{allowed} == 5 or die "$store allows $got{allowed} of 12 where 5 are allowed\n";
	}
	keelson->sql(q{select keelson.rate_limit_set('general', 5)});
	my $person = (people)[100];
	my $allowed = grep { gateway->get('/api/auth/me', token => $person->{token})->{status} == 200 } 1 .. 12;
	keelson->sql(q{select keelson.rate_limit_set('general', 1000000000)});
	$allowed == 5 or die "Keelson allows $allowed of 12 where 5 are allowed\n";
	return;
}

sub prepare
{
	return if $is_prepared++;
	prepare_peers();
	start_redis();
	check_limits();
	start_peer('fastify-fn', calls => \%read);
	start_peer("limited-$_", calls => \%read, program => 'fastify-fn', environment => { LIMITER => $_, REDIS_SOCKET => $socket }) for @stores;
	warm_peer('read', $_) for 'fastify-fn', map { "limited-$_" } @stores;
	unkept(sub { run_gateway('read', 32) });
	return;
}

sub run_decisions
{
	keep('decision.1.keelson', unit => 'us', value => keelson->sql('select keelson._limits_speed(200000, 1, 10000, 1000000)'));
	for my $store (in_turn('decision', @stores))
	{
		my @before = (server_cpu(), process_cpu($redis));
		my %got = decide($store, $Bench::System::seconds);
		# It warms up for two seconds, in which it decides as fast as later.
		my $decided = $got{decided} * (1 + 2 / $Bench::System::seconds);
		my $stored = (server_cpu() - $before[0] + process_cpu($redis) - $before[1]) * 1e6 / $decided;
		keep("decision.1.$store", unit => 'us', value => $got{cpu_us} + $stored, cpu_us => $got{cpu_us} + $stored, gateway_us => $got{cpu_us},
			server_us => $stored);
	}
	return;
}

# Requests through the gateway while nothing counts them.
sub run_exempt
{
	keelson->sql(q{select keelson.network_exempt('127.0.0.0/8', 'benchmark')});
	my $sample = unkept(sub { run_gateway('read', 32) });
	keelson->sql(q{select keelson.network_exempt_remove('127.0.0.0/8')});
	return $sample;
}

# The CPU time of Redis is part of a request that asks it.
sub run_limited
{
	my ($store) = @_;
	my $before = process_cpu($redis);
	my $sample = unkept(sub { run_peer('read', 32, "limited-$store") });
	my $us = (process_cpu($redis) - $before) * 1e6 / $sample->{requests};
	return { %$sample, cpu_us => $sample->{cpu_us} + $us, server_us => $sample->{server_us} + $us };
}

sub run_requests
{
	my %run = (
		'keelson'      => sub { unkept(sub { run_gateway('read', 32) }) },
		'exempt'       => \&run_exempt,
		'fastify-fn'   => sub { unkept(sub { run_peer('read', 32, 'fastify-fn') }) },
		map { my $store = $_; ("limited-$store" => sub { run_limited($store) }) } @stores);
	my %sample = map { $_ => keep("limited.32.$_", %{ $run{$_}->() }) } in_turn('limited', sort keys %run);
	for my $pair ([ 'keelson', 'exempt' ], map { [ "limited-$_", 'fastify-fn' ] } @stores)
	{
		my ($with, $without) = @$pair;
		@{ $sample{$with} }{qw(ratio ratio_to)} = ($sample{$with}{value} / $sample{$without}{value}, "limited.32.$without");
	}
	return;
}

measure('limits', sub {
	prepare();
	run_decisions() if wanted('decision');
	run_requests()  if wanted('limited');
});

1;
