# Properties: what holds whatever is given, tried with generated values.
#
#   property('the round trip', 20, sub { my $given = some_text(30); return $given eq there_and_back($given) ? '' : "not so: $given" });
#
# A round returns what is wrong, or nothing. FUZZ_SEED chooses the values (the same ones give the same), FUZZ_ROUNDS is a
# factor on the number of rounds.

package KeelsonTest::Property;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP ();
use Test::More;

our @EXPORT = qw(property integer pick subset some_text some_value);

my $seed = $ENV{FUZZ_SEED} || 1815;
my $factor = $ENV{FUZZ_ROUNDS} || 1;

# One test: all rounds, up to the first that is at fault.
sub property
{
	my ($name, $rounds, $round) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $hash = unpack '%24C*', $name;
	for my $number (1 .. $rounds * $factor)
	{
		srand($seed * 1000 + $hash + $number);
		my $fault = eval { $round->($number) // '' };
		$fault = "died: $@" unless defined $fault;
		next if $fault eq '';
		fail("$name (round $number of seed $seed)");
		diag(substr $fault, 0, 3000);
		return 0;
	}
	return pass("$name ($rounds rounds)");
}

# A whole number from ... to ...
sub integer { my ($low, $high) = @_; return $low + int rand($high - $low + 1); }
sub pick    { return $_[ int rand @_ ]; }
sub subset  { return grep { rand() < 0.5 } @_; }

# Characters that are awkward somewhere beside plain ones; no control characters.
my @characters = ('a' .. 'z', 'A' .. 'Z', 0 .. 9, ' ', split(//, q{'"\\%_$&<>/?#;:,.-+=()[]{}@!~^|`*}), "\x{e9}", "\x{df}", "\x{3b1}", "\x{4e2d}", "\x{1f600}", "\x{202e}", "\x{a0}", "\x{301}");

sub some_text
{
	my ($most) = @_;
	return join '', map { pick(@characters) } 1 .. integer(1, $most);
}

# A value of JSON.
sub some_value
{
	my ($depth) = @_;
	my $kind = integer(0, $depth > 0 ? 6 : 4);
	return [ map { some_value($depth - 1) } 1 .. integer(0, 3) ] if $kind == 5;
	return { map { some_text(8) => some_value($depth - 1) } 1 .. integer(0, 3) } if $kind == 6;
	return (undef, JSON::PP::true, integer(-1000, 1000), some_text(20), integer(-10, 10) / 8)[$kind];
}

1;
