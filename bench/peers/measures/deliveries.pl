# Webhook deliveries out of a queue that is in PostgreSQL: events of 250 bytes, signed, to a local receiver that answers at
# once and to one that takes 50 ms, 64 requests under way, by one process. Peers wait (stopped) while their queue is filled.

use strict;
use warnings;
use IO::Socket::INET;
use Time::HiRes ();

use Bench;
use Bench::Courier;
use Bench::Peers;
use Bench::System;

my @workers = qw(skip-locked pg-boss graphile-worker);
my $body = '{"type":"bench.happened","timestamp":"2026-01-01T00:00:00Z","data":{"text":"' . 'x' x 171 . '"}}';
$Bench::System::users = 8;
my $is_prepared;

# A peer's program, until it ends; or its process, if it is to run.
sub worker
{
	my ($name, $act, @words) = @_;
	local %ENV = (%ENV, node_environment(), POOL => pool_size(), $act eq 'run' ? (URL => $words[0]) : ());
	my ($pid, $said) = start_command('node', "$FindBin::Bin/peers/worker.js", $name, $act, $act eq 'run' ? () : @words);
	return $pid if $act eq 'run';
	my $words = join '', <$said>;
	waitpid $pid, 0;
	$? == 0 or die "$name $act: $words\n";
	return;
}

sub end_worker { my ($pid) = @_; kill 'CONT', $pid; kill 'KILL', $pid; waitpid $pid, 0; return; }

# The first request that comes to a port: its head in small letters, and its body.
sub one_request
{
	my ($listener, $act) = @_;
	$act->();
	local $SIG{ALRM} = sub { die "nothing came\n" };
	alarm 30;
	my $socket = $listener->accept or die "accept: $!";
	my $said = '';
	sysread $socket, $said, 4096, length $said or die "the request breaks off\n" while $said !~ /\r\n\r\n.{250}/s;
	alarm 0;
	print $socket "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
	my ($head, $text) = split /\r\n\r\n/, $said, 2;
	return (lc $head, $text);
}

# What a receiver gets of a peer: the body of the event, and the fields of a signed webhook.
sub check_request
{
	my ($name) = @_;
	my $listener = IO::Socket::INET->new(Listen => 8, LocalAddr => '127.0.0.1') or die "listen: $!";
	my $pid;
	my ($head, $text) = one_request($listener, sub {
		worker($name, 'fill', 1, $body);
		$pid = worker($name, 'run', 'http://127.0.0.1:' . $listener->sockport . '/now');
	});
	$text eq $body or die "$name sends $text\n";
	$head =~ /^$_: /m or die "$name sends no $_\n" for qw(content-type webhook-id webhook-timestamp webhook-signature);
	sleep 1;
	end_worker($pid);
	return;
}

sub prepare
{
	return if $is_prepared++;
	prepare_peers();
	sink();
	keelson->sql('grant create on database keelson to peer');
	for my $name (@workers)
	{
		worker($name, 'migrate');
		check_request($name);
	}
	return;
}

sub run_worker
{
	my ($name, $ms, $count) = @_;
	my $url = 'http://127.0.0.1:' . sink_port() . ($ms ? "/after/$ms" : '/now');
	my $pid = worker($name, 'run', $url);
	# What node compiles while it runs is compiled then.
	deliver_by($name, $pid, $count);
	my %sample = %{ deliver_by($name, $pid, $count) };
	end_worker($pid);
	return \%sample;
}

# So many deliveries by a peer that runs: what came, and what was spent on it.
sub deliver_by
{
	my ($name, $pid, $count) = @_;
	kill 'STOP', $pid;
	worker($name, 'fill', $count, $body);
	keelson->sql('vacuum analyze; checkpoint');
	figures();
	my @before = (process_cpu($pid), server_cpu(), sink_cpu());
	kill 'CONT', $pid;
	KeelsonTest::wait_until(sub { (ask_sink('/count'))[0] >= $count }, 120) or die "$name does not come to an end\n";
	# It records the last ones still.
	Time::HiRes::sleep(0.5);
	my @cpu = map { $_ * 1e6 / $count } (process_cpu($pid) - $before[0], server_cpu() - $before[1], sink_cpu() - $before[2]);
	my %got = figures();
	return { unit => 'deliveries/s', value => $got{count} / ($got{last} - $got{first}), cpu_us => $cpu[0] + $cpu[1] + $cpu[2],
		gateway_us => $cpu[0], server_us => $cpu[1], client_us => $cpu[2], memory_mib => private_mib($pid) };
}

sub run_courier
{
	my ($ms, $count) = @_;
	my $endpoint = endpoint($ms ? "/after/$ms" : '/now');
	store($endpoint, $count);
	my %got = deliver($endpoint, $count);
	my $pid = keelson->sql("select pid from pg_stat_activity where backend_type = 'keelson courier'");
	return { unit => 'deliveries/s', value => $got{rate}, cpu_us => $got{cpu_us}, memory_mib => private_mib($pid) };
}

sub run_alone
{
	my ($ms, $count) = @_;
	my %got = alone($ms ? "/after/$ms" : '/now', $count);
	return { unit => 'deliveries/s', value => $got{rate}, cpu_us => $got{cpu_us} };
}

sub run_deliveries
{
	my ($ms, $count) = @_;
	return unless wanted("deliveries.$ms");
	my %run = (libcurl => sub { run_alone($ms, $count) }, keelson => sub { run_courier($ms, $count) },
		map { my $name = $_; ($name => sub { run_worker($name, $ms, $count) }) } @workers);
	my %sample = map { $_ => keep("deliveries.$ms.$_", %{ $run{$_}->() }) } in_turn("deliveries.$ms", sort keys %run);
	relate(\%sample, "deliveries.$ms");
	return;
}

measure('deliveries', sub {
	prepare();
	run_deliveries(0, 10_000);
	run_deliveries(50, 2_000);
});

1;
