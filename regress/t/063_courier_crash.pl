# Crashes of courier, session and postmaster while events are emitted and delivered: after each every event has exactly
# one delivery for each endpoint that wanted it, in one state. In the end all that was acknowledged has arrived, in the
# order of its key, and no more of it twice than was under way at a crash.
#
# TORTURE_SEED and TORTURE_ROUNDS say which crashes and how many: `make torture-courier` takes hundreds.

use strict;
use warnings;

use KeelsonTest;
use KeelsonTest::Hooks;
use KeelsonTest::Sink;
use Test::More;

my $rounds = $ENV{TORTURE_ROUNDS} || 5;
my $seed   = $ENV{TORTURE_SEED}   || 1815;
my $in_flight = 24;

my $keelson = KeelsonTest->new('crash', conf => join "\n",
	'keelson.environment = development', 'keelson.allow_private_targets = on', 'keelson.courier_timeout = 5',
	"keelson.courier_in_flight = $in_flight", 'fsync = on', 'max_connections = 30');
my $node = $keelson->node;
my $hooks = KeelsonTest::Hooks->new($keelson);
my $sink = KeelsonTest::Sink->new('crash');
my @people = map { $hooks->user } 1 .. 3;
$keelson->sql(q{select keelson.webhook_event_type('parcel.sent', 'A parcel was sent.', '{"n": 5}')});
my %path;    # endpoint → path
for my $person (@people)
{
	# Breakers are another test's.
	for my $path (qw(now slow/40 fail), 'now/ordered')
	{
		my $place = $path eq 'fail' ? "/fail/$person/40" : "/$path?$person";
		my $id = $hooks->endpoint($person, $sink->url($place), events => $path =~ /ordered/ ? q{'{order.*}'} : q{'{parcel.*}'},
			retry_schedule => q{'{1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}'});
		$path{$id} = $place;
		$keelson->sql("select keelson.courier_breaker_set('$id', 'forced_closed')");
	}
}

# A session that emits events, every other of one key, until it is told to end; what psql prints is acknowledged.
sub emitter
{
	my ($number) = @_;
	my $file = "$ENV{TESTDIR}/acknowledged.$number";
	my $parent = $$;
	my $pid = fork // die "fork: $!";
	return [ $pid, $file ] if $pid;
	my $ended = 0;
	local $SIG{TERM} = sub { $ended = 1; };
	local $SIG{PIPE} = 'IGNORE';
	local %ENV = (%ENV, PGAPPNAME => 'emitter', PGHOST => $node->host, PGPORT => $node->port);
	my $n = 0;
	while (!$ended && getppid() == $parent)
	{
		open my $psql, '|-', "psql -qAtX -v ON_ERROR_STOP=1 keelson >>$file 2>>$file.errors" or POSIX::_exit(1);
		for (1 .. 200)
		{
			printf $psql "select keelson.webhook_emit('order.paid', '{\"n\": %d}', '%s', 'key') from pg_sleep(0.02);\n", ++$n, $people[$number];
			printf $psql "select keelson.webhook_emit('parcel.sent', '{\"n\": %d}', '%s');\n", $n, $people[$number];
		}
		close $psql;
	}
	POSIX::_exit(0);
}

sub stop_emitters { my (@emitters) = @_; kill 'TERM', map { $_->[0] } @emitters; waitpid $_->[0], 0 for @emitters; return; }

sub crashes { my @all = $keelson->server_log =~ /was terminated by signal 9/g; return scalar @all; }

# A psql that is refused may be gone before it has been told what to do.
sub try_sql { my ($sql) = @_; my @got = eval { $keelson->try_sql($sql) }; return @got ? @got : (1, '', $@); }

sub is_up { return (try_sql('select 1'))[0] == 0; }

sub victims
{
	my ($whom) = @_;
	my $condition = $whom eq 'courier' ? "backend_type = 'keelson courier'" : "application_name = 'emitter'";
	my (undef, $pid) = try_sql("select pid from pg_stat_activity where $condition limit 1");
	return $pid;
}

# Kills somebody; false if there is nobody. Then waits until the server is back.
sub crash
{
	my ($whom) = @_;
	if ($whom eq 'postmaster')
	{
		my ($postmaster) = slurp($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
		my @children = split ' ', slurp("/proc/$postmaster/task/$postmaster/children");
		$node->kill9;
		wait_until(sub { !grep { kill 0, $_ } @children }, 60) or return 0;
		$node->start;
	}
	else
	{
		my $before = crashes();
		wait_until(sub { my $pid = victims($whom); $pid && kill 'KILL', $pid }, 30) or return 0;
		wait_until(sub { crashes() > $before }, 30) or return 0;
	}
	return wait_until(sub { is_up() }, 60);
}

srand $seed;
note("seed $seed, $rounds rounds");
my @emitters = map { emitter($_) } 0 .. $#people;
for my $round (1 .. $rounds)
{
	my $whom = $round <= 3 ? (qw(courier backend postmaster))[ $round - 1 ] : (qw(courier backend postmaster))[ int rand 3 ];
	my $seen = $sink->count;
	my $more = 10 + int rand 150;
	wait_until(sub { $sink->count >= $seen + $more }, 30) or diag('little is delivered');
	ok(crash($whom), "round $round: the server is back after a crash of a $whom") or last;
	$hooks->is_balanced("round $round");
}
stop_emitters(@emitters);

ok(wait_until(sub { $keelson->sql('select count(*) from keelson.deliveries') == 0 }, 120), 'everything is delivered in the end')
	or diag($keelson->sql('select lane, attempts, due_at, claim_id is not null, lease_until from keelson.deliveries limit 5'));
$hooks->is_balanced('in the end');
like($keelson->sql('select states from keelson.webhook_accounting()'), qr/^\{"delivered": \d+\}$/, 'delivered, not cancelled');
my @acknowledged = grep { /^[0-9a-f-]{36}$/ } map { -e $_->[1] ? split /\n/, slurp($_->[1]) : () } @emitters;
cmp_ok(scalar @acknowledged, '>', 20 * $rounds, 'events were acknowledged');
my %arrived;    # id and path → times that it was taken
my %order;      # path → numbers in the order that they first came in
for my $request ($sink->requests)
{
	my $event = "$request->{headers}{'webhook-id'} $request->{path}";
	push @{ $order{ $request->{path} } }, json_decode($request->{body})->{data}{n} if !$arrived{$event}++ && $request->{path} =~ /ordered/;
}
my $lost = $keelson->sql('select count(*) from unnest(array[' . join(', ', map { "'$_'" } @acknowledged)
	. ']::uuid[]) as a (id) where not exists (select from keelson.webhook_events as e where e.id = a.id)');
is($lost, 0, 'none that was acknowledged is lost');
my @events = split /\n/, $keelson->sql('select e.id, w.id from keelson.webhook_events as e cross join lateral unnest(e.endpoint_ids) as w (id)');
is(scalar(grep { my ($event, $endpoint) = split /\|/; !$arrived{"$event $path{$endpoint}"} } @events), 0, 'each has arrived at each endpoint');
my $again = 0;
for my $event (keys %arrived) { $again += $arrived{$event} - 1 unless $event =~ m{/fail/}; }
cmp_ok($again, '<=', $rounds * $in_flight, 'no more came twice than was under way');
note(scalar(@events) . " deliveries, $again came again");
is(scalar(grep { my $numbers = $order{$_}; grep { $numbers->[$_] < $numbers->[ $_ - 1 ] } 1 .. $#$numbers } keys %order), 0, 'those of a key came in their order');

$keelson->stop;
done_testing();
