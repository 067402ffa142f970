# What goes wrong. Each fault is a function of the run and of numbers between 0 and 1 that the schedule has drawn; it
# breaks something, waits until that has had its effect, and mends it. That everything recovers is looked at afterwards, by
# Torture::recovers(). A fault that cannot be had here dies with a reason, beginning with "skip: ".

package Torture::Faults;

use strict;
use warnings;

use Fcntl qw(SEEK_SET);
use IO::Socket::UNIX;
use KeelsonTest;
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(sleep time);

our %faults = (
	backend_killed       => \&backend_killed,
	backend_stopped      => \&backend_stopped,
	backends_ended       => \&backends_ended,
	clients_break_off    => \&clients_break_off,
	clients_too_many     => \&clients_too_many,
	data_disk_full       => sub { return disk_full(@_, 'data') },
	gateway_killed       => \&gateway_killed,
	gateway_restarted    => \&gateway_restarted,
	keeper_held_up       => \&keeper_held_up,
	migration            => \&migration,
	postmaster_killed    => \&postmaster_killed,
	queues_filled        => \&queues_filled,
	receiver_fails       => \&receiver_fails,
	receiver_gone        => \&receiver_gone,
	server_restarted     => \&server_restarted,
	sessions_too_many    => \&sessions_too_many,
	table_locked         => \&table_locked,
	wal_disk_full        => sub { return disk_full(@_, 'wal') },
	worker_ended         => \&worker_ended,
	worker_killed        => \&worker_killed,
);

# One of several, as a drawn number says.
sub one_of { my ($drawn, @of) = @_; return $of[ int($drawn * @of) ]; }

# So many seconds, more or less, as a drawn number says.
sub seconds { my ($drawn, $from, $until) = @_; return $from + $drawn * ($until - $from); }

sub backends
{
	my ($run, $condition) = @_;
	my (undef, $pids) = $run->{keelson}->try_sql("select pid from pg_stat_activity where $condition order by pid");
	return split /\n/, $pids // '';
}

my $gateways = q{usename = 'keelson_gateway'};

# Kills a process of the server; the others have to go with it.
sub kill_process
{
	my ($run, $drawn, $condition) = @_;
	my $before = $run->crashes;
	my $pid;
	wait_until(sub { my @pids = backends($run, $condition); $pid = one_of($drawn, @pids); $pid && kill 'KILL', $pid }, 20)
		or die "nobody to kill: $condition\n";
	wait_until(sub { $run->crashes > $before }, 20) or die "process $pid was killed, and the server has not noticed\n";
	return;
}

sub backend_killed
{
	my ($run, $drawn) = @_;
	return kill_process($run, $drawn, $gateways);
}

my @workers = map { "keelson $_" } qw(courier keeper incoming);

