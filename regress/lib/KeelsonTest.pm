# A private cluster with Keelson in it, for the TAP tests.
#
#   use KeelsonTest;
#   my $keelson = KeelsonTest->new('door');             # started, extension created, migrated
#   my $gateway = $keelson->gateway(KEELSON_LOOPS => 1);  # the real binary, ready
#   my $reply   = $gateway->get('/api/auth/status');
#
# The surroundings come by environment (scripts/ and the Makefile set it):
#   KEELSON_TEST_BINDIR   bin directory of the PostgreSQL tree that holds the extension
#   KEELSON_TEST_GATEWAY  the gateway's binary
#   KEELSON_TEST_GATEWAY_WRAPPER  words put before it (valgrind …)
#   KEELSON_TEST_SLOW     factor on every deadline (sanitizer and valgrind runs)
#   KEELSON_TEST_GENTLE   what a test leaves running is stopped, not killed, and what it kills is let know shortly before, so
#                         that each can tell what it has run
#   KEELSON_TEST_TMP      where scratch files go; VECTORS  the published vectors
#   KEELSON_TEST_TEMPLATE where a cluster is kept that others are copies of (KeelsonTest/Template.pm)
#
# Nothing here sleeps for luck: wait_until() polls a condition with a deadline.

package KeelsonTest;

use strict;
use warnings;

use Carp;
use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(basename dirname);
use File::Path qw(make_path remove_tree);
use File::Temp ();
# Whose true and false the tests name; they are JSON::XS's too.
use JSON::PP ();
use JSON::XS ();
use MIME::Base64 qw(encode_base64);
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(wait_until json_decode json_encode kill_server_process process_holds slurp);

our $slow = $ENV{KEELSON_TEST_SLOW} || 1;
our $root = abs_path(dirname(__FILE__) . '/../..');

BEGIN
{
	$ENV{KEELSON_TEST_BINDIR} or die "KEELSON_TEST_BINDIR is not set: run the tests by \"make check\"\n";
	chomp(my $pgxs = `@{[ $ENV{PG_CONFIG} || 'pg_config' ]} --pgxs`);
	$ENV{PATH} = "$ENV{KEELSON_TEST_BINDIR}:$ENV{PATH}";
	# A folder for each test, emptied of what an earlier failure left.
	($ENV{TESTDIR} = ($ENV{KEELSON_TEST_TMP} || 'tmp') . '/' . basename($0)) =~ s/\.pl$//;
	remove_tree($ENV{TESTDIR});
	make_path($ENV{TESTDIR});
	# From 16 on the server's own modules ask for each place by itself.
	$ENV{TESTDATADIR} = "$ENV{TESTDIR}/tmp_check";
	$ENV{TESTLOGDIR} = "$ENV{TESTDATADIR}/log";
	my $source = dirname($pgxs) . '/../..';
	$ENV{PG_REGRESS} ||= "$source/src/test/regress/pg_regress";
	unshift @INC, "$source/src/test/perl";
}

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils ();

use KeelsonTest::Gateway;
use KeelsonTest::Template;

if ($ENV{KEELSON_TEST_GENTLE})
{
	no warnings 'redefine';
	*PostgreSQL::Test::Cluster::teardown_node = sub { $_[0]->stop('fast', fail_ok => 1) };
}

my $json = JSON::XS->new->utf8->canonical->allow_nonref;

