# The real gateway as a child process, and ways to talk to it.

package KeelsonTest::Gateway;

use strict;
use warnings;

use Carp;
use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use POSIX qw(:sys_wait_h);
use Socket ();
use Time::HiRes qw(sleep time);

# HTTP::Tiny writes head and body apart; without this the second waits 40 ms for the first to be acknowledged.
{
	no warnings 'redefine';
	my $connect = \&HTTP::Tiny::Handle::connect;
	*HTTP::Tiny::Handle::connect = sub {
		my $handle = $connect->(@_);
		setsockopt $handle->{fh}, Socket::IPPROTO_TCP(), Socket::TCP_NODELAY(), 1 if $handle->{fh};
		return $handle;
	};
}

# Gateways of this process that still run: ended with it.
my %running;

# Arguments: directory (for the log), name, env (variables of the gateway).
sub new
{
	my ($class, %given) = @_;
	my $env = $given{env};
	$env->{KEELSON_PORT} ||= PostgreSQL::Test::Cluster::get_free_port();
	return bless {
		%given,
		port => $env->{KEELSON_PORT},
		log  => "$given{directory}/$given{name}.log",
	}, $class;
}

sub port { return $_[0]->{port}; }
sub pid  { return $_[0]->{pid}; }

# Starts the binary with a clean environment and its standard error in the log file.
sub start
{
	my ($self) = @_;
	my $binary = $ENV{KEELSON_TEST_GATEWAY} or croak 'KEELSON_TEST_GATEWAY is not set';
	my @wrapper = split ' ', $ENV{KEELSON_TEST_GATEWAY_WRAPPER} || '';
	my $pid = fork;
	defined $pid or croak "fork: $!";
	if (!$pid)
	{
		# As `make up` starts it: where the kernel shares the processors out by session, it has a share of its own.
		POSIX::setsid();
		delete @ENV{ grep { /^KEELSON_|^ALLOWED_ORIGINS$|^CRON_SECRET$|^PG/ } keys %ENV };
		%ENV = (%ENV, %{ $self->{env} });
		open STDIN,  '<',  '/dev/null';
		open STDOUT, '>>', $self->{log};
		open STDERR, '>>', $self->{log};
		exec @wrapper, $binary or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	delete $self->{exit};
	$running{$pid} = $self;
	return $self;
}

# Whether the process lives; its exit status is kept when it does not.
sub running
{
	my ($self) = @_;
	return 0 unless $self->{pid};
	if (waitpid($self->{pid}, WNOHANG) == $self->{pid})
	{
		$self->{exit} = $?;
		delete $running{ delete $self->{pid} };
	}
	return $self->{pid} ? 1 : 0;
}

# Waits until /ready answers 200.
sub wait_ready
{
	my ($self, $seconds) = @_;
	my $ready = KeelsonTest::wait_until(
		sub {
			return -1 unless $self->running;
			return $self->request('GET', '/ready')->{status} == 200;
		},
		$seconds || 15);
	return $self if $ready == 1;
	croak "the gateway did not become ready:\n" . $self->log_text;
}

# Asks it to end (TERM unless told otherwise) and waits; the wait status.
sub stop
{
	my ($self, $signal, $seconds) = @_;
	return $self->{exit} unless $self->running;
	kill $signal || 'TERM', $self->{pid};
	return $self->wait_exit($seconds);
}

sub wait_exit
{
	my ($self, $seconds) = @_;
	return $self->{exit} if KeelsonTest::wait_until(sub { !$self->running }, $seconds || 40);
	kill 'KILL', $self->{pid};
	KeelsonTest::wait_until(sub { !$self->running }, 10);
	return 'did not end';
}

sub log_text { return -e $_[0]->{log} ? KeelsonTest::slurp($_[0]->{log}) : ''; }

# The lines of the log that are JSON objects, decoded; only those in which some text stands, if it is given.
sub log_lines
{
	my ($self, $text) = @_;
	return map { eval { KeelsonTest::json_decode($_) } || () } grep { /^\{/ && (!defined $text || index($_, $text) >= 0) } split /\n/, $self->log_text;
}

# The log line of one request, waited for: the gateway writes after it has answered.
sub log_line
{
	my ($self, $request_id) = @_;
	return KeelsonTest::wait_until(
		sub {
			my ($line) = grep { ($_->{requestId} || '') eq $request_id && ($_->{event} || '') eq 'request' } $self->log_lines($request_id);
			return $line;
		},
		5);
}

# Sends one request: options token, json, body, headers, timeout, fresh (a connection of its own), text (JSON too is left
# as it is: a large document takes longer to decode than to get).
# The reply: status, headers (lower case), content, json (decoded if it is JSON).
sub request
{
	my ($self, $method, $target, %options) = @_;
	my %headers = %{ $options{headers} || {} };
	my $body    = $options{body};
	if (exists $options{json})
	{
		$body = KeelsonTest::json_encode($options{json});
		$headers{'Content-Type'} ||= 'application/json';
	}
	$headers{Authorization} = "Bearer $options{token}" if defined $options{token};
	my $client = $options{fresh} || !$self->{client} || ($self->{client_pid} || 0) != $$
		? HTTP::Tiny->new(timeout => ($options{timeout} || 30) * $KeelsonTest::slow, max_redirect => 0, agent => 'keelson-test')
		: $self->{client};
	@$self{qw(client client_pid)} = ($client, $$) unless $options{fresh};
	my $reply = $client->request($method, "http://127.0.0.1:$self->{port}$target",
		{ headers => \%headers, defined $body ? (content => $body) : () });
	my $type = $reply->{headers}{'content-type'} || '';
	$reply->{json} = eval { KeelsonTest::json_decode($reply->{content}) } if $type =~ /json/ && length $reply->{content} && !$options{text};
	return $reply;
}

sub get { my ($self, $target, %options) = @_; return $self->request('GET', $target, %options); }
sub delete { my ($self, $target, %options) = @_; return $self->request('DELETE', $target, %options); }
sub post { my ($self, $target, $data, %options) = @_; return $self->request('POST', $target, json => $data, %options); }
sub put { my ($self, $target, $data, %options) = @_; return $self->request('PUT', $target, json => $data, %options); }

# A bare connection.
sub connect
{
	my ($self) = @_;
	return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}, Proto => 'tcp', Timeout => 5)
		|| croak "connect: $@";
}

