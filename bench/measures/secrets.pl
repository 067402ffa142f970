# Sealing, in one backend.

use strict;
use warnings;

use Bench;
use Bench::System;

measure('seal', sub {
	return unless wanted('seal');
	my $user_id = (people)[0]{id};
	for my $size (64, 1024, 4096)
	{
		my $us = microseconds("keelson.seal(convert_to(repeat('x', $size), 'UTF8'), row('totp', '$user_id', null)::keelson.seal_context)", 20_000);
		keep("seal.$size.keelson", unit => 'us', value => $us) if defined $us;
	}
});

1;
