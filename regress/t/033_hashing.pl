# The hasher: a bounded number of hashes at once, in the order they were asked; what is cancelled, ended or killed
# leaves neither a place taken nor a password behind; and others have the processors between its turns.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('hashing', conf => "keelson.password_hash_slots = 2\nlog_min_messages = log");
my $node = $keelson->node;
my $costly = '$argon2id$v=19$m=65536,t=16,p=1$jj5Wj9SoXcL4ObwQwEoHvQ$VHdFO/xlxlajruQaqmNIJTdyOvJSJ9KzL9MceFvD6TY';
my $compare_costly = "select keelson.password_verify('x', '$costly')";
my $round_trip = q{select keelson.password_verify('x', keelson.password_hash('x'))};
my ($stopped, @others);

# A stopped process would not let the server end; nor would the others end by themselves.
END { kill 'CONT', $stopped if $stopped; kill 'TERM', @others; }

sub hasher { return $keelson->sql(q{select pid from pg_stat_activity where backend_type = 'keelson hasher'}); }
sub queue  { return $keelson->sql(q{select running || ' ' || waiting from keelson._password_queue()}); }
sub becomes { my ($state) = @_; return wait_until(sub { queue() eq $state }, 60); }

sub stop_hasher
{
	$stopped = hasher();
	kill 'STOP', $stopped;
	return wait_until(sub { slurp("/proc/$stopped/stat") =~ /\) T / });
}

sub let_go { kill 'CONT', $stopped; undef $stopped; return; }

# A session that runs statements, and what it says.
sub ask
{
	my (@statements) = @_;
	my %session = (said => '', complaints => '');
	$session{process} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('keelson'), map { ('-c', $_) } @statements ],
		'<', \undef, '>', \$session{said}, '2>', \$session{complaints});
	return \%session;
}

sub is_active
{
	my ($session) = @_;
	$session->{process}->pump_nb if $session->{process}->pumpable;
	return $session->{process}->pumpable;
}

sub answer { my ($session) = @_; $session->{process}->finish; return $session->{said} . $session->{complaints}; }

# The process of the session that runs such a statement.
sub session_pid
{
	my ($like) = @_;
	return $keelson->sql(qq{select min(pid) from pg_stat_activity where query like '$like' and state = 'active' and pid <> pg_backend_pid()});
}

subtest 'more askers than slots' => sub {
	my $most = 0;
	# The costly ones first, so that both slots are taken long enough to be seen; but not for the ten seconds that the
	# others wait at most, however busy the machine is.
	my @sessions = map { ask($compare_costly =~ s/t=16/t=6/r) } 1 .. 2;
	push @sessions, map { ask($round_trip) } 1 .. 4;
	wait_until(sub {
		my ($running) = split / /, queue();
		$most = $running if $running > $most;
		return !grep { is_active($_) } @sessions;
	}, 120);
	is(scalar(grep { answer($_) eq "f\n" } @sessions[ 0 .. 1 ]), 2, 'each gets its answer');
	is(scalar(grep { answer($_) eq "t\n" } @sessions[ 2 .. 5 ]), 4, 'and the right one');
	is($most, 2, 'as many run at once as there are slots');
};

subtest 'what waits' => sub {
	ok(stop_hasher(), 'the hasher is stopped');
	my $late = ask($round_trip);
	my @sessions = map { ask($round_trip) } 1 .. 3;
	ok(becomes('0 4'), 'four wait') or diag queue();
	my (undef, undef, $said) = $keelson->try_sql("set statement_timeout = '200ms'; $round_trip");
	like($said, qr/canceling statement due to statement timeout/, 'a fifth is cancelled by its timeout');
	is(queue(), '0 4', 'and leaves the queue');
	$keelson->sql('select pg_terminate_backend(' . session_pid('%password_verify%password_hash%') . ')');
	ok(becomes('0 3'), 'so does one whose session is ended');
	ok(wait_until(sub { $keelson->sql('select refused from keelson._password_queue()') >= 1 }, 20), 'none waits longer than ten seconds');
	ok(becomes('0 0'), 'all have left');
	my @answers = map { answer($_) } $late, @sessions;
	is(scalar(grep { /too many passwords are being checked/ } @answers), 3, 'which they are told');
	is(scalar(grep { /terminating connection/ } @answers), 1, 'the fourth has been ended');
	let_go();
	is($keelson->sql($round_trip), 't', 'afterwards all is as before');
};

# Processes that keep every processor busy, until they are ended.
sub keep_busy
{
	my $processors = () = slurp('/proc/cpuinfo') =~ /^processor\b/mg;
	@others = map {
		my $pid = fork // die "no process: $!\n";
		if ($pid == 0) { $SIG{TERM} = 'DEFAULT'; 1 while 1; }
		$pid;
	} 1 .. 2 * $processors;
	return;
}

