package Bench;
# What was measured: samples of figures, what each is held against, the table and bench/results.json.
#
# A file of measures/ says what it measures by measure() or measure_once(), and what its figures are held against by
# aim_ratio(), aim_cost() and aim_cpu(). A figure is a sample a round, kept by keep(); a cost is one of the figures that
# the table of targets names in words. CPU time is worth little without the machine: its targets are stretched by what a
# yardstick takes here over what it took where they were set.

use strict;
use warnings;
use Exporter 'import';
use List::Util qw(max min);

our @EXPORT = qw(measure measure_once wanted keep unkept cost aim_ratio aim_cost aim_cpu aim_sql yardstick most_possible in_turn median percentile say_out);

my $only = $ENV{BENCH_ONLY} || '.';

my (@measures, @measures_once);    # [ name, code ]
my (%ratio_aims, %cost_aims);      # id without its system, or words → [ target, floor ]
my %stretched_by;                  # words → the yardstick's name
my %yardsticks = (                 # name → what it is, microseconds where the targets were set, and here, one a round
	bare   => { words => 'a request to a bare server, client included', then => 12.6, now => [] },
	insert => { words => 'a prepared insert of such a row as an audit event has', then => 4.0, now => [] });
my %samples;                       # id → list of { value, cpu_us, … }, one a round
my %order;                         # id → when it was first seen
my %costs;                         # words → list of values
my %possible;                      # id without its system → list of the ratios that the least of such programs reached
my %turns;                         # what takes turns → how often it has
our $is_unkept;
our $terminal = \*STDOUT;          # where the table goes

# What runs in every round, and what runs once, after them.
sub measure      { my ($name, $code) = @_; push @measures,      [ $name, $code ]; return; }
sub measure_once { my ($name, $code) = @_; push @measures_once, [ $name, $code ]; return; }

# True if BENCH_ONLY selects a name.
sub wanted { my ($name) = @_; return $name =~ /$only/; }

sub say_out { print $terminal @_, "\n"; return; }

# Targets and floors: of ratios (more is better) by id, of costs (less is better) by their words.
sub aim_ratio { my (%aims) = @_; %ratio_aims = (%ratio_aims, %aims); return; }
sub aim_cost  { my (%aims) = @_; %cost_aims  = (%cost_aims,  %aims); return; }

# The same for costs that are CPU time: of requests, and of work inside the server.
sub aim_cpu { my (%aims) = @_; aim_stretched('bare',   %aims); return; }
sub aim_sql { my (%aims) = @_; aim_stretched('insert', %aims); return; }

sub aim_stretched
{
	my ($yardstick, %aims) = @_;
	aim_cost(%aims);
	$stretched_by{$_} = $yardstick for keys %aims;
	return;
}

# Microseconds that a yardstick took in this round.
sub yardstick { my ($name, $us) = @_; push @{ $yardsticks{$name}{now} }, $us; return; }

# A ratio that the least of such programs reached in this round. Where that is below a target it takes its place, and nine
# tenths of it the floor's, as where the targets were set.
sub most_possible { my ($id, $ratio) = @_; push @{ $possible{$id} }, $ratio; return; }

# Keeps a sample: unit, value, and what else is known of it (cpu_us, p50_ms, p99_ms, ratio, ratio_to, …).
sub keep
{
	my ($id, %sample) = @_;
	return \%sample if $is_unkept;
	$order{$id} //= keys %order;
	push @{ $samples{$id} }, \%sample;
	return \%sample;
}

# What is measured meanwhile is returned, and not kept.
sub unkept
{
	my ($code) = @_;
	local $is_unkept = 1;
	return $code->();
}

sub cost { my ($words, $value) = @_; push @{ $costs{$words} }, $value if defined $value; return; }

sub run_round { $_->[1]->() for @measures;      return; }
sub run_once  { $_->[1]->() for @measures_once; return; }

