# Databases that come back: from a dump, from a copy of the files, as a standby that takes over. What was delivered since is
# not sent again by itself; a standby that has the file goes on; all can be released.

use strict;
use warnings;

use KeelsonTest;
use KeelsonTest::Hooks;
use KeelsonTest::Sink;
use PostgreSQL::Test::Utils ();
use Test::More;

my $keelson = KeelsonTest->new('original',
	conf => "keelson.environment = development\nkeelson.allow_private_targets = on\nwal_level = replica\nmax_wal_senders = 5\nlisten_addresses = ''");
my $node = $keelson->node;
my $hooks = KeelsonTest::Hooks->new($keelson);
my $sink = KeelsonTest::Sink->new('restore');
my $ada = $hooks->user;
my $endpoint = $hooks->endpoint($ada, $sink->url('/hook'));

sub hold { my ($where, $state) = @_; return $where->sql("select keelson.courier_breaker_set('$endpoint', '$state')"); }

sub states
{
	my ($where) = @_;
	return $where->sql('select states from keelson.webhook_accounting()');
}

sub is_balanced
{
	my ($where, $name) = @_;
	return is($where->sql('select expected = found, missing, doubled, unexpected from keelson.webhook_accounting()'), 't|0|0|0', "accounting: $name");
}

# The same methods for a node that was made from a backup.
sub wrap { my ($other) = @_; return bless { %$keelson, node => $other }, ref $keelson; }

