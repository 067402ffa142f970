# The torture, a short one: callers ask for everything while what they rest on is killed, filled, cut off and starved; then
# what they were told holds. `make torture` takes more rounds and other seeds; regress/README.md tells how.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

use lib "$KeelsonTest::root/regress/torture";
use Torture;

plan skip_all => 'a checker makes everything so slow that faults meet nothing' if $KeelsonTest::slow > 1;

Torture->new(
	seed   => $ENV{TORTURE_SEED}   // 1815,
	rounds => $ENV{TORTURE_ROUNDS} // 6,
	faults => [ split ' ', $ENV{TORTURE_FAULTS} // '' ])->perform;
done_testing();
