# A mail server for the tests of mails, mail_server.js; its certificate is for "localhost", by an authority of its own.
#
#   my $mails = KeelsonTest::MailServer->new($directory, password => 'secret');
#   $mails->url('starttls');   $mails->mails('ada@example.com');   $mails->authority;

package KeelsonTest::MailServer;

use strict;
use warnings;

use File::Path qw(make_path);
use KeelsonTest;

my @running;

sub new
{
	my ($class, $name, %options) = @_;
	my $folder = "$ENV{TESTDIR}/mail-$name";
	make_path($folder);
	my $self = bless { folder => $folder, password => $options{password} || 'secret' }, $class;
	system('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
		'-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-keyout', "$folder/key.pem", '-out', "$folder/cert.pem",
		'-batch') == 0 or die "openssl: $?"
		unless -e "$folder/cert.pem";
	$self->fault('drop');
	return $self->start;
}

# Are the packages there that it needs?
sub is_available { return -d "$KeelsonTest::root/regress/node_modules/smtp-server"; }

sub start
{
	my ($self) = @_;
	unlink "$self->{folder}/ports";
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$self->{folder}/log";
		open STDERR, '>>', "$self->{folder}/log";
		exec 'node', "$KeelsonTest::root/regress/lib/mail_server.js", $self->{folder}, "$self->{folder}/key.pem",
			"$self->{folder}/cert.pem", $self->{password} or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	push @running, $self;
	wait_until(sub { -s "$self->{folder}/ports" }, 20) or die 'the mail server did not start: ' . slurp("$self->{folder}/log");
	$self->{ports} = json_decode(slurp("$self->{folder}/ports"));
	return $self;
}

sub authority   { return "$_[0]{folder}/cert.pem"; }
sub connections { return -e "$_[0]{folder}/connections" ? slurp("$_[0]{folder}/connections") : 0; }

# As KEELSON_SMTP_URL has it.
sub url
{
	my ($self, $port, %options) = @_;
	my $login = $port eq 'plain' || $port eq 'bad' ? '' : 'keelson:' . ($options{password} || $self->{password}) . '@';
	return ($port eq 'implicit' ? 'smtps' : 'smtp') . "://$login" . ($options{host} || 'localhost') . ":$self->{ports}{$port}";
}

# What the port "bad" does from now on.
sub fault
{
	my ($self, $fault) = @_;
	open my $file, '>', "$self->{folder}/fault" or die $!;
	print $file $fault;
	close $file;
	return;
}

# The mails that were taken, oldest first; to an address, if that is given.
sub mails
{
	my ($self, $to) = @_;
	my @all = map { json_decode($_) } grep { /\}$/ } split /\n/, -e "$self->{folder}/mails" ? slurp("$self->{folder}/mails") : '';
	return grep { !defined $to || ($_->{to} && $_->{to}[0] eq $to) } @all;
}

# Waits for at least so many; they, or nothing.
sub wait_for
{
	my ($self, $count, $to, $seconds) = @_;
	return wait_until(sub { $self->mails($to) >= $count }, $seconds || 10) ? $self->mails($to) : ();
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