# Surrogates, and what is past the last character, are no UTF-8, which JSON::XS lets pass.
sub json_decode
{
	croak 'malformed UTF-8' if ($_[0] // '') =~ /\xed[\xa0-\xbf]|\xf4[\x90-\xbf]|[\xf5-\xff]/;
	return $json->decode($_[0]);
}

sub json_encode { return $json->encode($_[0]); }

# The bytes of a file.
sub slurp
{
	my ($path) = @_;
	open my $file, '<:raw', $path or croak "$path: $!";
	local $/;
	return scalar <$file>;
}

# Polls a condition until it holds; its value, or false when the seconds are over.
sub wait_until
{
	my ($condition, $seconds) = @_;
	my $deadline = time() + ($seconds || 10) * $slow;
	while (1)
	{
		my $value = $condition->();
		return $value if $value;
		return 0 if time() > $deadline;
		sleep(0.02);
	}
}

# Whether bytes stand anywhere in a process's memory; undef where it cannot be looked at. What spans gigabytes is the
# sanitizer's notes about the rest: no contents, and hours of reading.
sub process_holds
{
	no warnings 'portable';
	my ($pid, $bytes) = @_;
	open my $memory, '<:raw', "/proc/$pid/mem" or return undef;
	for my $line (split /\n/, slurp("/proc/$pid/maps"))
	{
		my ($from, $until, $what) = $line =~ /^([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ \S+\s*(.*)/ or next;
		next if $what =~ /^\[v/;
		my ($place, $end, $tail) = (hex $from, hex $until, '');
		next if $end - $place > 1 << 30;
		while ($place < $end)
		{
			sysseek $memory, $place, 0 or last;
			my $got = sysread $memory, my $piece, $end - $place < 1 << 20 ? $end - $place : 1 << 20 or last;
			return 1 if index($tail . $piece, $bytes) >= 0;
			$tail = substr $piece, -length $bytes;
			$place += $got;
		}
	}
	return 0;
}

# What stands in base64, of either alphabet, wherever the text stands in what was encoded: for each of three places the
# characters that come from the text alone.
sub base64_forms
{
	my ($text) = @_;
	my %forms;
	for my $place (0 .. 2)
	{
		my $encoded = encode_base64('x' x $place . $text, '');
		$encoded =~ s/.=+$//;
		$encoded = substr $encoded, (0, 2, 3)[$place];
		$forms{$encoded} = 1;
		$forms{ $encoded =~ tr{+/}{-_}r } = 1;
	}
	return sort keys %forms;
}

# A started cluster. Options: conf (more postgresql.conf), bare (no keelson in it at all),
# unmigrated (created, not migrated), database (its name), initdb (more of its arguments), limits (rate limits hold for the
# tests' own requests), fresh (made from nothing, as all are of which the options ask for what the template is not).
sub new
{
	my ($class, $name, %options) = @_;
	my $self = bless {
		name     => $name,
		database => $options{database} || 'keelson',
		password => join('', map { sprintf '%02x', rand 256 } 1 .. 16),
		gateways => [],
		users    => 0,
	}, $class;
	my $node = $self->{node} = PostgreSQL::Test::Cluster->new($name);
	$self->{keyring} = $node->basedir . '/keyring';
	my $is_usual = !grep { $options{$_} } qw(bare uninstalled unmigrated database initdb fresh);
	my $template = $is_usual ? KeelsonTest::Template->find : undef;
	$template ? $template->copy_to($self) : $self->_make(%options);
	$node->append_conf('postgresql.conf', $self->_settings(%options));
	$node->start;
	return $self if $options{bare};
	if ($template) { $self->set_password; }
	else
	{
		$node->safe_psql('postgres', "create database $self->{database}");
		return $self if $options{uninstalled};
		$self->install;
		return $self if $options{unmigrated};
		$self->migrate;
	}
	$self->sql("select keelson.network_exempt('127.0.0.0/8', 'tests')") unless $options{limits};
	return $self;
}

# The data directory and the keyring of a new cluster.
sub _make
{
	my ($self, %options) = @_;
	$self->{node}->init(extra => [ '--encoding=UTF8', '--locale=C.UTF-8', @{ $options{initdb} || [] } ]);
	KeelsonTest::write_keyring($self->{keyring});
	$self->_allow_gateway;
	return;
}

# The settings of a test cluster: small, and everything that Keelson needs.
sub _settings
{
	my ($self, %options) = @_;
	my $preload = exists $options{preload} ? $options{preload} : 'keelson';
	return join "\n", "# Of Keelson's tests", "shared_preload_libraries = '$preload'",
		$preload =~ /keelson/
		? ("keelson.database = '$self->{database}'", "keelson.keyring_file = '$self->{keyring}'")
		: (),
		'shared_buffers = 32MB', 'max_connections = 60', 'restart_after_crash = on', 'log_statement = none',
		'max_wal_size = 256MB', 'jit = off', 'log_min_messages = warning', $options{conf} || '', '';
}

# The gateway's role must give its password, as in a real cluster; the rest of a test cluster is open.
sub _allow_gateway
{
	my ($self) = @_;
	my $hba = $self->{node}->data_dir . '/pg_hba.conf';
	my $rest = slurp($hba);
	open my $file, '>', $hba or die "$hba: $!";
	print $file "local all keelson_gateway scram-sha-256\n", $rest;
	close $file;
	return;
}

# A keyring file as make up writes one: a master key under id 1, readable by its owner alone.
sub write_keyring
{
	my ($path, @ids) = @_;
	@ids = (1) unless @ids;
	open my $random, '<:raw', '/dev/urandom' or die "/dev/urandom: $!";
	umask 0077;
	open my $file, '>', $path or die "$path: $!";
	for my $id (@ids)
	{
		read $random, my $key, 32;
		print $file "key $id ", encode_base64($key, ''), "\n";
	}
	close $file;
	return;
}

sub install
{
	my ($self) = @_;
	$self->sql('create extension keelson cascade');
	return $self->set_password;
}

sub set_password { return $_[0]->sql("alter role keelson_gateway password '$_[0]{password}'"); }

sub migrate { return $_[0]->sql('select keelson.migrate()'); }
sub node    { return $_[0]->{node}; }

# Runs SQL as the superuser; its output, or dies.
sub sql
{
	my ($self, $sql, %options) = @_;
	return $self->{node}->safe_psql($options{database} || $self->{database}, $sql, %options);
}

# Runs SQL that may fail: (exit status, output, messages).
sub try_sql
{
	my ($self, $sql, %options) = @_;
	my ($output, $messages) = ('', '');
	# psql that finds no server ends before it has read the statement.
	local $SIG{PIPE} = 'IGNORE';
	my $status = eval {
		$self->{node}->psql(
			$options{database} || $self->{database}, $sql,
			stdout        => \$output,
			stderr        => \$messages,
			on_error_die  => 0,
			on_error_stop => 1,
			extra_params  => $options{role} ? [ '-U', $options{role} ] : []);
	};
	return defined $status ? ($status, $output, $messages) : (2, '', $@);
}

# The connection string that the gateway is given.
sub url
{
	my ($self) = @_;
	return sprintf 'postgresql://keelson_gateway:%s@/%s?host=%s&port=%d', $self->{password}, $self->{database},
		$self->{node}->host, $self->{node}->port;
}

# A running gateway; environment variables as arguments, unready => 1 does not wait for it to serve.
sub gateway
{
	my ($self, %given) = @_;
	my $unready = delete $given{unready};
	my $gateway = KeelsonTest::Gateway->new(
		directory => $self->{node}->basedir,
		name      => 'gateway' . @{ $self->{gateways} },
		env       => { KEELSON_DATABASE_URL => $self->url, KEELSON_RATE_LIMITS => 'off', KEELSON_LOOPS => 2, KEELSON_POOL => 4, %given });
	push @{ $self->{gateways} }, $gateway;
	$gateway->start;
	$gateway->wait_ready unless $unready;
	# Under a checker the first calls are slower than the gateway's patience: let it take both of its ways once.
	wait_until(sub { $gateway->get('/api/openapi.json', text => 1)->{status} == 200 }, 10)
		if !$unready && $ENV{KEELSON_TEST_GATEWAY_WRAPPER};
	return $gateway;
}

# A fresh user through the API: email, password, id, token, refresh.
sub user
{
	my ($self, $gateway, %given) = @_;
	my %user = (
		email    => sprintf('person%d@example.com', ++$self->{users}),
		password => 'correct horse battery ' . $self->{users},
		%given);
	my $reply = $gateway->post('/api/auth/register', { email => $user{email}, password => $user{password} });
	$reply->{status} == 201 or die "register answered $reply->{status}: $reply->{content}";
	my $data = $reply->{json}{data};
	return { %user, id => $data->{user}{id}, token => $data->{accessToken}, refresh => $data->{refreshToken} };
}

# Installs the tests' product: endpoint functions that show what is done with a request.
sub product
{
	my ($self) = @_;
	return $self->sql(slurp("$root/regress/lib/product.sql"));
}

# The server's own log as text.
sub server_log { return slurp($_[0]->{node}->logfile); }

# Kills a process of the server by signal 9; nothing when there is none.
sub kill_server_process
{
	my ($pid) = @_;
	return kill 'KILL', $pid unless $ENV{KEELSON_TEST_GENTLE};
	kill POSIX::SIGRTMIN(), $pid or return 0;
	return wait_until(sub { !kill 0, $pid }, 5) || kill 'KILL', $pid;
}

# Kills a process of the server, which restarts all others, and waits until it is there again; false when nobody was
# killed, or the server does not come back.
sub kill_process
{
	my ($self, $pid) = @_;
	my $restarts = sub { my @found = $self->server_log =~ /all server processes terminated; reinitializing/g; return scalar @found };
	my $before = $restarts->();
	kill_server_process($pid) or return 0;
	local $SIG{PIPE} = 'IGNORE';
	# A psql that is refused may be gone before it has been told what to do.
	return wait_until(sub { $restarts->() > $before && eval { ($self->try_sql('select 1'))[0] == 0 } }, 60);
}

# Ends what runs; called at the end of the test too.
sub stop
{
	my ($self) = @_;
	$_->stop for grep { $_->running } @{ $self->{gateways} };
	$self->{node}->stop('fast');
	return;
}

1;
