# What was done, how often, and what held.

package Torture::Report;

use strict;
use warnings;

use Time::HiRes qw(time);

# Writes the report beside the logs; returns its lines.
sub write
{
	my ($run) = @_;
	my @lines = (sprintf('seed %d, %d rounds, %.0f s', $run->{seed}, scalar @{ $run->{windows} }, time() - $run->{began}), faults($run), requests($run), invariants($run), counts($run));
	open my $file, '>', "$run->{folder}/report" or die "report: $!";
	print $file map { "$_\n" } @lines;
	close $file;
	return @lines;
}

sub faults
{
	my ($run) = @_;
	my %times;
	$times{ $_->{fault} }++ for @{ $run->{windows} };
	my @lines = ('', 'schedule: ' . join(' ', map { $_->{fault} } @{ $run->{schedule} }), '');
	push @lines, sprintf '%-20s %6s %20s', 'fault', 'times', 'slowest recovery';
	for my $fault (sort keys %times)
	{
		my ($slowest) = sort { $b <=> $a } @{ $run->{recoveries}{$fault} || [] };
		push @lines, sprintf '%-20s %6d %20s', $fault, $times{$fault},
			$run->{skipped}{$fault} ? "skipped: $run->{skipped}{$fault}" : defined $slowest ? sprintf('%.2f s', $slowest) : 'not well';
	}
	return @lines;
}

sub requests
{
	my ($run) = @_;
	my %statuses;
	for my $asked (values %{ $run->{asked} }) { $statuses{$_} += $asked->{$_} for keys %$asked; }
	my %told = map { ($_ => scalar @{ $run->{said}{$_} }) } keys %{ $run->{said} };
	return ('', 'requests to ' . scalar(keys %{ $run->{asked} }) . ' endpoints, by status (599: cut off): ' . join(', ', map { "$_: $statuses{$_}" } sort keys %statuses),
		'acknowledged: ' . join ', ', map { "$_ $told{$_}" } sort keys %told);
}

sub invariants
{
	my ($run) = @_;
	return ('', sprintf('%-58s %5s  %s', 'must be none', 'found', 'of'), map { sprintf '%-58s %5d  %s', $_->[0], $_->[2], $_->[1] } @{ $run->{invariants} });
}

sub counts
{
	my ($run) = @_;
	return ('', (map { "$_: $run->{counts}{$_}" } sort keys %{ $run->{counts} }), $run->{measured} ? ("at the base: $run->{measured}[0]", "in the end: $run->{measured}[1]") : ());
}

1;
