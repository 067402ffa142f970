# Tiers: asking for a user's, what a quota costs who has none that is hard, and taking of one that is.

use strict;
use warnings;

use Bench;
use Bench::System;

aim_cost("a user's tier, µs" => [ 0.5, 1 ], 'charging usage where no limit is hard, µs' => [ 1, 3 ]);

# Microseconds that an expression costs, over the same with a constant.
sub expression_us
{
	my ($expression) = @_;
	my $us = sub {
		return keelson->sql(qq{
			set max_parallel_workers_per_gather = 0;
			create temporary table people as select u.id from keelson.users as u order by u.id limit 1000;
			create temporary table timed (us float8);
			do \$\$
			declare
				started timestamptz;
			begin
				for turn in 1 .. 2 loop
					started := clock_timestamp();
					perform count(x::text) from (select $_[0] as x from people cross join generate_series(1, 200)) as asked;
					if turn = 2 then
						insert into timed values (extract(epoch from clock_timestamp() - started) * 1e6 / 200000);
					end if;
				end loop;
			end
			\$\$;
			select us from timed});
	};
	return $us->($expression) - $us->('people.id');
}

measure('tier', sub {
	return unless wanted('tier');
	my $us = expression_us('keelson._tier_of(people.id)');
	keep('tier.keelson', unit => 'us', value => $us);
	cost("a user's tier, µs", $us);
	$us = expression_us("keelson._quota_charge(people.id, 'speech', 0.1)");
	keep('quota.soft.keelson', unit => 'us', value => $us);
	cost('charging usage where no limit is hard, µs', $us);
});

1;