# Sends exact bytes and returns all that comes until the peer closes or the seconds are over.
sub raw
{
	my ($self, $bytes, $seconds) = @_;
	my $socket = $self->connect;
	syswrite $socket, $bytes;
	return read_all($socket, $seconds || 2);
}

# All that a socket gives until it is closed or quiet for too long; in list context also whether it was closed.
sub read_all
{
	my ($socket, $seconds) = @_;
	my $select = IO::Select->new($socket);
	my $deadline = time() + $seconds * $KeelsonTest::slow;
	my ($all, $closed) = ('', 0);
	while ((my $left = $deadline - time()) > 0)
	{
		next unless $select->can_read($left);
		my $got = sysread $socket, my $bytes, 65536;
		if (!$got) { $closed = 1; last; }
		$all .= $bytes;
	}
	return wantarray ? ($all, $closed) : $all;
}

# Reads one whole reply with Content-Length (or chunked, up to its end) from a kept connection.
sub read_reply
{
	my ($socket, $seconds) = @_;
	my $select = IO::Select->new($socket);
	my $deadline = time() + ($seconds || 10) * $KeelsonTest::slow;
	my $all = '';
	while (!whole_reply($all) && (my $left = $deadline - time()) > 0)
	{
		next unless $select->can_read($left);
		sysread($socket, $all, 65536, length $all) or last;
	}
	return parse_reply($all);
}

sub whole_reply
{
	my ($bytes) = @_;
	my ($head, $rest) = split /\r\n\r\n/, $bytes, 2;
	return 0 unless defined $rest;
	return length $rest >= $1 if $head =~ /^Content-Length: *(\d+)/mi;
	return $rest =~ /(?:^|\r\n)0\r\n(?:[^\r\n]+\r\n)*\r\n\z/ if $head =~ /^Transfer-Encoding: *chunked/mi;
	return $head =~ m{^HTTP/1\.1 (?:1\d\d|204|304)};
}

# Bytes of a reply → status, headers, content, json.
sub parse_reply
{
	my ($bytes) = @_;
	my ($head, $content) = split /\r\n\r\n/, $bytes, 2;
	return { status => 0, content => $bytes // '', headers => {} } unless ($head // '') =~ m{^HTTP/1\.[01] (\d{3})};
	my $reply = { status => $1, head => $head, content => $content // '' };
	my (undef, @lines) = split /\r\n/, $head;
	$reply->{headers} = { map { /^([^:]+):\s*(.*)$/ ? (lc $1 => $2) : () } @lines };
	$reply->{json} = eval { KeelsonTest::json_decode($content) };
	return $reply;
}

# Callers in processes of their own, each repeating a piece of code until stopped or until it returns nothing.
# The code gets its number and a count and returns a line that is kept. stop() gives all lines.
sub load
{
	my ($self, $callers, $code) = @_;
	my @pids;
	my $load = ++$self->{loads};
	my $parent = $$;
	for my $number (1 .. $callers)
	{
		my $file = "$self->{directory}/$self->{name}.load.$load.$number";
		my $pid = fork;
		defined $pid or croak "fork: $!";
		push(@pids, [ $pid, $file ]), next if $pid;
		my $ended = 0;
		local $SIG{TERM} = sub { $ended = 1; };
		open my $out, '>', $file or POSIX::_exit(1);
		# A test that was killed leaves no load behind.
		for (my $count = 1; !$ended && getppid() == $parent; $count++)
		{
			my $line = eval { $code->($number, $count) };
			$line = "died $@" if $@;
			last unless defined $line;
			$line =~ s/\s*\n\s*/ /g;
			syswrite $out, "$line\n";
		}
		POSIX::_exit(0);
	}
	return bless { pids => \@pids }, 'KeelsonTest::Load';
}

END
{
	my $status = $?;
	my $signal = $ENV{KEELSON_TEST_GENTLE} ? 'TERM' : 'KILL';
	for my $gateway (values %running) { kill $signal, $gateway->{pid} if $gateway->{pid}; }
	waitpid $_, 0 for keys %running;
	$? = $status;
}

package KeelsonTest::Load;

# The lines written so far.
sub lines { my ($self) = @_; return map { -e $_->[1] ? split(/\n/, KeelsonTest::slurp($_->[1])) : () } @{ $self->{pids} }; }

# Ends the callers after their present call and returns their lines.
sub stop
{
	my ($self) = @_;
	kill 'TERM', map { $_->[0] } @{ $self->{pids} };
	waitpid $_->[0], 0 for @{ $self->{pids} };
	return $self->lines;
}

1;
