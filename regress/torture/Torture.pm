# A run of the torture: a cluster, a gateway, receivers; callers that ask for everything; faults, one after the other, as a
# seed has drawn them; and in the end what must hold.
#
#   my $run = Torture->new(seed => 7, rounds => 12);
#   $run->perform;      # tests as it goes
#
# The seed decides which faults there are, in which order, with which numbers, and what each caller rolls; how the
# processes interleave it cannot decide.

package Torture;

use strict;
use warnings;

use Carp;
use KeelsonTest;
use KeelsonTest::MailServer;
use KeelsonTest::Sink;
use Test::More;
use Time::HiRes qw(sleep time);

use Torture::Calls;
use Torture::Client;
use Torture::Emitter;
use Torture::Faults;
use Torture::Flows;
use Torture::Invariants;
use Torture::Report;

# For how long after a fault has been mended somebody may still be told of it.
my $grace = 2;

# Options: seed, rounds, faults (a list of names: all), flow_callers, load_callers, emitters.
sub new
{
	my ($class, %given) = @_;
	my $self = bless {
		flow_callers => 2, load_callers => 2, emitters => 1, descriptors => 400, in_flight => 24, %given,
		folder => $ENV{TESTDIR}, mark => 'Torture' . 'Mark', counts => {}, found => [], windows => [], began => time(),
	}, $class;
	$self->{schedule} = $self->draw;
	return $self;
}

# The rounds: a fault, its numbers, and how long the load goes on before. Every fault comes once before any comes again.
sub draw
{
	my ($self) = @_;
	my @names = @{ $self->{faults} || [] } ? @{ $self->{faults} } : sort keys %Torture::Faults::faults;
	my ($unknown) = grep { !$Torture::Faults::faults{$_} } @names;
	croak "there is no fault $unknown: " . join ' ', sort keys %Torture::Faults::faults if defined $unknown;
	srand $self->{seed};
	my (@schedule, @bag);
	for (1 .. $self->{rounds})
	{
		@bag = map { $_->[1] } sort { $a->[0] <=> $b->[0] } map { [ rand(), $_ ] } @names unless @bag;
		push @schedule, { fault => shift @bag, drawn => [ map { rand() } 1 .. 3 ], calm => 0.2 + rand 0.8 };
	}
	return \@schedule;
}

sub perform
{
	my ($self) = @_;
	$self->set_up;
	$self->begin_load;
	$self->take_base;
	my $number = 0;
	for my $round (@{ $self->{schedule} })
	{
		$number++;
		sleep $round->{calm};
		last unless $self->round($number, $round);
	}
	sleep 1;
	$self->end_load;
	Torture::Invariants::check($self);
	diag($_) for Torture::Report::write($self);
	return;
}

sub round
{
	my ($self, $number, $round) = @_;
	my $window = { fault => $round->{fault}, from => time() };
	push @{ $self->{windows} }, $window;
	eval { $Torture::Faults::faults{ $round->{fault} }->($self, @{ $round->{drawn} }); 1 } or do
	{
		my $reason = $@;
		$window->{until} = time();
		chomp $reason;
		return $self->{skipped}{ $round->{fault} } = $1 if $reason =~ /^skip: (.*)/;
		return ok(0, "round $number: $round->{fault}: $reason");
	};
	my $mended = time();
	my $is_well = ok($self->recovers, "round $number: $round->{fault}: it recovers") || $self->show_state;
	$window->{until} = time();
	push @{ $self->{recoveries}{ $round->{fault} } }, $window->{until} - $mended;
	return $is_well;
}

