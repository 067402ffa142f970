package Bench::Peers;
# What people use instead of Keelson, beside it: the same server, the same people, the same load. Peers are node programs
# of bench/peers; each has as many processes as there are cores (or BENCH_PROCESSES says) and, of all together, as many
# connections to the database as the gateway has. Before anything is measured each must give Keelson's answers.

use strict;
use warnings;
use Digest::SHA qw(hmac_sha256);
use Exporter 'import';
use FindBin;
use HTTP::Tiny;
use KeelsonTest;
use List::Util qw(max sum0);
use MIME::Base64 qw(encode_base64 encode_base64url);

use Bench;
use Bench::System;

our @EXPORT = qw(cores prepare_peers node_environment start_peer warm_peer run_peer run_function peer_ask peer_memory
	private_mib pool_size same_value relate);

my $secret = 'a secret of the peers that is long enough for everybody';
my ($is_prepared, %peers);

sub cores { my $count = () = KeelsonTest::slurp('/proc/cpuinfo') =~ /^processor\s*:/mg; return $count; }

my $node_processes = $ENV{BENCH_PROCESSES} || cores();

# Database connections of the gateway for quick calls. A peer has as many, of all its processes.
sub pool_size { return $Bench::System::pool; }

# Tables and rows of the peers: the people of Keelson, each with a session.
sub prepare_peers
{
	return if $is_prepared++;
	keelson->node->safe_psql('keelson', KeelsonTest::slurp("$FindBin::Bin/peers/schema.sql"));
	keelson->sql(q{
		insert into peer.users (id, email, email_verified, name, created_at)
		select id, email, email_verified_at is not null, name, created_at from keelson.users where kind = 'person';
		insert into peer.sessions (id, user_id, expires_at) select gen_random_uuid(), id, now() + interval '30 days' from peer.users;
		insert into peer_auth."user" (id, name, email, "emailVerified", "createdAt")
		select id, coalesce(name, ''), email, email_verified, created_at from peer.users;
		insert into peer_auth.session (id, "expiresAt", token, "updatedAt", "userId")
		select gen_random_uuid(), expires_at, md5(id::text), now(), user_id from peer.sessions;
		vacuum analyze});
	my $packages = KeelsonTest::json_decode(KeelsonTest::slurp("$FindBin::Bin/peers/package.json"))->{dependencies};
	%Bench::System::versions = (%Bench::System::versions, %$packages, node => `node --version` =~ s/^v|\s//gr);
	my %session = map { split /\|/ } split /\n/, keelson->sql('select user_id, id from peer.sessions');
	$_->{peer_session} = $session{ $_->{id} } for people;
	# What each client of pgbench calls the peers' functions with.
	keelson->sql('create table bench.peer_sessions (n int primary key, session_id uuid, user_id uuid); insert into bench.peer_sessions values '
		. join ', ', map { "($_, '" . (people)[$_]{peer_session} . "', '" . (people)[$_]{id} . "')" } 0 .. $#{ [people] });
	return;
}

# A token as the peers' own code would have signed it.
sub token
{
	my ($person) = @_;
	my $signed = join '.', map { encode_base64url($_) } '{"alg":"HS256","typ":"JWT"}',
		KeelsonTest::json_encode({ session_id => $person->{peer_session}, user_id => $person->{id}, iat => time, exp => time + 86_400 });
	return "$signed." . encode_base64url(hmac_sha256($signed, $secret));
}

sub bearer { my ($person) = @_; return 'Authorization: Bearer ' . token($person); }

# better-auth's cookie: its session's token, signed.
sub cookie
{
	my ($person) = @_;
	my $token = keelson->sql("select md5('$person->{peer_session}')");
	my $value = "$token." . encode_base64(hmac_sha256($token, $secret), '');
	return 'Cookie: better-auth.session_token=' . $value =~ s{([+/=])}{sprintf '%%%02X', ord $1}egr;
}

# What every program of node finds in its environment.
sub node_environment
{
	return (NODE_ENV => 'production', PGHOST => keelson->node->host, PGPORT => keelson->node->port, PGUSER => 'peer', PGDATABASE => 'keelson',
		HOME => work_folder());
}

# Starts a program of bench/peers that serves HTTP. Options: program (its name, if it is another), processes, environment,
# and calls (name → [ method, path, what makes its header, body ]).
sub start_peer
{
	my ($name, %options) = @_;
	die "$name runs already\n" if $peers{$name};
	my $processes = $options{processes} || $node_processes;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	local %ENV = (%ENV, node_environment(), PORT => $port, PROCESSES => $processes, POOL => max(1, int(pool_size() / $processes)), SECRET => $secret,
		%{ $options{environment} || {} });
	my ($pid) = start_command('node', "$FindBin::Bin/peers/server.js", $options{program} || $name);
	my $peer = $peers{$name} = { name => $name, pid => $pid, port => $port, %options };
	wait_port($port) or die "$name did not start\n";
	while (my ($what, $call) = each %{ $options{calls} })
	{
		my ($method, $path, $header, $body) = @$call;
		write_lines(work_folder() . "/$what.$name.requests", map { request_line($method, $path, $header->($_), $body) } people);
	}
	return $peer;
}

sub stop_peer
{
	my ($name) = @_;
	my $peer = delete $peers{$name} or return;
	kill 'TERM', reverse processes($peer->{pid});
	waitpid $peer->{pid}, 0;
	return;
}

END { local $?; stop_peer($_) for keys %peers; }

# A process and its children.
sub processes
{
	my ($pid) = @_;
	my @children = -e "/proc/$pid/task/$pid/children" ? split ' ', KeelsonTest::slurp("/proc/$pid/task/$pid/children") : ();
	return ($pid, map { processes($_) } @children);
}

sub processes_cpu { my ($pid) = @_; return sum0(map { process_cpu($_) } processes($pid)); }

# Memory of processes, what they share counted once.
sub private_mib
{
	my (@pids) = @_;
	return sum0(map { -r "/proc/$_/smaps_rollup" && KeelsonTest::slurp("/proc/$_/smaps_rollup") =~ /^Pss:\s+(\d+)/m ? $1 : 0 } @pids) / 1024;
}

# One run of wrk with a peer's requests of a call.
sub run_peer
{
	my ($what, $connections, $name) = @_;
	my $peer = $peers{$name};
	return run_load("$what.$connections.$name", "$what.$name", $connections, $peer->{port},
		gateway_us => sub { processes_cpu($peer->{pid}) }, server_us => \&server_cpu);
}

# Runs a peer's call, uncounted, until what node compiles meanwhile makes it no faster, for eight seconds at most.
sub warm_peer
{
	my ($what, $name) = @_;
	my ($before, $began) = (0, time);
	while (1)
	{
		my $rate = unkept(sub { run_peer($what, 32, $name) })->{value};
		last if $rate < 1.1 * $before || time - $began > 8;
		$before = $rate;
	}
	return;
}

# Memory of a peer, in front of the database.
sub peer_memory { my ($name) = @_; return private_mib(processes($peers{$name}{pid})); }

# What a peer answers to a person who makes a call: decoded.
sub peer_ask
{
	my ($name, $call, $person) = @_;
	my $peer = $peers{$name};
	my ($method, $path, $header, $body) = @$call;
	my %headers = (split(/: /, $header->($person), 2), defined $body ? ('Content-Type' => 'application/json') : ());
	my $reply = HTTP::Tiny->new->request($method, "http://127.0.0.1:$peer->{port}$path", { headers => \%headers, defined $body ? (content => $body) : () });
	$reply->{status} == 200 or die "$name answered $reply->{status}: $reply->{content}\n";
	return KeelsonTest::json_decode($reply->{content});
}

# One run of pgbench on a call of the peers' SQL function: the most that they can reach. Each client is somebody else.
sub run_function
{
	my ($what, $connections, $call) = @_;
	write_lines(work_folder() . "/$what.function.sql", '\if :client_knows = 0',
		'select session_id, user_id from bench.peer_sessions where n = :client_id \gset', '\set client_knows 1', '\endif', $call);
	return pgbench("$what.$connections.function", $connections, "$what.function.sql");
}

# A value as text that is the same for whatever means the same: keys in order, times in UTC to the millisecond.
sub same_value
{
	my ($value) = @_;
	return KeelsonTest::json_encode(plain($value));
}

sub plain
{
	my ($value) = @_;
	return { map { $_ => plain($value->{$_}) } keys %$value } if ref $value eq 'HASH';
	return [ map { plain($_) } @$value ] if ref $value eq 'ARRAY';
	return $value if ref $value || !defined $value;
	return $value =~ /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|\+00:00)$/ ? sprintf('%sT%s.%03dZ', $1, $2, substr(($3 // '') . '000', 0, 3)) : $value;
}

# What part each sample of a round reaches of Keelson's.
sub relate
{
	my ($samples, $id) = @_;
	for my $name (grep { $_ ne 'keelson' } keys %$samples)
	{
		@{ $samples->{$name} }{qw(ratio ratio_to)} = ($samples->{$name}{value} / $samples->{keelson}{value}, "$id.keelson");
	}
	return;
}

1;