sub worker_killed
{
	my ($run, $drawn, $which) = @_;
	return kill_process($run, $drawn, "backend_type = '" . one_of($which, @workers) . q{'});
}

# Told to end by an administrator: the server starts it again.
sub worker_ended
{
	my ($run, $drawn) = @_;
	my $worker = one_of($drawn, @workers);
	$run->{keelson}->try_sql("select pg_terminate_backend(pid) from pg_stat_activity where backend_type = '$worker'");
	return;
}

sub backends_ended
{
	my ($run, $drawn, $often) = @_;
	for (1 .. 1 + 4 * $often)
	{
		$run->{keelson}->try_sql("select pg_terminate_backend(pid) from pg_stat_activity where $gateways and application_name <> '' order by random() limit " . (1 + int 4 * $drawn));
		sleep 0.05;
	}
	return;
}

# One that does not move, perhaps with locks in its hands.
sub backend_stopped
{
	my ($run, $drawn, $long) = @_;
	my $pid = one_of($drawn, backends($run, $gateways)) or return;
	kill 'STOP', $pid;
	sleep seconds($long, 0.3, 2);
	kill 'CONT', $pid;
	return;
}

# The keeper does not come, while refusals fill its ring.
sub keeper_held_up
{
	my ($run, $drawn) = @_;
	my ($pid) = backends($run, q{backend_type = 'keelson keeper'}) or return;
	kill 'STOP', $pid;
	my $deadline = time() + seconds($drawn, 1, 3);
	my $n = 0;
	while (time() < $deadline)
	{
		$n++;
		$run->{gateway}->get('/api/auth/me', headers => { Authorization => "Bearer no$n", 'User-Agent' => 'x' x 200 . $n });
	}
	kill 'CONT', $pid;
	return;
}

sub gateway_killed
{
	my ($run, $drawn) = @_;
	$run->{gateway}->stop('KILL');
	sleep seconds($drawn, 0, 0.5);
	$run->{gateway}->start;
	return;
}

# It lets those in hand finish.
sub gateway_restarted
{
	my ($run) = @_;
	my $status = $run->{gateway}->stop('TERM', 40);
	$run->found("the gateway ended with $status") if $status;
	$run->{gateway}->start;
	return;
}

sub postmaster_killed
{
	my ($run, $drawn, $again) = @_;
	$run->kill_postmaster;
	if ($again < 0.3)
	{
		# Killed in the midst of recovering, too.
		$run->start_server(wait => 0);
		sleep seconds($drawn, 0.01, 0.4);
		$run->kill_postmaster;
	}
	$run->start_server;
	return;
}

sub server_restarted
{
	my ($run, $drawn, $long) = @_;
	$run->{keelson}->node->stop($drawn < 0.5 ? 'fast' : 'immediate');
	sleep seconds($long, 0, 0.7);
	$run->start_server;
	return;
}

# Clients that leave in the middle: of a head, of a body, of a reply.
sub clients_break_off
{
	my ($run, $drawn, $often) = @_;
	my $body = '{"email": "nobody@torture.example.com", "password": "horse battery staple"}';
	my $head = "POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: " . length($body) . "\r\n\r\n";
	my $request = "$head$body" . "GET /api/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" x 3;
	my @held;
	for my $n (1 .. 30 + 100 * $often)
	{
		my $socket = eval { $run->{gateway}->connect } or next;
		setsockopt $socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0) if $n % 2;
		syswrite $socket, substr $request, 0, int((($drawn * 7919 * $n) % 1000) / 1000 * length $request) || 1;
		push @held, $socket;
		close shift @held if @held > 20;
	}
	return;
}

# More connections than the gateway has descriptors for: whoever is connected is served, and others when some have left.
sub clients_too_many
{
	my ($run, $drawn) = @_;
	my @held;
	for (1 .. $run->{descriptors} + 100)
	{
		my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $run->{gateway}->port, Proto => 'tcp', Timeout => 1) or last;
		push @held, $socket;
	}
	sleep seconds($drawn, 0.2, 1);
	$run->found('the gateway has ended') unless $run->{gateway}->running;
	return;
}

# All sessions that the server has are others': those of the gateway that end cannot come back.
sub sessions_too_many
{
	my ($run, $drawn, $long) = @_;
	my $path  = $run->{keelson}->node->host . '/.s.PGSQL.' . $run->{keelson}->node->port;
	my $hello = pack('N', 196608) . "user\0hoarder\0database\0postgres\0\0";
	my $deadline = time() + 3;
	my ($ended, @held);
	while (time() < $deadline)
	{
		my $socket = IO::Socket::UNIX->new(Peer => $path) or last;
		syswrite $socket, pack('N', 4 + length $hello) . $hello;
		my $answer = '';
		# Ready for a query, or an error: some are let in first, and then told that there is no place.
		while ($answer !~ /Z\x00\x00\x00\x05.\z/s && $answer !~ /SFATAL/) { sysread $socket, $answer, 4096, length $answer or last; }
		if ($answer =~ /Z\x00\x00\x00\x05.\z/s) { push @held, $socket; next; }
		# Full: some of the gateway's make room for more of ours.
		last if $ended++ > 2;
		$run->{keelson}->try_sql("select pg_terminate_backend(pid) from pg_stat_activity where $gateways order by pid limit " . (2 + int 4 * $drawn));
	}
	$run->count('sessions held', scalar @held);
	sleep seconds($long, 0.3, 1.5);
	return;
}

