# Generated requests, good and bad, to every documented endpoint: whatever is sent, the answer is one that the
# description has (regress/openapi/fuzz.js says what is asked of it). FUZZ_SEED, FUZZ_RUNS (of each endpoint) and
# FUZZ_SECONDS make it another or a longer run.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

plan skip_all => 'the npm packages are not there' unless -d "$KeelsonTest::root/regress/node_modules/fast-check";

my $keelson = KeelsonTest->new('openapi_fuzz');
my $cron_secret = 'cron-secret-of-the-tests-0123456789';
$keelson->sql("select keelson.secret_set('cron_secret', '$cron_secret')");
my $gateway = $keelson->gateway;
my $before = $gateway->log_lines;
my $folder = $keelson->node->basedir;

sub write_text
{
	my ($name, $text) = @_;
	open my $file, '>:raw', "$folder/$name" or die "$name: $!";
	print $file $text;
	close $file;
	return "$folder/$name";
}

# Somebody of whom nobody else hears, with something of each kind.
my $stranger = $keelson->user($gateway, email => 'stranger-marker@example.com');
$gateway->put('/api/user/profile', { name => 'Stranger Marker' }, token => $stranger->{token});
is($gateway->post('/api/webhooks', { url => 'https://stranger-marker.example.com/', events => ['user.*'] }, token => $stranger->{token})->{status}, 201, 'the stranger\'s webhook');
is($gateway->post('/api/user/access-keys', { name => 'stranger-marker', scopes => ['usage.write'] }, token => $stranger->{token})->{status}, 201, 'and access key');

my %callers = (nobody => { headers => {} });
my %users = map { $_ => $keelson->user($gateway) } qw(user admin);
$keelson->sql("select keelson.role_grant('$users{admin}{email}', '$_')") for qw(admin owner);
$callers{$_} = { headers => { Authorization => "Bearer $users{$_}{token}" } } for keys %users;
$callers{admin}{seesAll} = JSON::PP::true;
# An account that the requests end is followed by another.
$callers{user}{renewal} = JSON::PP::true;
my $made = $gateway->post('/api/user/access-keys', { name => 'fuzz', scopes => ['usage.write'] }, token => $users{user}{token});
$callers{key} = { headers => { 'X-API-Key' => $made->{json}{data}{key} } };
$callers{cron} = { headers => { Authorization => "Bearer $cron_secret" } };

my $configuration = write_text('fuzz.json', json_encode({
	url         => 'http://127.0.0.1:' . $gateway->port,
	description => write_text('openapi.json', $keelson->sql('select keelson.openapi()')),
	seed        => 0 + ($ENV{FUZZ_SEED} || 1815),
	runs        => 0 + ($ENV{FUZZ_RUNS} || 6),
	seconds     => 0 + ($ENV{FUZZ_SECONDS} || 0),
	callers     => \%callers,
	protected   => [ $users{admin}{id}, qw(user admin owner) ],
	strangers   => [ 'stranger-marker', 'Stranger Marker', $stranger->{id} ],
}));
open my $fuzzer, '-|', 'node', "$KeelsonTest::root/regress/openapi/fuzz.js", $configuration or die "node: $!";
while (my $line = <$fuzzer>)
{
	if ($line =~ /^(not )?ok \d+ - (.*)/) { ok(!$1, $2); }
	elsif ($line =~ /^# /) { diag $line; }
}
ok(close($fuzzer), 'the fuzzer came to its end');

# What the answers did not show did not happen in silence either.
my @lines = $gateway->log_lines;
my @faults = grep { ($_->{status} || 0) >= 500 && $_->{status} != 502 } @lines[ $before .. $#lines ];
is_deeply([ map { "$_->{method} $_->{route} $_->{status}: $_->{error}" } @faults ], [], 'no fault inside in the gateway\'s log');
my @crashes = grep { /PANIC|TRAP|terminated by signal/ } split /\n/, $keelson->server_log;
is_deeply(\@crashes, [], 'no process of the server has crashed');

done_testing();
$keelson->stop;