# It sends nothing of what it had, but what is new; then what is released.
sub is_quarantined
{
	my ($where, $count, $name) = @_;
	my $seen = $sink->count;
	ok(wait_until(sub { $where->sql('select is_fenced from keelson._courier_status()') eq 't' }, 60), "$name: the courier has begun");
	is($where->sql('select count(*) from keelson.deliveries where is_quarantined'), $count, 'what waited is quarantined');
	like($where->sql('select keelson._courier_health()'), qr/"restoredAt": "2/, 'health says so');
	hold($where, 'closed');
	$where->sql("select keelson.webhook_emit('order.paid', '{\"new\": 1}', '$ada')");
	ok(wait_until(sub { $sink->count > $seen }, 20), 'what is new is sent');
	is($sink->count, $seen + 1, 'nothing else is');
	is_balanced($where, 'in quarantine');
	is($where->sql('select keelson.deliveries_release()'), $count, 'released');
	ok(wait_until(sub { $where->sql('select count(*) from keelson.deliveries') == 0 }, 20), 'it is sent');
	is($sink->count, $seen + 1 + $count, 'all of it, once');
	is_balanced($where, 'after the release');
	return;
}

# Five wait when dump and copy are made.
ok(wait_until(sub { $keelson->sql('select count(*) from keelson.courier_fence') == 1 }, 30), 'a courier has begun');
hold($keelson, 'forced_open');
$hooks->emit($ada, '{"n": 1}', 5);
my @server = ('-h', $node->host, '-p', $node->port);
my $dump = $node->basedir . '/dump';
PostgreSQL::Test::Utils::system_or_bail('pg_dumpall', @server, '--roles-only', '-f', $node->basedir . '/globals.sql');
PostgreSQL::Test::Utils::system_or_bail('pg_dump', @server, '-Fc', '-f', $dump, 'keelson');
$node->backup('copy');

# Into a new cluster.
{
	my $other = KeelsonTest->new('dumped', uninstalled => 1, conf => "keelson.environment = development\nkeelson.allow_private_targets = on");
	$other->node->stop;
	PostgreSQL::Test::Utils::system_or_bail('cp', '-p', $keelson->{keyring}, $other->{keyring});
	$other->node->start;
	my @there = ('-h', $other->node->host, '-p', $other->node->port);
	PostgreSQL::Test::Utils::system_log('psql', '-X', '-q', @there, '-d', 'postgres', '-f', $node->basedir . '/globals.sql');
	PostgreSQL::Test::Utils::system_or_bail('pg_restore', @there, '-d', 'keelson', '--exit-on-error', $dump);
	is_quarantined($other, 5, 'a dump in another cluster');
	$other->stop;
}

# They go out here, so they must not from a copy.
hold($keelson, 'closed');
ok(wait_until(sub { states($keelson) eq '{"delivered": 5}' }, 20), 'the original goes on');

# Into the same cluster, with the server running on: the fence file is of this cluster and has seen it all.
$keelson->sql('select pg_switch_wal()');
$keelson->sql("select keelson.workers_stop()");
$keelson->sql('drop database keelson with (force)', database => 'postgres');
$keelson->sql('create database keelson', database => 'postgres');
PostgreSQL::Test::Utils::system_or_bail('pg_restore', @server, '-d', 'keelson', '--exit-on-error', $dump);
is_quarantined($keelson, 5, 'a dump in the same cluster');
$node->stop;

# A copy of the files, with the same keyring and fence.
{
	my $copy = PostgreSQL::Test::Cluster->new('copied');
	$copy->init_from_backup($node, 'copy');
	$copy->start;
	is_quarantined(wrap($copy), 5, 'a copy of the files');
	$copy->stop;
}

# Failover. The file may lie where the standby finds it, or be lost.
my $primary = KeelsonTest->new('primary',
	conf => "keelson.environment = development\nkeelson.allow_private_targets = on\nwal_level = replica\nmax_wal_senders = 5");
$hooks = KeelsonTest::Hooks->new($primary);
$ada = $hooks->user;
$endpoint = $hooks->endpoint($ada, $sink->url('/hook'));
$primary->node->backup('base');
my @standbys = map {
	my $standby = PostgreSQL::Test::Cluster->new($_);
	$standby->init_from_backup($primary->node, 'base', has_streaming => 1);
	$standby->append_conf('postgresql.conf', "keelson.courier_fence_file = '" . $standby->basedir . "/fence'");
	$standby->start;
	$standby;
} qw(carried lost);
hold($primary, 'forced_open');
$hooks->emit($ada, '{"n": 2}', 7);
$primary->node->wait_for_catchup($_) for @standbys;
is($sink->count, my $seen = $sink->count, 'a standby sends nothing');
$primary->node->stop;
PostgreSQL::Test::Utils::system_or_bail('cp', '-p', "$primary->{keyring}.fence", $standbys[0]->basedir . '/fence');
$_->promote for @standbys;
my ($carried, $lost) = map { wrap($_) } @standbys;
ok(wait_until(sub { $carried->sql('select is_fenced from keelson._courier_status()') eq 't' }, 30), 'a standby that takes over');
hold($carried, 'closed');
ok(wait_until(sub { states($carried) eq '{"delivered": 7}' }, 20), 'with the file goes on where the other left off') or diag(states($carried));
is($sink->count, $seen + 7, 'once');
is_quarantined($lost, 7, 'one without the file');
$_->stop for @standbys;

# Where the file cannot be written nothing is sent.
my $unfenced = KeelsonTest->new('unfenced',
	conf => "keelson.environment = development\nkeelson.allow_private_targets = on\nkeelson.courier_fence_file = '/nowhere/fence'");
$hooks = KeelsonTest::Hooks->new($unfenced);
$ada = $hooks->user;
$endpoint = $hooks->endpoint($ada, $sink->url('/unfenced'));
$hooks->emit($ada);
ok(wait_until(sub { $unfenced->server_log =~ m{deliveries wait: could not write file "/nowhere/fence} }, 20), 'a file that cannot be written');
is($unfenced->sql("select keelson._courier_health() ->> 'state'"), 'waiting', 'keeps deliveries waiting');
is(scalar($sink->requests('/unfenced')), 0, 'nothing is sent');
$unfenced->node->append_conf('postgresql.conf', "keelson.courier_fence_file = '" . $unfenced->node->basedir . "/fence'");
$unfenced->node->reload;
ok($sink->wait_for(1, '/unfenced', 20), 'until it can');

# Where the keyring comes from a command nothing says where the file might lie.
$unfenced->node->append_conf('postgresql.conf',
	"keelson.keyring_file = ''\nkeelson.keyring_command = 'cat $unfenced->{keyring}'\nkeelson.courier_fence_file = ''");
$unfenced->node->restart;
$hooks->emit($ada);
ok(wait_until(sub { $unfenced->server_log =~ /deliveries wait: the setting keelson.courier_fence_file is needed/ }, 20), 'a keyring from a command needs the setting');
is(scalar($sink->requests('/unfenced')), 1, 'nothing is sent');
$unfenced->node->append_conf('postgresql.conf', "keelson.courier_fence_file = '" . $unfenced->node->basedir . "/fence'");
$unfenced->node->reload;
ok($sink->wait_for(2, '/unfenced', 20), 'until it is there');
$unfenced->stop;

done_testing();
