package Bench::System;
# What is measured: a server with the extension, a gateway, people who are signed in; the loads put on them, and the
# CPU time that they take.

use strict;
use warnings;
use Exporter 'import';
use FindBin;
use IO::Socket::INET;
use KeelsonTest;
use List::Util qw(min sum0);
use POSIX ();
use Time::HiRes qw(time);

use Bench;

our @EXPORT = qw(keelson gateway people route sign_in add_call request_line run_load run_gateway run_bare run_bare_gateway run_pgbench pgbench
	process_cpu server_cpu resident_kib write_lines start_command wait_port start_wrk finish_wrk work_folder);

our $seconds = $ENV{BENCH_SECONDS} || 3;
our $users = 128;    # four for each of pgbench's clients; a measure that asks for less may say so
our $loops = 2;                            # of the gateway
our $pool = $ENV{BENCH_POOL} || 32;        # its database connections for quick calls, as many as it takes unasked
my $pgbench_most = 32;
my $hertz = POSIX::sysconf(POSIX::_SC_CLK_TCK());

our %versions;      # of what takes part: name → version
my ($keelson, $gateway, @people, $signed_in_at, %routes);
my %calls;          # name → [ method, path, route, body or undef ]
my %bare_gateways;  # name of a call → [ pid, port ]

sub keelson     { return $keelson; }
sub gateway     { return $gateway; }
sub people      { return @people; }
sub work_folder { return $keelson->node->basedir; }

# The id of a route such as 'GET auth/me'.
sub route { my ($endpoint) = @_; return $routes{$endpoint} // die "there is no route $endpoint\n"; }

# A request that run_gateway() and run_pgbench() can be told to make: method, path, route and JSON body, if any.
sub add_call { my ($name, @call) = @_; $calls{$name} = \@call; return; }

sub start
{
	$keelson = KeelsonTest->new('bench', limits => 1, conf => join "\n",
		'shared_buffers = 256MB', 'fsync = on', 'synchronous_commit = on', 'max_wal_size = 8GB',
		'checkpoint_timeout = 30min', 'keelson.environment = development', 'keelson.allow_private_targets = on',
		'max_connections = 400', 'autovacuum_naptime = 1min');
	# Limits are decided as everywhere, and refuse nobody.
	$keelson->sql('select keelson.rate_limit_set(name, 1000000000) from keelson.rate_limits');
	$keelson->node->safe_psql('keelson', KeelsonTest::slurp("$FindBin::Bin/schema.sql"));
	$gateway = $keelson->gateway(KEELSON_LOG_LEVEL => $ENV{BENCH_LOG_LEVEL} || 'info', KEELSON_LOOPS => $loops, KEELSON_POOL => $pool / $loops);
	@versions{qw(kernel PostgreSQL)} = ((POSIX::uname())[2] =~ /^([\d.]+)/, $keelson->sql('show server_version') =~ /^(\S+)/);
	$signed_in_at = time;
	@people = map { $keelson->user($gateway) } 1 .. $users;
	%routes = map { split /\|/ } split /\n/, $keelson->sql("select method || ' ' || template, id from keelson.gateway_routes()");
	return;
}

sub stop
{
	kill 'TERM', map { $_->[0] } values %bare_gateways;
	waitpid $_->[0], 0 for values %bare_gateways;
	$keelson->stop;
	return;
}

# CPU seconds of one process (with what its ended children used, if wanted).
sub process_cpu
{
	my ($pid, $with_children) = @_;
	open my $file, '<', "/proc/$pid/stat" or return 0;
	my @field = split ' ', (<$file> =~ /.*\) (.*)/)[0];
	return sum0(@field[ $with_children ? 11 .. 14 : 11 .. 12 ]) / $hertz;
}

