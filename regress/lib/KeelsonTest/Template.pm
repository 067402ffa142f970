# A cluster with Keelson in it, made once for a run of the tests: all that want no other copy it, which takes a tenth of
# the time that initdb, the extension and its migration take.
#
#   my $template = KeelsonTest::Template->find or ...;   # made by whoever comes first
#   $template->copy_to($keelson);                        # not yet started; its settings and its password are its own
#
# KEELSON_TEST_TEMPLATE names the folder that keeps it: data/, shut down in good order and with the settings that initdb
# left, and the keyring. Copies share the master key and the system's identifier: clusters that
# are to be strangers to each other are made from nothing (the option fresh).

package KeelsonTest::Template;

use strict;
use warnings;

use Fcntl qw(LOCK_EX);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils ();

# The template, or nothing where none is to be kept.
sub find
{
	my ($class) = @_;
	my $folder = $ENV{KEELSON_TEST_TEMPLATE} or return;
	return bless { folder => $folder }, $class if -d $folder;
	# Two that find none take turns; the folder gets its name when all is in it.
	open my $lock, '>>', "$folder.lock" or die "$folder.lock: $!";
	flock $lock, LOCK_EX or die "$folder.lock: $!";
	make($folder) unless -d $folder;
	return bless { folder => $folder }, $class;
}

sub make
{
	my ($folder) = @_;
	PostgreSQL::Test::Utils::system_or_bail('rm', '-rf', "$folder.new");
	mkdir "$folder.new" or die "$folder.new: $!";
	# No worker has begun yet: each does so in the copy for the first time, with files of the copy's own. And no file of the
	# log is kept for writes to come, which would be copied.
	my $keelson = KeelsonTest->new('template', fresh => 1, limits => 1, conf => "max_worker_processes = 0\nwal_recycle = off");
	my $node = $keelson->node;
	$keelson->stop;
	my $settings = $node->data_dir . '/postgresql.conf';
	my ($written) = KeelsonTest::slurp($settings) =~ /^(.*?)^# Of Keelson's tests/ms or die "$settings is not as expected\n";
	open my $file, '>', $settings or die "$settings: $!";
	print $file $written;
	close $file or die "$settings: $!";
	rename $node->data_dir, "$folder.new/data" or die "$folder.new/data: $!";
	rename $keelson->{keyring}, "$folder.new/keyring" or die "$folder.new/keyring: $!";
	rename "$folder.new", $folder or die "$folder: $!";
	return;
}

# What a node asks of the one whose backup it begins with.
sub backup_dir { return $_[0]{folder}; }
sub name       { return 'template'; }

sub copy_to
{
	my ($self, $keelson) = @_;
	my $node = $keelson->node;
	no warnings 'redefine';
	# The server's own way copies file by file, in Perl.
	local *PostgreSQL::Test::RecursiveCopy::copypath = sub { return copy(@_[ 0, 1 ]) };
	$node->init_from_backup($self, 'data');
	copy("$self->{folder}/keyring", $keelson->{keyring});
	return;
}

sub copy { return PostgreSQL::Test::Utils::system_or_bail('cp', '-a', '--reflink=auto', @_); }

1;
