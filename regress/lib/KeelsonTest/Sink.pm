# A receiver of requests, sink.js, for the tests of what Keelson sends.
#
#   my $sink = KeelsonTest::Sink->new('hooks');
#   $sink->url('/status/500');   $sink->requests;   $sink->stop;

package KeelsonTest::Sink;

use strict;
use warnings;

use File::Path qw(make_path);
use KeelsonTest;

my @running;

# Options: tls => [key file, certificate file].
sub new
{
	my ($class, $name, %options) = @_;
	my $folder = "$ENV{TESTDIR}/sink-$name";
	make_path($folder);
	my $self = bless { folder => $folder, scheme => $options{tls} ? 'https' : 'http' }, $class;
	$self->start(@{ $options{tls} || [] });
	return $self;
}

sub start
{
	my ($self, @tls) = @_;
	unlink "$self->{folder}/port";
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		open STDIN, '<', '/dev/null';
		open STDERR, '>>', "$self->{folder}/log";
		# Started again it is where it was.
		$ENV{SINK_PORT} = $self->{port} || 0;
		exec 'node', "$KeelsonTest::root/regress/lib/sink.js", $self->{folder}, @tls or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	push @running, $self;
	wait_until(sub { -s "$self->{folder}/port" }, 20) or die 'the sink did not start';
	$self->{port} = slurp("$self->{folder}/port");
	return $self;
}

# Started again after a stop, but on another port.
sub move
{
	my ($self, @tls) = @_;
	delete $self->{port};
	return $self->start(@tls);
}

sub url    { return "$_[0]{scheme}://" . ($_[2] || '127.0.0.1') . ":$_[0]{port}$_[1]"; }
sub folder { return $_[0]{folder}; }
sub port   { return $_[0]{port}; }

# Writes a file that its paths name.
sub put
{
	my ($self, $name, $content) = @_;
	open my $file, '>:raw', "$self->{folder}/$name.new" or die "$name: $!";
	print $file $content;
	close $file;
	rename "$self->{folder}/$name.new", "$self->{folder}/$name" or die "$name: $!";
	return;
}

# A key and a certificate for 127.0.0.1, signed by themselves: (key file, certificate file).
sub certificate
{
	my ($folder) = @_;
	my @files = map { "$folder/tls-$_.pem" } qw(key certificate);
	system("openssl req -x509 -newkey rsa:2048 -nodes -keyout '$files[0]' -out '$files[1]' -days 2 -subj /CN=127.0.0.1 "
		. "-addext subjectAltName=IP:127.0.0.1 2>/dev/null") == 0
		or die 'openssl failed';
	return @files;
}

# What it has received so far, oldest first; only those whose path begins so, if that is given.
sub requests
{
	my ($self, $path) = @_;
	my $received = $self->_received;
	ref or $_ = json_decode($_) for @$received;
	return grep { !defined $path || index($_->{path}, $path) == 0 } @$received;
}

# How many it has received so far; cheap to ask again and again.
sub count { return scalar @{ $_[0]->_received }; }

# All that it has received, each line as it stands until somebody asks what it says. The file is read on from where it
# was left, and only what is whole, so that to poll it costs what is new.
sub _received
{
	my ($self) = @_;
	my $received = $self->{received} ||= [];
	open my $file, '<:raw', "$self->{folder}/requests" or return $received;
	seek $file, $self->{read_to} || 0, 0;
	local $/;
	my $new = <$file> // '';
	my $whole = substr $new, 0, 1 + rindex $new, "\n";
	$self->{read_to} += length $whole;
	push @$received, split /\n/, $whole;
	return $received;
}

# Waits for at least so many.
sub wait_for
{
	my ($self, $count, $path, $seconds) = @_;
	return wait_until(sub { $self->requests($path) >= $count }, $seconds || 20);
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid};
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	delete $self->{pid};
	return;
}

END
{
	my $status = $?;
	$_->stop for @running;
	$? = $status;
}

1;
