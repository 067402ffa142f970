# A decision of so many limits at once, the digest of whom they count included, over ten thousand callers.

use strict;
use warnings;

use Bench;
use Bench::System;

aim_cost('all limits of a request, µs' => [ 2, 2 ]);

measure('limit', sub {
	return unless wanted('limit');
	for my $limits (1, 2, 4)
	{
		my $us = keelson->sql("select keelson._limits_speed(200000, $limits, 10000, 1000000)");
		keep("limit.$limits.keelson", unit => 'us', value => $us);
		cost('all limits of a request, µs', $us) if $limits == 4;
	}
});

1;
