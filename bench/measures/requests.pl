# Requests through the gateway beside pgbench, the gateway without a database, memory, and how soon all is well after a
# restart of the server.

use strict;
use warnings;
use Time::HiRes qw(sleep time);

use Bench;
use Bench::System;

my @connections = grep { $_ } split /[ ,]+/, $ENV{BENCH_CONNECTIONS} || '1,8,32,128,256,512';

add_call('read',  'GET',  '/api/auth/me',      'GET auth/me',       undef);
add_call('write', 'POST', '/api/bench/events', 'POST bench/events', '{"feature":"speech","minutes":0.25}');
add_call('none',  'GET',  '/live',             undef,               undef);

aim_ratio(
	'read.1' => [ .55, .50 ], 'read.8' => [ .50, .41 ], 'read.32' => [ .85, .71 ], 'read.128' => [ .90, .75 ],
	'read.512' => [ .75, .54 ],
	'write.1' => [ .65, .59 ], 'write.8' => [ .75, .65 ], 'write.32' => [ 1.0, .92 ], 'write.128' => [ .95, .82 ],
	'write.512' => [ .90, .81 ]);
aim_cpu(
	'gateway CPU per read at 32, µs'                          => [ 18, 18.9 ],
	'gateway CPU without database at 128, µs'                 => [ 8,  8 ],
	'client, gateway and server CPU of GET auth/me at 32, µs' => [ 60, 60 ]);
aim_cost(
	'gateway memory at 128 connections, MiB'                  => [ 14,  14 ],
	'gateway memory per idle connection, KiB'                 => [ 33,  36.7 ],
	'first good reply after a restart, ms'                    => [ 250, 250 ]);

# New tokens are verified once by each connection: not while it is measured.
sub warm
{
	unkept(sub { run_gateway('read', 32) });
	unkept(sub { run_bare_gateway('write', 32) }) if wanted('write');
	return;
}

sub run_read
{
	my ($connections) = @_;
	return unless wanted("read.$connections");
	my $reference = run_pgbench('read', $connections);
	my $sample = beside(run_gateway('read', $connections), $reference, "read.$connections.pgbench");
	return unless $connections == 32;
	cost('gateway CPU per read at 32, µs', $sample->{gateway_us});
	cost('client, gateway and server CPU of GET auth/me at 32, µs', $sample->{cpu_us});
	return;
}

# Where the disk is fast, writes are bound by the processors, and pgbench has no gateway that takes its part of them. A bare
# gateway shows what is left for one. What one has written leaves the next some work.
sub run_write
{
	my ($connections) = @_;
	return unless wanted("write.$connections");
	my %run = (pgbench => \&run_pgbench, keelson => \&run_gateway, bare => \&run_bare_gateway);
	my %sample = map { $_ => $run{$_}->('write', $connections) } in_turn("write.$connections", sort keys %run);
	beside($sample{$_}, $sample{pgbench}, "write.$connections.pgbench") for qw(keelson bare);
	most_possible("write.$connections", $sample{bare}{ratio});
	return;
}

# A sample with its ratio to the reference of the same round.
sub beside
{
	my ($sample, $reference, $id) = @_;
	@$sample{qw(ratio ratio_to)} = ($sample->{value} / $reference->{value}, $id);
	return $sample;
}

sub run_none
{
	my ($connections) = @_;
	return unless wanted("none.$connections");
	my $sample = run_gateway('none', $connections);
	yardstick('bare', run_bare('none', $connections)->{cpu_us}) if $connections == 32;
	cost('gateway CPU without database at 128, µs', $sample->{gateway_us}) if $connections == 128;
	return;
}

# The memory of a gateway that has served so many connections and no more.
sub run_memory
{
	return unless wanted('memory');
	my $gateway = keelson->gateway(KEELSON_LOG_LEVEL => 'info', KEELSON_POOL => '');
	Bench::System::run_wrk('read', 128, $gateway->port);
	my $used = resident_kib($gateway->pid) / 1024;
	$gateway->stop;
	keep('memory.128.keelson', unit => 'MiB', value => $used);
	cost('gateway memory at 128 connections, MiB', $used);
	return;
}

# What an idle connection costs in memory.
sub run_idle
{
	return unless wanted('idle');
	my $count = 1000;
	my $before = resident_kib(gateway->pid);
	my @idle = map { gateway->connect } 1 .. $count;
	syswrite $_, "GET /live HTTP/1.1\r\nHost: bench\r\n\r\n" for @idle;
	KeelsonTest::Gateway::read_reply($_) for @idle;
	my $each = (resident_kib(gateway->pid) - $before) / $count;
	keep('memory.idle.keelson', unit => 'KiB', value => $each);
	cost('gateway memory per idle connection, KiB', $each);
	return;
}

# How long after the server is back the first request succeeds.
sub run_restart
{
	return unless wanted('restart');
	keelson->node->restart('fast');
	my $since = time();
	while (gateway->get('/api/auth/me', token => (people)[0]{token}, fresh => 1)->{status} != 200)
	{
		die "the gateway did not recover\n" if time() - $since > 30;
		sleep 0.002;
	}
	my $took = (time() - $since) * 1000;
	keep('restart.1.keelson', unit => 'ms', value => $took);
	cost('first good reply after a restart, ms', $took);
	return;
}

measure('requests', sub {
	warm() if wanted('read') || wanted('write');
	for my $connections (@connections)
	{
		run_read($connections);
		run_write($connections);
		run_none($connections);
	}
});
measure_once('memory', \&run_memory);
measure_once('idle', \&run_idle);
measure_once('restart', \&run_restart);

1;
