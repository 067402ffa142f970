package Bench::Sql;
# How long things take in SQL, inside one session.

use strict;
use warnings;
use Exporter 'import';

use Bench::System;

our @EXPORT = qw(microseconds each_us transactions_us);

# Microseconds of one expression, called in a loop inside one backend.
sub microseconds
{
	my ($expression, $times, $prepare) = @_;
	my $sql = ($prepare // '') . qq{
		\\set QUIET on
		set max_parallel_workers_per_gather = 0;
		set jit = off;
		create temporary table timed (us float8);
		do \$\$
		declare
			started timestamptz;
		begin
			for turn in 1 .. 2 loop
				started := clock_timestamp();
				perform count(x) from (select $expression as x from generate_series(1, $times)) as s;
				if turn = 2 then
					insert into timed values (extract(epoch from clock_timestamp() - started) * 1e6 / $times);
				end if;
			end loop;
		end
		\$\$;
		select us from timed;
	};
	my ($status, $output, $messages) = keelson->try_sql($sql);
	warn("$expression: $messages"), return undef if $status;
	return $output =~ /([\d.]+)\s*\z/ ? $1 : undef;
}

# Microseconds of an expression for each row of a set, over `data`, a value that stands in memory: reading it from
# tables, and out of TOAST, is not what is measured.
sub each_us
{
	my ($expression, $set, $rows, $data) = @_;
	return keelson->sql(qq{
		create temporary table timed (us float8);
		set max_parallel_workers_per_gather = 0;
		set jit = off;
		do \$\$
		declare
			started timestamptz;
			data bytea := $data;
		begin
			perform count($expression) from $set;
			started := clock_timestamp();
			perform count($expression) from $set;
			insert into timed values (extract(epoch from clock_timestamp() - started) * 1e6 / $rows);
		end
		\$\$;
		select us from timed});
}

# Microseconds of its backend's CPU time that a transaction takes which writes, and does so besides: medians of slices,
# each thing in turn, so that what disturbs the machine disturbs all alike.
sub transactions_us
{
	my (@besides) = @_;
	my $turn = join '', map {
		qq{started := bench.cpu_us();
		for n in 1 .. 500 loop
			insert into bench.written values (n);
			$besides[$_];
			commit;
		end loop;
		insert into timed values ($_, (bench.cpu_us() - started) / 500);
		commit;
		}
	} 0 .. $#besides;
	return split /\n/, keelson->sql(qq{
		set synchronous_commit = off;
		set search_path = pg_catalog, pg_temp;
		create table if not exists bench.written (n integer);
		truncate bench.written;
		create temporary table timed (which integer, us float8);
		do \$\$
		declare
			started float8;
		begin
			for turn in 1 .. 20 loop
				$turn
			end loop;
		end
		\$\$;
		select percentile_cont(0.5) within group (order by us) from timed group by which order by which});
}

1;