# How often, at most, one of the hasher's threads has stopped of its own will since it began.
sub pauses
{
	my ($main) = @_;
	my @threads = grep { !m{/$main/status$} } glob "/proc/$main/task/*/status";
	return (sort { $b <=> $a } 0, map { eval { slurp($_) =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : 0 } // 0 } @threads)[0];
}

subtest 'while others want the processors' => sub {
	my $hasher = hasher();
	keep_busy();
	my $session = ask($compare_costly);
	ok(wait_until(sub { pauses($hasher) > 20 }, 60), 'a hash stops again and again');
	kill 'TERM', @others;
	waitpid $_, 0 for splice @others;
	is(answer($session), "f\n", 'and ends as it would have');
};

subtest 'cancelled while it is computed' => sub {
	my $session = ask($compare_costly);
	ok(becomes('1 0'), 'one is computed');
	ok(stop_hasher(), 'and stays so');
	$keelson->sql('select pg_cancel_backend(' . session_pid('%password_verify%') . ')');
	like(answer($session), qr/canceling statement due to user request/, 'its session waits no longer');
	is(queue(), '1 0', 'its slot is taken as long as it runs');
	let_go();
	is($keelson->sql($round_trip), 't', 'others are served');
	ok(becomes('0 0'), 'and the slot is free in the end');
};

subtest 'the hasher is ended' => sub {
	my $hasher = hasher();
	my @sessions = map { ask($compare_costly) } 1 .. 3;
	ok(becomes('2 1'), 'two are computed, one waits');
	my $unwanted = ask(q{set statement_timeout = '100ms'}, $compare_costly);
	$keelson->sql("select pg_terminate_backend($hasher)");
	like(answer($unwanted), qr/statement timeout/, 'one is given up meanwhile');
	is(scalar(grep { answer($_) eq "f\n" } @sessions), 3, 'the next hasher answers them');
	isnt(hasher(), $hasher, 'it is another process');
	ok(becomes('0 0'), 'no slot is lost');
};

subtest 'the hasher is killed' => sub {
	my @sessions = map { ask($compare_costly) } 1 .. 3;
	ok(becomes('2 1'), 'two are computed, one waits');
	kill_server_process(hasher());
	is(scalar(grep { answer($_) =~ /terminating connection|server closed the connection|connection to server/ } @sessions), 3, 'the server starts over');
	ok(wait_until(sub { ($keelson->try_sql('select 1'))[0] == 0 }, 30), 'and is there');
	is($keelson->sql($round_trip), 't', 'with a hasher');
	ok(becomes('0 0'), 'and all slots');
};

# The area is shared: any process of the server's shows it.
subtest 'a password stays in memory as long as it is needed' => sub {
	my $keeper = $keelson->sql(q{select pid from pg_stat_activity where backend_type = 'keelson keeper'});
	# In two halves: the server shows statements to all of its processes.
	my ($left, $right) = map { join '-', 'planted', map { int rand 1e9 } 1 .. 3 } 1 .. 2;
	my ($password, $statement) = ("$left$right", "select keelson.password_hash('$left' || '$right')");
	defined process_holds($keeper, 'x') or plan skip_all => 'the memory of a process cannot be looked at';
	ok(stop_hasher(), 'the hasher is stopped');
	my $session = ask($statement);
	ok(becomes('0 1'), 'a password waits');
	is(process_holds($keeper, $password), 1, 'in shared memory');
	$keelson->sql('select pg_cancel_backend(' . session_pid("%$left%") . ')');
	like(answer($session), qr/canceling statement/, 'it is cancelled');
	is(process_holds($keeper, $password), 0, 'and is wiped');
	let_go();
	like($keelson->sql($statement), qr/^\$argon2id/, 'another is hashed');
	is(process_holds($_, $password), 0, 'and wiped too') for $keeper, hasher();
};

# What is hashed is in NFC: that tells it from what the statement says.
subtest 'nor does it stay in the backend whose wait is cancelled' => sub {
	my %acute = (a => "\xe1", e => "\xe9", i => "\xed", o => "\xf3", u => "\xfa");
	my @vowels = map { (sort keys %acute)[ rand 5 ] } 1 .. 300;
	my $decomposed = join '', map { "$_\x{301}" } @vowels;
	my $composed = join '', map { $acute{$_} } @vowels[ 100 .. 200 ];
	utf8::encode($_) for $decomposed, $composed;
	defined process_holds(hasher(), 'x') or plan skip_all => 'the memory of a process cannot be looked at';
	ok(stop_hasher(), 'the hasher is stopped');
	my $session = ask(q{set statement_timeout = '200ms'}, "select keelson.password_hash('$decomposed')", 'reset statement_timeout', $round_trip);
	ok(wait_until(sub { session_pid('%password_verify%') }), 'a wait is cancelled, and the session goes on');
	ok(becomes('0 1'), 'with another');
	is(process_holds(session_pid('%password_verify%'), $composed), 0, 'what was to be hashed is nowhere in it');
	let_go();
	like(answer($session), qr/statement timeout/, 'it was cancelled');
};

subtest 'no hasher' => sub {
	$node->append_conf('postgresql.conf', 'max_worker_processes = 1');
	$node->restart;
	is(hasher(), '', 'there is no process for it');
	my (undef, undef, $said) = $keelson->try_sql($round_trip);
	like($said, qr/too many passwords are being checked/, 'who waits is told after ten seconds');
	like($keelson->server_log, qr/the process that hashes passwords is not there.*\n.*HINT:.*max_worker_processes/, 'the log says why');
};

done_testing();
$keelson->stop;
