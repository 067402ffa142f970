# The audit trail: what recording adds to a transaction that inserts a row: keelson.audit, a trigger for each row and one
# for each statement that keep the new row as jsonb. Keelson's events are sealed afterwards, by a worker: what that takes is
# beside it. A trigger's rows anybody with the rights can change; Keelson's tell if somebody did.

use strict;
use warnings;
use Time::HiRes qw(time);

use Bench;
use Bench::Peers;
use Bench::Sql;
use Bench::System;

$Bench::System::users = 8;
my $is_prepared;

sub prepare
{
	return if $is_prepared++;
	keelson->node->safe_psql('keelson', KeelsonTest::slurp("$FindBin::Bin/peers/audit.sql"));
	check_trails();
	return;
}

sub insert { my ($table) = @_; return "insert into bench.$table (user_id, feature, minutes) values ('" . (people)[0]{id} . "', 'speech', 0.25)"; }

sub audit { return "perform keelson.audit('bench.use', '{\"feature\": \"speech\", \"minutes\": 0.25}', 'success', '" . (people)[0]{id} . "')"; }

# Each kind of trail has an event more after an insert, with what was inserted.
sub check_trails
{
	for my $name (qw(row statement))
	{
		keelson->sql(insert("audited_by_$name"));
		keelson->sql(qq{select count(*) = 1 and min(new_row ->> 'feature') = 'speech' from bench.trail where table_name = 'audited_by_$name'}) eq 't'
			or die "the trigger for each $name does not record\n";
	}
	my $count = q{select count(*) from keelson.audit_events where event_type = 'bench.use' and data ->> 'feature' = 'speech'};
	my $before = keelson->sql($count);
	keelson->sql('do $$ begin ' . audit() . '; end $$');
	keelson->sql($count) == $before + 1 or die "Keelson does not record\n";
	return;
}

# Microseconds that sealing takes an event, one seal after the other; undefined if the keeper came between.
sub seal_us
{
	keelson->sql('select keelson.audit_seal() from generate_series(1, 100)');
	keelson->sql('do $$ begin for n in 1 .. 20000 loop ' . audit() . '; end loop; end $$');
	my $started = time;
	my $sealed = keelson->sql('select sum(keelson.audit_seal(4096)) from generate_series(1, 5)');
	return $sealed < 10_000 ? undef : (time - $started) * 1e6 / $sealed;
}

measure('audit', sub {
	prepare();
	my ($none, $keelson, $row, $statement) = transactions_us(
		insert('unaudited'), insert('unaudited') . '; ' . audit(), insert('audited_by_row'), insert('audited_by_statement'));
	my %sample = (
		insert    => keep('audit.1.insert',    unit => 'us', value => $none),
		keelson   => keep('audit.1.keelson',   unit => 'us', value => $keelson - $none),
		row       => keep('audit.1.row',       unit => 'us', value => $row - $none),
		statement => keep('audit.1.statement', unit => 'us', value => $statement - $none));
	relate(\%sample, 'audit.1');
	my $seal = seal_us();
	keep('audit.1.seal', unit => 'us', value => $seal) if defined $seal;
});

1;