# Whether all is well again, by itself: the server, the gateway and each of its lanes (fast, slow, upstream), the workers.
sub recovers
{
	my ($self) = @_;
	my $gateway = $self->{gateway};
	my %how = (fresh => 1, timeout => 5, token => $self->{client}->token_of($self->{admin}));
	return wait_until(sub {
		return $gateway->running && $gateway->get('/ready', fresh => 1, timeout => 5)->{status} == 200
			&& $gateway->get('/api/auth/me', %how)->{status} == 200
			&& !(grep { $gateway->post("/api/torture/$_", { seconds => 0 }, %how)->{status} != 204 } qw(nap wait))
			&& (($self->{keelson}->try_sql(q{select count(distinct backend_type) from pg_stat_activity where backend_type in ('keelson courier', 'keelson keeper', 'keelson incoming')}))[1] // '') eq '3';
	}, 60);
}

sub show_state
{
	my ($self) = @_;
	diag((reverse((reverse split /(?<=\n)/, $self->{keelson}->server_log)[ 0 .. 30 ])));
	diag(($self->{keelson}->try_sql('select pid, backend_type, state, wait_event_type, wait_event, left(query, 80) from pg_stat_activity'))[1]);
	my $reply = $self->{gateway}->request('GET', '/ready', fresh => 1, timeout => 5);
	diag("/ready: $reply->{status} $reply->{content}");
	return 0;
}

# Whether an hour lies in the time of a fault, or shortly after.
sub is_excused
{
	my ($self, $from, $until) = @_;
	return scalar grep { $from <= ($_->{until} // 9e99) + $grace && $until >= $_->{from} } @{ $self->{windows} };
}

sub found { my ($self, $text) = @_; push @{ $self->{found} }, $text; return; }
sub count { my ($self, $what, $times) = @_; return $self->{counts}{$what} += $times // 1; }
sub sql   { my ($self, $sql) = @_; return $self->{keelson}->sql($sql); }

# How often the server has noticed that one of its processes was killed, and how often that a disk is full.
sub crashes  { my ($self) = @_; return $self->read_log->{killed}; }
sub refusals { my ($self) = @_; return $self->read_log->{full}; }

# Reads what the server has logged since the last time, whole lines of it.
sub read_log
{
	my ($self) = @_;
	my $seen = $self->{seen} ||= { killed => 0, full => 0, place => 0 };
	open my $log, '<:raw', $self->{keelson}->node->logfile or die "log: $!\n";
	seek $log, $seen->{place}, 0;
	while (defined(my $line = <$log>))
	{
		last unless $line =~ /\n\z/;
		$seen->{place} += length $line;
		$seen->{killed}++ if $line =~ /was terminated by signal 9/;
		$seen->{full}++ if $line =~ /No space left on device/;
	}
	return $seen;
}

# Setting up.

sub set_up
{
	my ($self) = @_;
	my $place = $ENV{KEELSON_TEST_SMALL};
	$self->{small} = { map { $_ => "$place/$_" } grep { -d "$place/$_" } qw(data wal) } if $place;
	my $mails = $self->{mails} = KeelsonTest::MailServer->new('torture', password => "$self->{mark}mail") if KeelsonTest::MailServer::is_available();
	my $keelson = $self->{keelson} = KeelsonTest->new('torture', bare => 1, initdb => ['--wal-segsize=1'], conf => join "\n", $self->settings);
	$self->move_to_small_disks if $self->{small};
	$keelson->sql('create role hoarder login', database => 'postgres');
	$keelson->sql('create database keelson' . ($self->{small} ? ' tablespace small' : ''), database => 'postgres');
	$keelson->install;
	$keelson->migrate;
	$keelson->sql("select keelson.network_exempt('127.0.0.0/8', 'tests')");
	$keelson->sql(slurp("$KeelsonTest::root/regress/torture/product.sql"));
	$keelson->sql("select keelson.webhook_secret_add('torture', '$Torture::Flows::source_secret')");
	$keelson->sql("select keelson.secret_set('cron_secret', '$self->{mark}-cron-secret-of-the-run')");
	$keelson->sql(sprintf q{select keelson.tier_limit_set('free', 'orders', %d, is_hard => true, resets => 'never')}, 20 + 6 * $self->{rounds});
	$keelson->sql("select keelson.secret_set('smtp_url', '" . $mails->url('starttls') . q{')}) if $mails;
	$self->{sink} = KeelsonTest::Sink->new('torture');
	$self->{sink}->put('weather', '/fine');
	$keelson->sql("update keelson.api_key_services set base_url = '" . $self->{sink}->url('/as') . "', verify_path = '/weather'");
	local $ENV{KEELSON_TEST_GATEWAY_WRAPPER} = "prlimit --nofile=$self->{descriptors} " . ($ENV{KEELSON_TEST_GATEWAY_WRAPPER} || '');
	$self->{gateway} = $keelson->gateway(KEELSON_DRAIN_SECONDS => 10);
	$self->{client} = $self->client(0);
	$self->{admin} = { since => time(), %{ $keelson->user($self->{gateway}, email => 'admin@torture.example.com', password => "horse $self->{mark}admin") } };
	$keelson->sql("select keelson.role_grant('$self->{admin}{email}', 'owner')");
	return;
}

# Everything may be logged that can be; segments are small, so that a full disk is soon met.
sub settings
{
	my ($self) = @_;
	return ('keelson.environment = development', 'keelson.allow_private_targets = on', 'keelson.courier_timeout = 2', "keelson.courier_in_flight = $self->{in_flight}",
		'fsync = on', 'max_connections = 40', 'keelson.audit_ring_size = 64kB', "log_line_prefix = '%m [%p] %e '", 'log_parameter_max_length_on_error = -1',
		'min_wal_size = 2MB', 'max_wal_size = 32MB', 'keelson.mail_from = \'no-reply@torture.example.com\'', 'keelson.mail_domain_rate = 0',
		'deadlock_timeout = 200ms', $self->{mails} ? "keelson.courier_ca_file = '" . $self->{mails}->authority . q{'} : ());
}

# The database, and the log of the cluster's writes, each to a file system that can be filled.
sub move_to_small_disks
{
	my ($self) = @_;
	my ($keelson, $small) = @$self{qw(keelson small)};
	my $data = $keelson->node->data_dir;
	$keelson->node->stop('fast');
	system('cp', '-a', "$data/pg_wal", "$small->{wal}/pg_wal") == 0 && system('rm', '-rf', "$data/pg_wal") == 0
		&& symlink("$small->{wal}/pg_wal", "$data/pg_wal") or die "moving pg_wal: $!\n";
	$keelson->node->start;
	mkdir "$small->{data}/tablespace" or die "$small->{data}/tablespace: $!\n";
	$keelson->sql("create tablespace small location '$small->{data}/tablespace'", database => 'postgres');
	return;
}

# The server.

sub kill_postmaster
{
	my ($self) = @_;
	my $node = $self->{keelson}->node;
	my ($postmaster) = slurp($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @children = split ' ', eval { slurp("/proc/$postmaster/task/$postmaster/children") } // '';
	kill 'KILL', $postmaster;
	$node->{_pid} = undef;
	wait_until(sub { !kill(0, $postmaster) && !grep { kill 0, $_ } @children }, 60) or die "children of the postmaster live on\n";
	return;
}

# Starts the server, if it does not run; waits until it takes sessions, unless told otherwise.
sub start_server
{
	my ($self, %options) = @_;
	my $node = $self->{keelson}->node;
	local %ENV = $node->_get_env;
	return unless wait_until(sub {
		my ($postmaster) = -e $node->data_dir . '/postmaster.pid' ? slurp($node->data_dir . '/postmaster.pid') =~ /^(\d+)/ : ();
		unless ($postmaster && kill 0, $postmaster)
		{
			PostgreSQL::Test::Utils::system_log('pg_ctl', $options{wait} // 1 ? '-w' : '-W', '-D', $node->data_dir, '-l', $node->logfile, 'start');
			$self->count('starts of the server');
		}
		return 1 unless $options{wait} // 1;
		return ($self->{keelson}->try_sql('select 1'))[0] == 0;
	}, 60);
	$node->_update_pid(-1);
	return;
}

# The load.

sub begin_load
{
	my ($self) = @_;
	my $description = $self->{gateway}->get('/api/openapi.json')->{json};
	$self->{description} = $description;
	my $callers = $self->{flow_callers} + $self->{load_callers} + $self->{emitters};
	for my $number (1 .. $callers)
	{
		my $pid = fork // die "fork: $!";
		if ($pid) { push @{ $self->{callers} }, $pid; next; }
		my $status = eval { $self->caller_process($number, $description); 1 } ? 0 : 1;
		diag("caller $number: $@") if $status;
		POSIX::_exit($status);
	}
	ok(wait_until(sub { $callers == grep { -e "$self->{folder}/began.$_" } 1 .. $callers }, 60), 'the load has begun');
	my $endpoints = $self->sql(q{select coalesce(string_agg(id::text, ' '), '') from keelson.webhook_endpoints});
	$self->sql("select keelson.courier_breaker_set('$_', 'forced_closed')") for split ' ', $endpoints;
	return;
}

# What a caller does until it is told to end; then it asks what was not answered.
sub caller_process
{
	my ($self, $number, $description) = @_;
	my $ended = 0;
	my $parent = getppid;
	local $SIG{TERM} = sub { $ended = 1 };
	local $SIG{PIPE} = 'IGNORE';
	srand $self->{seed} * 1000 + $number;
	my $client = $self->client($number);
	my ($step, $finish) = $number <= $self->{flow_callers} ? $self->flows_of($client)
		: $number <= $self->{flow_callers} + $self->{load_callers} ? $self->calls_of($client, $description)
		: $self->events_of($client);
	open my $began, '>', "$self->{folder}/began.$number" or die "began: $!";
	while (!$ended && getppid == $parent)
	{
		$step->();
		sleep 0.01;
	}
	$finish->();
	$client->finish;
	return;
}

# One that asks: number 0 is the run itself.
sub client
{
	my ($self, $number) = @_;
	return Torture::Client->new(gateway => $self->{gateway}, number => $number, folder => $self->{folder}, mark => $self->{mark});
}

sub flows_of
{
	my ($self, $client) = @_;
	my $state = Torture::Flows::begin($client, $self->{sink}) or die "the flows could not begin\n";
	return (sub { Torture::Flows::step($client, $state) }, sub { Torture::Flows::finish($client, $state) });
}

sub calls_of
{
	my ($self, $client, $description) = @_;
	my $calls = Torture::Calls->new($client, $description, sink => $self->{sink}, admin => $self->{admin}, cron => "$self->{mark}-cron-secret-of-the-run",
		place => $client->number % $self->{load_callers}, of => $self->{load_callers});
	return (sub { $calls->step }, sub { $calls->finish });
}

sub events_of
{
	my ($self, $client) = @_;
	my $emitter = Torture::Emitter->new($self, $client);
	return (sub { $emitter->step }, sub { $emitter->finish });
}

sub end_load
{
	my ($self) = @_;
	kill 'TERM', @{ $self->{callers} };
	my @lame = grep { my $pid = $_; waitpid($pid, 0); $? } @{ $self->{callers} };
	is(scalar @lame, 0, 'every caller has come to its end');
	delete $self->{callers};
	return;
}

sub take_base { my ($self) = @_; $self->{base} = $self->measure; return; }

# What gateway and server hold: descriptors, memory of their own in kB, sessions.
sub measure
{
	my ($self) = @_;
	my $pid = $self->{gateway}->pid;
	my @descriptors = glob "/proc/$pid/fd/*";
	my %measured = (descriptors => scalar @descriptors, gateway => private_memory($pid));
	for my $line (split /\n/, $self->sql(q{select pid, backend_type from pg_stat_activity where usename = 'keelson_gateway' or backend_type like 'keelson%'}))
	{
		my ($process, $what) = split /\|/, $line;
		$measured{$what} ||= [];
		push @{ $measured{$what} }, private_memory($process);
	}
	return \%measured;
}

# Memory of a process that is neither a file's nor shared, in kB.
sub private_memory
{
	my ($pid) = @_;
	my $text = eval { slurp("/proc/$pid/smaps_rollup") } // '';
	return $text =~ /^Private_Dirty: +(\d+)/m ? 0 + $1 : 0;
}

1;
