# Workers of a server that has no database for them, and in which nobody has been since its start: they wait quietly, and
# connect when there is one.  And the keeper, one of whose duties fails each time.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $keelson = KeelsonTest->new('workers', bare => 1);
my $node    = $keelson->node;
my ($postmaster) = slurp($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

# Name → process, without asking the server.
sub workers
{
	my @children = split ' ', slurp("/proc/$postmaster/task/$postmaster/children");
	return map { (eval { slurp("/proc/$_/cmdline") } // '') =~ /keelson (courier|keeper|incoming)/ ? ($1 => $_) : () } @children;
}

ok(wait_until(sub { 3 <= (() = $keelson->server_log =~ /FATAL: +database "keelson" does not exist/g) }, 20), 'a first life looks for the database in vain');
ok(wait_until(sub { my %now = workers(); keys %now == 3 }, 20), 'a second begins');
my $waiting = q{select string_agg(pid::text, ' ' order by pid) from pg_stat_activity
	where backend_type in ('keelson courier', 'keelson keeper', 'keelson incoming') and datid is null and wait_event = 'Extension' having count(*) = 3};
my $pids;
ok(wait_until(sub { $pids = $keelson->sql($waiting, database => 'postgres') }, 20), 'and waits for it');
is((() = $keelson->server_log =~ /FATAL/g), 3, 'without a word more');
is($keelson->sql($waiting, database => 'postgres'), $pids, 'and goes on waiting');

$keelson->sql('create database keelson', database => 'postgres');
$keelson->install;
$keelson->migrate;
ok(wait_until(sub { $keelson->sql(q{select count(*) from pg_stat_activity where datname = 'keelson' and backend_type ~ '^keelson (courier|keeper|incoming)$'}) == 3 }, 30),
	'once it is there, they work in it');
is((() = $keelson->server_log =~ /FATAL/g), 3, 'nobody has complained');

# A duty that takes longer to fail than until it is due again.
$keelson->sql(q{create or replace function keelson._recovery_requests_answer(row_limit integer default 100) returns integer language plpgsql
	as $$begin perform pg_sleep(5); raise exception 'it fails each time'; end$$});
ok(wait_until(sub { $keelson->server_log =~ /it fails each time/ }, 30), 'a duty fails');
$keelson->sql(q{update keelson.usage_watermark set tail_from = (now() at time zone 'UTC')::date - 2, next_from = null, next_era = null, next_xid = null});
ok(wait_until(sub { $keelson->sql(q{select (now() at time zone 'UTC')::date in (tail_from, next_from) from keelson.usage_watermark}) eq 't' }, 40), 'those after it are done all the same');

done_testing();
$keelson->stop;
