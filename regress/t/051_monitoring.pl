# What anybody may ask of the gateway itself, and what it costs: a flood of it asks the database little, and is told what is so.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('monitoring');
# One loop, so that all who ask meet.
my $gateway = $keelson->gateway(KEELSON_LOOPS => 1);

sub calls { return $gateway->get('/metrics')->{content} =~ /^keelson_gateway_calls_total (\d+)$/m ? $1 : die 'no count of calls'; }

sub ask
{
	my ($path) = @_;
	my $socket = $gateway->connect;
	syswrite $socket, "GET $path HTTP/1.1\r\nHost: a\r\n\r\n";
	return $socket;
}

# So many ask at once: the gateway finds them all when it wakes. Their replies.
sub flood
{
	my ($path, $count) = @_;
	kill 'STOP', $gateway->pid;
	my @asked = map { ask($path) } 1 .. $count;
	kill 'CONT', $gateway->pid;
	return map { KeelsonTest::Gateway::read_reply($_, 30) } @asked;
}

sub statuses
{
	my %seen;
	$seen{ $_->{status} }++ for @_;
	return \%seen;
}

subtest 'a flood' => sub {
	for my $path ('/ready', '/health', '/health/detailed', '/metrics')
	{
		my $before = calls();
		my @replies = flood($path, 200);
		is_deeply(statuses(@replies), { 200 => 200 }, "$path answers everybody");
		my $calls = calls() - $before - 1;
		ok($calls >= 1 && $calls < 40, 'with few questions') or diag "$calls questions";
		my %ids = map { $_->{headers}{'x-request-id'} => 1 } @replies;
		is(keys %ids, 200, 'each under its own id');
	}
	my @metrics = flood('/metrics', 100);
	is(scalar(grep { $_->{content} =~ /^keelson_gateway_ready 1$/m && $_->{content} =~ /^keelson_database_size_bytes \d/m } @metrics), 100, 'and everybody is told all');
};

subtest 'who asks after a change sees it' => sub {
	my $load = $gateway->load(3, sub { return $gateway->get('/ready')->{status} });
	for my $round (1 .. 5)
	{
		ok(wait_until(sub { $gateway->get('/ready')->{status} == 200 }, 10), 'ready');
		$keelson->sql("update keelson.installation set code_checksum = code_checksum || 'x'");
		my $reply = $gateway->get('/ready');
		is($reply->{status}, 503, 'and at once no more');
		like($reply->{content}, qr/migrat/i, 'as the database says');
		$keelson->sql("update keelson.installation set code_checksum = rtrim(code_checksum, 'x')");
	}
	my @lines = $load->stop;
	is(scalar(grep { !/^(200|503)$/ } @lines), 0, 'others are told one or the other');
};

subtest 'the database goes and comes back' => sub {
	$keelson->node->stop('fast');
	for my $path ('/ready', '/health', '/health/detailed')
	{
		my @replies = flood($path, 20);
		is_deeply(statuses(@replies), { 503 => 20 }, "$path: not without the database");
		is(scalar(grep { $_->{json}{code} eq 'UNAVAILABLE' && $_->{json}{health} && $_->{json}{error} =~ /^The database/ } @replies), 20, 'which is the reason given');
	}
	my @replies = flood('/metrics', 20);
	is_deeply(statuses(@replies), { 200 => 20 }, '/metrics: what the gateway knows itself');
	is(scalar(grep { $_->{content} =~ /^keelson_gateway_ready 0$/m && $_->{content} !~ /^keelson_database_size_bytes/m } @replies), 20, 'and nothing else');
	$keelson->node->start;
	ok(wait_until(sub { $gateway->get('/ready')->{status} == 200 }, 20), 'when it is back, it is ready');
	is($gateway->get($_)->{status}, 200, $_) for '/health', '/health/detailed';
	like($gateway->get('/metrics')->{content}, qr/^keelson_database_size_bytes \d/m, 'and all is told again');
};

subtest 'a database that does not answer' => sub {
	my @stopped = split /\n/, $keelson->sql(q{select pid from pg_stat_activity where application_name = 'keelson_gateway'});
	kill 'STOP', @stopped;
	my @asked = map { ask($_) } '/metrics', '/ready', '/health';
	# The first are under way when the others come: what is answered before tells so.
	is($gateway->get('/live')->{status}, 200, 'what does not ask it goes on');
	push @asked, map { ask($_) } ('/metrics', '/ready', '/health') x 3;
	close pop @asked;
	my @replies = map { KeelsonTest::Gateway::read_reply($_, 30) } @asked;
	# Some of its processes do not answer; or the gateway has given them up, and says that there are none.
	my %codes = (503 => 'UNAVAILABLE', 504 => 'TIMEOUT');
	is(scalar(grep { ($codes{ $_->{status} } // '') eq $_->{json}{code} } @replies), 11, 'whoever waits is told in time')
		or diag json_encode([ map { [ $_->{status}, $_->{content} ] } @replies ]);
	kill 'CONT', @stopped;
	ok(wait_until(sub { $gateway->get('/ready')->{status} == 200 }, 20), 'when it goes on, it is ready');
	is($gateway->get($_)->{status}, 200, $_) for '/health', '/metrics';
};

subtest 'the end' => sub {
	my $leaving = $keelson->gateway(KEELSON_LOOPS => 1);
	my $load = $leaving->load(4, sub { return join ' ', map { $leaving->get($_)->{status} } '/ready', '/metrics' });
	ok(wait_until(sub { $load->lines > 8 }), 'asked all the time');
	is($leaving->stop, 0, 'it ends');
	# 599 is the client's own word for a connection that nobody takes.
	is(scalar(grep { !/^(?:200|503|599) (?:200|599)$/ } $load->stop), 0, 'with answers to the last');
};

ok($gateway->running, 'it never ended before');
done_testing();
$keelson->stop;
