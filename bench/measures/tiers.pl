# Tiers: asking for a user's, what a quota costs who has none that is hard, and taking of one that is.

use strict;
use warnings;

use Bench;
use Bench::Sql;

aim_cost("a user's tier, µs" => [ 0.5, 1 ], 'charging usage where no limit is hard, µs' => [ 1, 3 ]);

# Microseconds that an expression costs for each of a thousand users, over the id alone.
sub expression_us
{
	my ($expression) = @_;
	my $people = '(select u.id from keelson.users as u order by u.id limit 1000) as people cross join generate_series(1, 200)';
	return each_us("($expression)::text", $people, 200_000, q{''}) - each_us('people.id::text', $people, 200_000, q{''});
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
