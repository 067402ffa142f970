# Logins: what a flood of them does to readers, and whether the time of an answer tells that an account exists.

use strict;
use warnings;
use List::Util qw(sum0);
use Time::HiRes qw(time);

use Bench;
use Bench::System;

aim_cost(
	"readers' p99 beside a flood of logins, times"         => [ 1.2, 1.33 ],
	map { ("$_: known and unknown address apart, standard errors" => [ 3, 3 ]) } qw(login request-reset resend-verification));

sub readers { return unkept(sub { run_gateway('read', 8) }); }

# Readers beside as many logins as eight clients can make, and alone, before and after; what comes first warms.
sub run_flood
{
	readers();
	my @alone = readers();
	keelson->sql('delete from keelson.authentication_failures');
	my @flood = start_wrk('flood', 8, gateway->port);
	my $beside = readers();
	my %flood = finish_wrk(@flood);
	KeelsonTest::wait_until(sub { keelson->sql('select running + waiting from keelson._password_queue()') eq '0' }, 60) or die "hashes do not end\n";
	push @alone, readers();
	keep('flood.8.alone', %$_) for @alone;
	my $ratio = $beside->{p99_ms} / mean(map { $_->{p99_ms} } @alone);
	keep('flood.8.keelson', %$beside, ratio => $ratio, ratio_to => 'flood.8.alone');
	keep('flood.8.logins', unit => 'logins/s', value => $flood{requests} * 1e6 / $flood{us}, p50_ms => $flood{p50} / 1000, p99_ms => $flood{p99} / 1000);
	cost("readers' p99 beside a flood of logins, times", $ratio);
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

# Milliseconds that an endpoint takes for addresses that somebody holds and that nobody does, in turns and in a changing
# order, four of each at most: a fifth wrong password would lock.
sub enumeration_ms
{
	my ($endpoint, $expected) = @_;
	my %ms = (known => [], unknown => []);
	for my $turn (1 .. $ENV{BENCH_LOGINS} || 400)
	{
		my $person = (people)[ $turn % people ];
		my %email = (known => $person->{email}, unknown => "nobody$person->{email}");
		keelson->sql('delete from keelson.authentication_failures') if $turn % (4 * people) == 1;
		for my $kind ($turn % 2 ? qw(known unknown) : qw(unknown known))
		{
			my %body = (email => $email{$kind}, $endpoint eq 'login' ? (password => 'not the password of anybody') : ());
			my $began = time;
			my $status = gateway->post("/api/auth/$endpoint", \%body)->{status};
			$status == $expected or die "$endpoint answered $status\n";
			push @{ $ms{$kind} }, (time - $began) * 1000;
		}
	}
	keelson->sql('delete from keelson.authentication_failures');
	return %ms;
}

sub run_enumeration
{
	my ($endpoint, $expected) = @_;
	my ($id) = $endpoint =~ /^(\w+)/;
	my %ms = enumeration_ms($endpoint, $expected);
	my $apart = abs welch(map { trimmed(@{ $ms{$_} }) } qw(known unknown));
	for my $kind (qw(known unknown))
	{
		my @sorted = sort { $a <=> $b } @{ $ms{$kind} };
		keep("$id.1.$kind", unit => 'ms', value => median(@sorted), p50_ms => median(@sorted), p99_ms => percentile(99, @sorted));
	}
	keep("$id.1.apart", unit => 'std. err.', value => $apart);
	cost("$endpoint: known and unknown address apart, standard errors", $apart);
	return;
}

sub in_environment
{
	my ($name) = @_;
	keelson->sql("alter system set keelson.environment = $name");
	keelson->sql('select pg_reload_conf()');
	KeelsonTest::wait_until(sub { keelson->sql("select current_setting('keelson.environment')") eq $name }) or die "not $name\n";
	return;
}

# In development a mail is written at once, and its token is in the answer: there is nothing to hide there.
sub run_enumerations
{
	run_enumeration('login', 401);
	in_environment('production');
	run_enumeration($_, 200) for qw(request-reset resend-verification);
	in_environment('development');
	return;
}

# Each is for another address, so that none is locked; there are more than can be answered.
sub write_flood
{
	return write_lines(work_folder() . '/flood.requests', map {
		request_line('POST', '/api/auth/login', undef, qq({"email":"flood-$_\@example.com","password":"not the password of anybody"})) } 1 .. 5000);
}

measure('flood', sub {
	return unless wanted('flood');
	write_flood();
	run_flood();
});
measure_once('enumeration', sub { run_enumerations() if wanted('enumeration') });

1;
