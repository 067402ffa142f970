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
	my @all = map { json_decode($_) } grep { /\}$/ } split /\n/, -e "$self->{folder}/requests" ? slurp("$self->{folder}/requests") : '';
	return grep { !defined $path || index($_->{path}, $path) == 0 } @all;
}

# How many it has received so far; cheap to ask again and again.
sub count
{
	my ($self) = @_;
	return 0 unless -e "$self->{folder}/requests";
	open my $file, '<:raw', "$self->{folder}/requests" or die $!;
	seek $file, $self->{counted_to} || 0, 0;
	while (sysread $file, my $bytes, 1 << 20)
	{
		$self->{counted} += $bytes =~ tr/\n//;
		$self->{counted_to} += length $bytes;
	}
	return $self->{counted} || 0;
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
