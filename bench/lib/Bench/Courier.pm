package Bench::Courier;
# A receiver of deliveries (bench/sink.c), what the courier sends to it, and libcurl alone (bench/post_alone.c).

use strict;
use warnings;
use Exporter 'import';
use FindBin;
use IO::Socket::INET;
use KeelsonTest;

use Bench::System;

our @EXPORT = qw(receiver sink sink_cpu sink_port ask_sink figures endpoint make_endpoint store deliver alone);

my $at_once = 64;
my ($sink, $sink_port);
my $receiver;    # the user whose endpoint the deliveries of the benchmark go to
my %endpoints;   # path → endpoint

sub sink
{
	return if $sink;
	$sink_port = PostgreSQL::Test::Cluster::get_free_port();
	($sink) = start_command("$FindBin::Bin/sink", $sink_port);
	wait_port($sink_port) or die "the sink did not start\n";
	return;
}

END { kill 'TERM', $sink if $sink; }

sub sink_port { sink(); return $sink_port; }
sub sink_cpu { return process_cpu($sink); }
sub receiver { return $receiver ||= (people)[3]; }

sub ask_sink
{
	my ($path) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $sink_port) or die "sink: $!";
	print $socket "GET $path HTTP/1.1\r\n\r\n";
	my $said = '';
	sysread $socket, $said, 4096, length $said or die "the sink breaks off\n" while $said !~ /\r\n\r\n.*\n/;
	return $said =~ /\r\n\r\n(.*)\n/;
}

# What has come since the last time: count, first, last, p50, p99.
sub figures { my ($said) = ask_sink('/figures'); return $said =~ /(\w+)=([\d.]+)/g; }

sub endpoint
{
	my ($path) = @_;
	sink();
	$receiver ||= (people)[3];
	keelson->sql(q{select keelson.webhook_event_type(n, 'Something.', '{"n": 1}') from unnest('{bench.happened,bench.none}'::text[]) as n});
	return $endpoints{$path} ||= make_endpoint($receiver, $path, 'bench.none');
}

sub make_endpoint
{
	my ($person, $path, $type) = @_;
	my (undef, $id) = split /\n/, keelson->sql(qq{
		begin;
		select keelson.act_as('$person->{email}');
		select (keelson.webhook_create(url => 'http://127.0.0.1:$sink_port$path', events => array['$type'])).id;
		commit;});
	return $id;
}

# So many deliveries to the endpoint that are due and held back; all of one event of 250 bytes.
sub store
{
	my ($endpoint, $count) = @_;
	keelson->sql("select keelson.courier_breaker_set('$endpoint', 'forced_open')");
	my $event = keelson->sql(qq{
		insert into keelson.webhook_events (user_id, id, event_type, endpoint_ids, body)
		values ('$receiver->{id}', keelson.uuid7(), 'bench.happened', '{$endpoint}',
			'{"type":"bench.happened","timestamp":"2026-01-01T00:00:00Z","data":{"text":"' || repeat('x', 171) || '"}}')
		returning id});
	for (my $left = $count; $left > 0; $left -= 500_000)
	{
		my $part = $left < 500_000 ? $left : 500_000;
		keelson->sql(qq{
			set synchronous_commit = off;
			insert into keelson.deliveries (user_id, id, lane, kind, ref, due_at)
			select '$receiver->{id}', keelson.uuid7(), '$endpoint', 'webhook', '$event', clock_timestamp() from generate_series(1, $part)}, timeout => 600);
	}
	keelson->sql('vacuum analyze keelson.deliveries; checkpoint', timeout => 600);
	return;
}

# Lets them go; when so many have come (all, or the first so many) what the sink has seen and what was spent on it.
sub deliver
{
	my ($endpoint, $count) = @_;
	figures();
	my @before = (server_cpu() + process_cpu($sink), claims());
	keelson->sql("select keelson.courier_breaker_set('$endpoint', 'closed')");
	KeelsonTest::wait_until(sub { (ask_sink('/count'))[0] >= $count }, 600) or die "deliveries do not end\n";
	my @after = (server_cpu() + process_cpu($sink), claims());
	my %got = figures();
	return (rate => $got{count} / ($got{last} - $got{first}), cpu_us => ($after[0] - $before[0]) * 1e6 / $got{count},
		claim_ms => ($after[2] - $before[2]) / ($after[1] - $before[1]) / 10);
}

sub claims { return split /\|/, keelson->sql('select claimed, claim_us from keelson._courier_status()'); }

# libcurl alone: requests a second, and CPU time of it and the receiver.
sub alone
{
	my ($path, $count) = @_;
	my $before = process_cpu($sink);
	my ($pid, $said) = start_command("$FindBin::Bin/post-alone", "http://127.0.0.1:$sink_port$path", $count, $at_once, 250);
	my $line = join '', <$said>;
	waitpid $pid, 0;
	my %got = $line =~ /(\w+)=([\d.]+)/g;
	$got{seconds} or die "post-alone: $line";
	return (rate => $count / $got{seconds}, cpu_us => ($got{cpu} + process_cpu($sink) - $before) * 1e6 / $count);
}

1;
