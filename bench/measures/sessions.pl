# Log-ins: what a flood of them does to readers, and whether the time of a refusal tells that an account exists.

use strict;
use warnings;
use List::Util qw(sum0);
use Time::HiRes qw(time);

use Bench;
use Bench::System;

aim_cost(
	"readers' p99 beside a flood of log-ins, times"         => [ 1.2, 1.33 ],
	'log-in: known and unknown address apart, standard errors' => [ 3,   3 ]);

# One log-in that is refused, of an address that nothing is locked for.
sub refused
{
	my ($email) = @_;
	my $reply = gateway->post('/api/auth/login', { email => $email, password => 'not the password of anybody' });
	return $reply->{status};
}

# Readers alone, and then beside as many log-ins as eight clients can make.
sub run_flood
{
	my $alone = run_gateway('read', 8);
	forget('read.8.keelson');
	keelson->sql('delete from keelson.authentication_failures');
	my @flood = start_wrk('flood', 8, gateway->port);
	my $beside = run_gateway('read', 8);
	forget('read.8.keelson');
	my %flood = finish_wrk(@flood);
	my $logins = $flood{requests} * 1e6 / $flood{us};
	keep('flood.8.alone', %$alone);
	keep('flood.8.keelson', %$beside, ratio => $beside->{p99_ms} / $alone->{p99_ms}, ratio_to => 'flood.8.alone');
	keep('flood.8.logins', unit => 'log-ins/s', value => $logins);
	cost("readers' p99 beside a flood of log-ins, times", $beside->{p99_ms} / $alone->{p99_ms});
	return;
}

sub mean { return sum0(@_) / @_; }

sub variance
{
	my (@values) = @_;
	my $mean = mean(@values);
	return sum0(map { ($_ - $mean)**2 } @values) / (@values - 1);
}

# Welch's t of two samples: how many standard errors their means lie apart.
sub welch { my ($a, $b) = @_; return (mean(@$a) - mean(@$b)) / sqrt(variance(@$a) / @$a + variance(@$b) / @$b); }

# The slowest twentieth says more of the machine than of us.
sub trimmed { my (@sorted) = sort { $a <=> $b } @_; return [ @sorted[ 0 .. int($#sorted * .95) ] ]; }

# Wrong passwords for addresses that somebody holds and that nobody does, in turns and in a changing order, four of each
# at most: a fifth would lock.
sub run_enumeration
{
	my %ms = (known => [], unknown => []);
	keelson->sql('delete from keelson.authentication_failures');
	for my $turn (1 .. $ENV{BENCH_LOGINS} || 400)
	{
		my $person = (people)[ $turn % people ];
		my %email = (known => $person->{email}, unknown => "nobody$person->{email}");
		keelson->sql('delete from keelson.authentication_failures') if $turn % (4 * people) == 0;
		for my $kind ($turn % 2 ? qw(known unknown) : qw(unknown known))
		{
			my $began = time;
			my $status = refused($email{$kind});
			$status == 401 or die "a log-in answered $status\n";
			push @{ $ms{$kind} }, (time - $began) * 1000;
		}
	}
	keelson->sql('delete from keelson.authentication_failures');
	my $apart = abs welch(map { trimmed(@{ $ms{$_} }) } qw(known unknown));
	for my $kind (qw(known unknown))
	{
		my @sorted = sort { $a <=> $b } @{ $ms{$kind} };
		keep("enumeration.1.$kind", unit => 'ms', value => median(@sorted), p50_ms => median(@sorted), p99_ms => percentile(99, @sorted));
	}
	keep('enumeration.1.apart', unit => 'std. err.', value => $apart);
	cost('log-in: known and unknown address apart, standard errors', $apart);
	return;
}

# Each is for another address, so that none is locked; there are more than can be answered.
sub write_flood
{
	return write_lines(work_folder() . '/flood.requests', map {
		qq(POST\t/api/auth/login\t-\t{"email":"flood-$_\@example.com","password":"not the password of anybody"}) } 1 .. 5000);
}

measure('flood', sub {
	return unless wanted('flood');
	write_flood();
	run_flood();
});
measure_once('enumeration', sub { run_enumeration() if wanted('enumeration') });

1;
