# A run of the tests that is told to end does so while a test runs, and leaves neither that nor its server behind.

use strict;
use warnings;

use File::Temp qw(tempdir);
use KeelsonTest;
use POSIX qw(WNOHANG);
use Test::More;

# A run with one test; its server, in a session of its own, takes its pid file with it as PostgreSQL does.
my $run = <<'END';
for part in lib.sh places.sh check-stage.sh check-memory.sh check-run.sh; do
	. "$1/scripts/$part"
done
MODE=plain SOURCE=$1 STAGE=$2 STAGE_BIN=/usr/bin CHECK_USER=$(id -un)
trap end_check EXIT
trap 'exit 130' INT TERM
as_tester sh -c '
	mkdir "$1/data" && cd "$1/data" || exit
	setsid env --default-signal=QUIT sh -c "trap \"rm postmaster.pid; exit\" QUIT; echo \$\$ >postmaster.pid; while :; do sleep 0.1; done" <"$1/input" &
	echo $$ >"$1/test.pid"
	exec sleep 300' sh "$STAGE"
END

sub is_alive
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/stat" or return 0;
	return (<$file> // '') =~ /.*\) [^ZX]/;
}

for my $signal (qw(TERM INT))
{
	my $folder = tempdir(CLEANUP => 1);
	open my $input, '>', "$folder/input" or die "input: $!";
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		exec 'bash', '-c', $run, 'bash', $KeelsonTest::root, $folder or POSIX::_exit(127);
	}
	my @files = map { "$folder/$_" } qw(test.pid data/postmaster.pid);
	ok(wait_until(sub { !grep { !-s $_ } @files }), "$signal: a test and its server run");
	my ($test, $server) = map { slurp($_) =~ s/\s//gr } @files;
	kill $signal, $pid;
	ok(wait_until(sub { waitpid($pid, WNOHANG) == $pid }), "$signal: the run ends");
	is($? >> 8, 130, "$signal: and says so");
	ok(wait_until(sub { !is_alive($test) }), "$signal: so has the test");
	ok(wait_until(sub { !is_alive($server) }), "$signal: and the server");
	kill 'KILL', grep { is_alive($_) } $test, $server;
}

done_testing();