# CPU seconds of the whole server so far.
sub server_cpu
{
	my ($postmaster) = KeelsonTest::slurp($keelson->node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @children = split ' ', KeelsonTest::slurp("/proc/$postmaster/task/$postmaster/children");
	return process_cpu($postmaster, 1) + sum0(map { process_cpu($_) } @children);
}

sub resident_kib { return KeelsonTest::slurp("/proc/$_[0]/status") =~ /^VmRSS:\s+(\d+)/m ? $1 : 0; }

# Signs everybody in again where that was too long ago, since access tokens live for 15 minutes, and writes their requests.
sub sign_in
{
	log_in() if time - $signed_in_at > 300;
	$keelson->sql('truncate bench.tokens; insert into bench.tokens values '
		. join ', ', map { "($_, '$people[$_]{token}')" } 0 .. $#people);
	while (my ($what, $call) = each %calls)
	{
		my ($method, $path, $route, $body) = @$call;
		write_lines(work_folder() . "/$what.requests", map { request_line($method, $path, "Authorization: Bearer $_->{token}", $body) } @people);
		write_lines(work_folder() . "/$what.sql", pgbench_script(route($route), defined $body ? ':body' : 'null')) if defined $route;
	}
	return;
}

sub log_in
{
	$signed_in_at = time;
	for my $person (@people)
	{
		my $reply = $gateway->post('/api/auth/login', { email => $person->{email}, password => $person->{password} });
		$reply->{status} == 200 or die "login answered $reply->{status}: $reply->{content}";
		$person->{token} = $reply->{json}{data}{accessToken};
	}
	return;
}

# A request as requests.lua reads it.
sub request_line { my ($method, $path, $header, $body) = @_; return join "\t", $method, $path, $header // '-', $body // '-'; }

# What a client of pgbench does: it fetches four tokens of its own once, then calls with one of them at random.
# So its backend verifies each token once, as the gateway's few connections do, and clients do not wait for
# each other's rows.
sub pgbench_script
{
	my ($route, $given) = @_;
	my $call = "select keelson.dispatch($route, :%s, null, $given, :caller);";
	return '\if :client_knows = 0',
		'select max(token) filter (where n % 4 = 0) as t0, max(token) filter (where n % 4 = 1) as t1,',
		'    max(token) filter (where n % 4 = 2) as t2, max(token) filter (where n % 4 = 3) as t3',
		'from bench.tokens where n / 4 = :client_id \gset',
		'\set client_knows 1', '\endif', '\set k random(0, 3)',
		(map { ($_ == 0 ? '\if :k = 0' : $_ < 3 ? "\\elif :k = $_" : '\else', sprintf $call, "t$_") } 0 .. 3), '\endif';
}

sub write_lines
{
	my ($path, @lines) = @_;
	open my $file, '>', $path or die "$path: $!";
	print $file map { "$_\n" } @lines;
	return close $file;
}

# Starts a command with a pipe from what it says on standard error.
sub start_command
{
	my (@command) = @_;
	pipe my $read, my $write or die "pipe: $!";
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		# A session of its own, so that the gateway and other clients do not share its part of the processors.
		POSIX::setsid();
		chdir work_folder();
		open STDOUT, '>', '/dev/null';
		open STDERR, '>&', $write;
		exec @command or POSIX::_exit(127);
	}
	close $write;
	return ($pid, $read);
}

# One run of wrk, with the requests of a call: the figures that it prints.
sub run_wrk
{
	my ($what, $connections, $port) = @_;
	my %got = finish_wrk(start_wrk($what, $connections, $port));
	$got{faults} + $got{refused} == 0 or warn "$what at $connections: $got{faults} faults, $got{refused} refused\n";
	return %got;
}

sub start_wrk
{
	my ($what, $connections, $port) = @_;
	return start_command('wrk', '-t1', "-c$connections", "-d${seconds}s", '--timeout', '10s', '-s',
		"$FindBin::Bin/requests.lua", "http://127.0.0.1:$port", '--', work_folder() . "/$what.requests");
}

sub finish_wrk
{
	my ($pid, $said) = @_;
	my $line = join '', <$said>;
	waitpid $pid, 0;
	my %got = $line =~ /(\w+)=(\d+)/g;
	$got{requests} or die "wrk: $line";
	return %got;
}

# One run of wrk against a port, and the CPU time of all who take part: the client, and those named by what reads theirs.
sub run_load
{
	my ($id, $what, $connections, $port, %others) = @_;
	my @names = sort keys %others;
	my $client = sub { return sum0((times)[ 2, 3 ]) };
	my @before = map { $_->() } @others{@names}, $client;
	my %got = run_wrk($what, $connections, $port);
	my @each = map { ($_->() - shift @before) * 1e6 / $got{requests} } @others{@names}, $client;
	return keep($id, unit => 'req/s', value => $got{requests} * 1e6 / $got{us}, cpu_us => sum0(@each), (map { $names[$_] => $each[$_] } 0 .. $#names),
		client_us => $each[-1], p50_ms => $got{p50} / 1000, p99_ms => $got{p99} / 1000, faults => $got{faults} + $got{refused}, requests => $got{requests});
}

# One run of wrk against the gateway.
sub run_gateway
{
	my ($what, $connections) = @_;
	return run_load("$what.$connections.keelson", $what, $connections, $gateway->port,
		gateway_us => sub { process_cpu($gateway->pid) }, server_us => \&server_cpu);
}

# One run of wrk against a server that does nothing but reply: what kernel and client cost here.
sub run_bare
{
	my ($what, $connections) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my ($pid) = start_command("$FindBin::Bin/bare-server", $port, 2);
	wait_port($port) or die "the bare server did not start\n";
	my $sample = run_load("$what.$connections.bare", $what, $connections, $port, server_us => sub { process_cpu($pid) });
	kill 'TERM', $pid;
	waitpid $pid, 0;
	return $sample;
}

# One run of wrk against a gateway that only passes calls on, with as many connections to the database as ours has for
# quick calls: what any gateway can reach here.
sub run_bare_gateway
{
	my ($what, $connections) = @_;
	my ($pid, $port) = @{ $bare_gateways{$what} //= [ start_bare_gateway($what) ] };
	return run_load("$what.$connections.bare-gateway", $what, $connections, $port, gateway_us => sub { process_cpu($pid) }, server_us => \&server_cpu);
}

sub start_bare_gateway
{
	my ($what) = @_;
	my (undef, undef, $route, $body) = @{ $calls{$what} };
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	local %ENV = (%ENV, PGHOST => $keelson->node->host, PGPORT => $keelson->node->port, PGDATABASE => 'keelson');
	my ($pid) = start_command("$FindBin::Bin/bare-gateway", $port, $loops, $pool / $loops, route($route), caller_of($body));
	wait_port($port) or die "the bare gateway did not start\n";
	return ($pid, $port);
}

# What a gateway tells the dispatcher of who calls.
sub caller_of
{
	my ($body) = @_;
	return '{"ip":"127.0.0.1","userAgent":"wrk","requestId":"0194e0a0-0000-7000-8000-000000000000",'
		. '"scheme":"http","via":"bearer"' . (defined $body ? ',"contentType":"application/json"' : '') . '}';
}

# Waits until somebody listens at a port here.
sub wait_port
{
	my ($port) = @_;
	return KeelsonTest::wait_until(sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) }, 20);
}

# One run of pgbench on the same calls.
sub run_pgbench
{
	my ($what, $connections) = @_;
	my $body = $calls{$what}[3];
	my $caller = caller_of($body);
	return pgbench("$what.$connections.pgbench", $connections, "$what.sql", caller => $caller, defined $body ? (body => $body) : ());
}

# One run of pgbench with a script of the work folder and variables for it; client_knows is 0 to begin with. Its
# connections are new each time: the first second warms them and does not count.
sub pgbench
{
	my ($id, $connections, $script, %variables) = @_;
	my $work = work_folder();
	my $clients = min($connections, $pgbench_most);
	unlink glob "$work/pgbench_log.*";
	local %ENV = (%ENV, PGHOST => $keelson->node->host, PGPORT => $keelson->node->port);
	my ($pid, $said) = start_command('pgbench', '-n', '-M', 'prepared', '-c', $clients, '-j', 1, '-T', $seconds + 1,
		'-P', 1, '-l', '--sampling-rate=0.05', (map { ('-D', "$_=$variables{$_}") } sort keys %variables),
		'-D', 'client_knows=0', '-f', "$work/$script", 'keelson');
	my (@at, @tps, @cpu, @client, $all);
	while (my $line = <$said>)
	{
		$all .= $line;
		my ($at, $tps) = $line =~ /^progress: ([\d.]+) s, ([\d.]+) tps/ or next;
		push @at, $at;
		push @tps, $tps;
		push @cpu, server_cpu();
		push @client, process_cpu($pid);
		last if @at == $seconds + 1;
	}
	close $said;
	waitpid $pid, 0;
	@at >= 2 or die "pgbench: $all";
	my $requests = sum0(map { $tps[$_] * ($at[$_] - $at[ $_ - 1 ]) } 1 .. $#at);
	my @times = sort { $a <=> $b } map { (split ' ')[2] } split /\n/, join '', map { KeelsonTest::slurp($_) } glob "$work/pgbench_log.*";
	my @each = map { ($_->[-1] - $_->[0]) * 1e6 / $requests } \@cpu, \@client;
	return keep($id, unit => 'req/s', value => $requests / ($at[-1] - $at[0]), cpu_us => sum0(@each), server_us => $each[0],
		client_us => $each[1], p50_ms => percentile(50, @times) / 1000, p99_ms => percentile(99, @times) / 1000);
}

1;