# Requests that take long, more than the slow lane and its queue take.
sub queues_filled
{
	my ($run, $drawn) = @_;
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		my $gateway = $run->{gateway};
		my $json = json_encode({ seconds => seconds($drawn, 0.3, 1) });
		my $token = $run->{client}->token_of($run->{admin});
		my @held = map { eval { $gateway->connect } || () } 1 .. 100;
		for my $socket (@held)
		{
			syswrite $socket, "POST /api/torture/nap HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nAuthorization: Bearer $token\r\n"
				. 'Content-Length: ' . length($json) . "\r\n\r\n$json";
		}
		my %told;
		for my $socket (@held) { $told{ KeelsonTest::Gateway::read_reply($socket, 20)->{status} }++; }
		open my $file, '>', "$run->{folder}/naps" or POSIX::_exit(1);
		print $file json_encode(\%told);
		close $file;
		POSIX::_exit(0);
	}
	waitpid $pid, 0;
	my $told = json_decode(slurp("$run->{folder}/naps"));
	$run->count("naps: $_", $told->{$_}) for sort keys %$told;
	$run->found("a full queue answers $_") for grep { !/^(200|204|503)$/ } keys %$told;
	return;
}

# The receiver of webhooks answers with failures, or not at all.
sub receiver_fails
{
	my ($run, $drawn, $long) = @_;
	$run->{sink}->put('weather', one_of($drawn, '/status/500', '/reset', '/hang', '/garbage', '/retry-after/503/1', '/partial'));
	sleep seconds($long, 0.5, 2);
	$run->{sink}->put('weather', '/fine');
	return;
}

sub receiver_gone
{
	my ($run, $drawn) = @_;
	$run->{sink}->stop;
	sleep seconds($drawn, 0.3, 2);
	$run->{sink}->start;
	return;
}

# Somebody holds a table that everybody needs.
sub table_locked
{
	my ($run, $drawn, $long) = @_;
	my $table = one_of($drawn, qw(users sessions deliveries usage_totals quota_counters incoming_events subscriptions audit_checkpoints));
	$run->{keelson}->try_sql("begin; lock keelson.$table in access exclusive mode; select pg_sleep(" . seconds($long, 0.3, 2) . '); commit');
	return;
}

# It waits for whoever holds a table, and is never the victim of a deadlock.
sub migration
{
	my ($run) = @_;
	my ($status, undef, $messages) = $run->{keelson}->try_sql('select keelson.migrate()');
	$run->found("keelson.migrate(): $messages") if $status;
	return;
}

# Takes all the room there is on a small file system, until somebody has been refused for it; then gives it back.
sub disk_full
{
	my ($run, $drawn, $long, undef, $which) = @_;
	my $place = $run->{small}{$which} or die "skip: there is no small file system\n";
	my $before = $run->refusals;
	my $ballast = fill($place);
	# The pages and segments that were there already are used up first.
	my $until = time() + 10;
	while ($run->refusals == $before && time() < $until)
	{
		$run->{keelson}->try_sql($which eq 'wal' ? q{select pg_switch_wal() from pg_logical_emit_message(true, 'ballast', 'x')}
			: q{create table if not exists torture.ballast (a text); alter table torture.ballast alter a set storage plain; insert into torture.ballast select repeat('x', 7000) from generate_series(1, 200)});
	}
	$run->count("refusals for a full disk ($which)", $run->refusals - $before);
	my $reply = $run->{gateway}->post('/api/auth/register', { email => 'full' . int(1e6 * $drawn) . '@torture.example.com', password => 'a horse on a full disk' }, timeout => 20, fresh => 1);
	$run->count("a registration meanwhile ($which): $reply->{status}");
	$run->found("on a full disk: $reply->{status} $reply->{content}") unless $reply->{status} =~ /^(201|503|409)$/;
	$run->found('503 without Retry-After on a full disk') if $reply->{status} == 503 && !$reply->{headers}{'retry-after'};
	sleep seconds($long, 0, 1.5);
	unlink $ballast;
	$run->start_server;
	$run->{keelson}->try_sql('drop table if exists torture.ballast');
	return;
}

# One file that has all the room; its name.
sub fill
{
	my ($place) = @_;
	my $ballast = "$place/ballast";
	open my $file, '>', $ballast or die "$ballast: $!";
	my $block = 'x' x (1 << 20);
	while (length $block)
	{
		my $written = syswrite $file, $block;
		$block = substr $block, 0, length($block) >> 1 unless $written;
	}
	close $file;
	return $ballast;
}

1;