# The same things in another order each time, so that none always comes after the same one.
sub in_turn
{
	my ($name, @things) = @_;
	my $first = $turns{$name}++ % @things;
	return @things[ $first .. $#things, 0 .. $first - 1 ];
}

sub percentile { my ($of, @sorted) = @_; return @sorted ? $sorted[ int($#sorted * $of / 100) ] : 0; }

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return undef unless @sorted;
	return ($sorted[ $#sorted / 2 ] + $sorted[ @sorted / 2 ]) / 2;
}

sub middle { my ($id, $key) = @_; return median(grep { defined } map { $_->{$key} } @{ $samples{$id} }); }

sub ids { my @ids = sort { $order{$a} <=> $order{$b} } keys %samples; return @ids; }

# The medians of one id, as results.json has them.
sub summary
{
	my ($id) = @_;
	my @values = map { $_->{value} } @{ $samples{$id} };
	my %line = (id => $id, unit => $samples{$id}[0]{unit}, median => median(@values), min => min(@values), max => max(@values));
	for my $key (qw(cpu_us gateway_us server_us client_us p50_ms p99_ms memory_mib database_mib ratio))
	{
		my $value = middle($id, $key);
		$line{$key} = $value if defined $value;
	}
	$line{ratio_to} = $samples{$id}[0]{ratio_to} if $samples{$id}[0]{ratio_to};
	$_ = 0 + sprintf '%.4g', $_ for grep { /^-?[\d.]+(?:e[-+]?\d+)?$/ } @line{ grep { !/^(?:id|unit|ratio_to)$/ } keys %line };
	return \%line;
}

sub verdict
{
	my ($value, $aim, $higher) = @_;
	return '' unless $aim && defined $value;
	my ($target, $floor) = $higher ? @$aim : map { -$_ } @$aim;
	$value = -$value unless $higher;
	return $value >= $target ? 'target' : $value >= $floor ? 'floor' : 'BELOW';
}

# How much slower this machine is than the one where targets were set, by a yardstick.
sub slowness
{
	my ($yardstick) = @_;
	return @{ $yardstick->{now} } ? median(@{ $yardstick->{now} }) / $yardstick->{then} : 1;
}

sub ratio_aim
{
	my ($id) = @_;
	my $aim = $ratio_aims{$id} or return undef;
	my $possible = median(@{ $possible{$id} || [] }) // return $aim;
	return [ min($aim->[0], $possible), min($aim->[1], .9 * $possible) ];
}

sub cost_aim
{
	my ($what) = @_;
	my $aim = $cost_aims{$what} or return undef;
	my $yardstick = $yardsticks{ $stretched_by{$what} // '' } or return $aim;
	return [ map { $_ * slowness($yardstick) } @$aim ];
}

sub number { my ($value, $digits) = @_; return defined $value ? sprintf("%.*f", $digits // 1, $value) : '–'; }

# Of a cost: two digits where one would hide what it misses its target by.
sub cost_number { my ($value) = @_; return number($value, defined $value && abs($value) < 10 ? 2 : 1); }

sub report
{
	my $line = '%-22s %10s %21s %6s %6s %6s %6s %8s %8s  %5s %6s %6s %s';
	say_out(sprintf $line, 'id', 'median', 'min .. max', 'cpu', 'gw', 'server', 'client', 'p50 ms', 'p99 ms', 'ratio', 'target', 'floor', '');
	for my $id (ids())
	{
		my $got = summary($id);
		my $aim = $id =~ /^(.*)\.keelson$/ ? ratio_aim($1) : undef;
		say_out(sprintf $line, $id, number($got->{median}), number($got->{min}) . ' .. ' . number($got->{max}),
			(map { number($got->{$_}) } qw(cpu_us gateway_us server_us client_us)),
			number($got->{p50_ms}, 2), number($got->{p99_ms}, 2), number($got->{ratio}, 2),
			$aim ? (map { number($_, 2) } @$aim) : ('–', '–'), verdict($got->{ratio}, $aim, 1));
	}
	say_out('');
	for my $yardstick (grep { @{ $_->{now} } } @yardsticks{ sort keys %yardsticks })
	{
		say_out(sprintf 'targets are stretched by %.2f: %s takes %.1f µs of CPU time, where they were set %.1f',
			slowness($yardstick), $yardstick->{words}, median(@{ $yardstick->{now} }), $yardstick->{then});
	}
	for my $what (sort keys %costs)
	{
		my $value = median(@{ $costs{$what} });
		my $aim = cost_aim($what);
		say_out(sprintf '%-58s %8s  target %6s  floor %6s  %s', $what, cost_number($value),
			$aim ? (map { cost_number($_) } @$aim) : ('–', '–'), verdict($value, $aim, 0));
	}
	return;
}

1;
