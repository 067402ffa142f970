# What a courier does about receivers and neighbours: TLS and HTTP/2, breakers, the guard on connections that are used
# again, fairness, several couriers, name servers that do not answer, and stopping with hundreds of requests under way.

use strict;
use warnings;

use KeelsonTest;
use KeelsonTest::Hooks;
use KeelsonTest::Sink;
use Test::More;
use Time::HiRes qw(time);

my $folder = $ENV{TESTDIR};

sub run_quietly
{
	my (@command) = @_;
	system("@command >'$folder/command.log' 2>&1") == 0 or die "@command: " . slurp("$folder/command.log");
	return;
}

# A key and a certificate by our authority, or by itself.
sub certificate
{
	my ($name, $alternative, @more) = @_;
	my ($key, $request, $made) = map { "$folder/$name.$_" } qw(key csr pem);
	run_quietly("openssl req -newkey rsa:2048 -nodes -keyout $key -out $request -subj /CN=$name");
	open my $extensions, '>', "$folder/$name.ext" or die $!;
	print $extensions "subjectAltName=$alternative\n";
	close $extensions;
	run_quietly("openssl x509 -req -in $request -extfile $folder/$name.ext -out $made", @more ? @more : "-CA $folder/ca.pem -CAkey $folder/ca.key -CAcreateserial -days 2");
	return [ $key, $made ];
}

# The first courier: few requests at once.
run_quietly("openssl req -x509 -newkey rsa:2048 -nodes -keyout $folder/ca.key -out $folder/ca.pem -subj /CN=authority -days 2");
my $keelson = KeelsonTest->new('receivers', conf => join "\n",
	'keelson.environment = development', 'keelson.allow_private_targets = on', 'keelson.courier_timeout = 5', 'keelson.courier_in_flight = 16',
	"keelson.courier_ca_file = '$folder/ca.pem'");
my $hooks = KeelsonTest::Hooks->new($keelson);
my $sink = KeelsonTest::Sink->new('plain');
my $ada = $hooks->user;
my $bob = $hooks->user;

# TLS and HTTP/2.
my %tls = (
	good    => certificate('good', 'IP:127.0.0.1'),
	other   => certificate('other', 'DNS:other.example.com'),
	unknown => certificate('unknown', 'IP:127.0.0.1', "-signkey $folder/unknown.key -days 2"),
	old     => certificate('old', 'IP:127.0.0.1', "-CA $folder/ca.pem -CAkey $folder/ca.key -CAcreateserial -days 0"));
my %secure = map { $_ => KeelsonTest::Sink->new($_, tls => $tls{$_}) } sort keys %tls;
my %endpoint = map { $_ => $hooks->endpoint($ada, $secure{$_}->url('/tls')) } sort keys %tls;
$hooks->emit($ada, '{"n": 1}');
ok(wait_until(sub { $hooks->count($endpoint{good}, 'delivered') == 1 }, 20), 'a certificate of an authority that we trust');
for my $name (qw(other unknown old))
{
	ok(wait_until(sub { $hooks->outcomes($endpoint{$name}) eq 'tls' }, 20), "a certificate that is $name is refused") or diag($hooks->outcomes($endpoint{$name}));
	is(scalar($secure{$name}->requests), 0, 'and gets nothing');
}
is($keelson->sql("select http_version from keelson.deliveries_log where lane = '$endpoint{good}'"), 20, 'HTTP/2 where it is offered');
is(join(' ', map { $_->{version} } $secure{good}->requests), '2.0', 'the receiver agrees');
$hooks->emit($ada, '{"n": 2}', 20);
ok(wait_until(sub { $hooks->count($endpoint{good}, 'delivered') == 21 }, 20), 'many of them');
is(scalar(keys %{ { map { $_->{client} => 1 } $secure{good}->requests } }), 1, 'over one connection');
$keelson->sql("begin; select keelson.act_as('$ada'); select keelson.webhook_delete('$_'); commit") for values %endpoint;
$_->stop for values %secure;

# A breaker opens by itself, keeps what waits, lets one through when its time is over, then more and more.
sub set_switch
{
	my ($name, $words) = @_;
	open my $switch, '>', $sink->folder . "/$name.new" or die $!;
	print $switch $words;
	close $switch;
	return rename $sink->folder . "/$name.new", $sink->folder . "/$name";
}

sub breaker { my ($lane) = @_; return $keelson->sql("select breaker from keelson.courier_lanes where lane = '$lane'"); }

set_switch(breaker => '500');
my $shaky = $hooks->endpoint($ada, $sink->url('/switch/breaker'), retry_schedule => q{'{86400,86400,86400}'});
$hooks->emit($ada, '{"n": 1}', 12);
ok(wait_until(sub { breaker($shaky) eq 'open' }, 20), 'a breaker opens when most attempts fail');
$hooks->emit($ada, '{"n": 2}', 30);
wait_until(sub { $keelson->sql("select count(*) from keelson.deliveries where lane = '$shaky' and claim_id is not null") == 0 });
my $tried = $sink->requests('/switch/breaker');
is($keelson->sql("select count(*) from keelson.deliveries where lane = '$shaky' and attempts = 0"), 42 - $tried, 'what waits keeps its attempts')
	or diag($hooks->outcomes($shaky));
ok(wait_until(sub { $keelson->sql("select keelson._courier_health() ->> 'state'") eq 'degraded' }, 20), 'health tells of it');
set_switch(breaker => '200 100');
$keelson->sql("update keelson.courier_lanes set breaker_until = now() where lane = '$shaky'; select keelson._courier_hint('$ada', '$shaky', true)");
ok(wait_until(sub { $sink->requests('/switch/breaker') >= 42 }, 30), 'it tries again by itself when its time is over');
ok(wait_until(sub { breaker($shaky) eq 'closed' }, 20), 'and closes');
my @after = ($sink->requests('/switch/breaker'))[ $tried .. 41 ];
my @hasty = grep { my $done = $_ + 1 - $after[$_]{answering}; $after[$_]{answering} > 2**$done } 0 .. 6;
is("@hasty", '', 'one at first, twice as many with each that succeeds') or diag(join ' ', map { $_->{answering} } @after);
ok(wait_until(sub { $hooks->count($shaky, 'delivered') == 42 - $tried }, 20), 'all that waited was delivered');
$hooks->is_balanced('after the breaker');

# Five in a row that reach nobody open it too; the next time is longer.
my $nobody = $hooks->endpoint($bob, 'http://127.0.0.1:1/', retry_schedule => q{'{86400}'});
$hooks->emit($bob, '{"n": 1}', 8);
ok(wait_until(sub { breaker($nobody) eq 'open' }, 20), 'a receiver that cannot be reached opens it sooner');
$hooks->emit($bob, '{"n": 2}', 3);
$keelson->sql("update keelson.courier_lanes set breaker_until = now() where lane = '$nobody'; select keelson._courier_hint('$bob', '$nobody', true)");
ok(wait_until(sub { $keelson->sql("select breaker = 'open' and breaker_trips = 2 from keelson.courier_lanes where lane = '$nobody'") eq 't' }, 20), 'the one that is let through fails');
is($keelson->sql("select breaker_until - changed_at between interval '45 seconds' and interval '73 seconds' from keelson.courier_lanes where lane = '$nobody'"), 't', 'it stays open for twice as long');
$keelson->sql("begin; select keelson.act_as('$bob'); select keelson.webhook_delete('$nobody'); commit");

# The guard looks at connections that are used again.
my $kept = $hooks->endpoint($bob, $sink->url('/kept'), retry_schedule => q{'{86400}'});
$hooks->emit($bob, '{"n": 1}', 2);
ok($sink->wait_for(2, '/kept'), 'a connection is made');
$keelson->node->append_conf('postgresql.conf', 'keelson.allow_private_targets = off');
$keelson->node->reload;
ok(wait_until(sub { $keelson->sql('show keelson.allow_private_targets') eq 'off' }), 'private addresses are closed');
$hooks->emit($bob, '{"n": 2}');
ok(wait_until(sub { $hooks->outcomes($kept) =~ /blocked/ }, 20), 'nothing more goes over it') or diag($hooks->outcomes($kept));
is(scalar($sink->requests('/kept')), 2, 'the receiver sees nothing');
$keelson->node->append_conf('postgresql.conf', 'keelson.allow_private_targets = on');
$keelson->node->reload;
wait_until(sub { $keelson->sql('show keelson.allow_private_targets') eq 'on' });

# One with hundreds of slow deliveries, and a neighbour with a few: these do not wait for those.
my $many = $hooks->endpoint($ada, $sink->url('/slow/100?many'));
$hooks->emit($ada, '{"n": 3}', 400);
my $few = $hooks->endpoint($bob, $sink->url('/slow/100?few'));
wait_until(sub { $sink->requests('/slow/100?many') >= 20 }, 20);
my $behind = $sink->requests('/slow/100?many');
$hooks->emit($bob, '{"n": 4}', 5);
ok($sink->wait_for(5, '/slow/100?few', 30), 'a neighbour with a few deliveries');
my @served = $sink->requests('/slow/100');
my @places = grep { $served[$_]{path} =~ /few/ } 0 .. $#served;
cmp_ok($places[4] - $behind, '<', 150, 'is served between those of one with many');
ok(wait_until(sub { $hooks->count($many, 'delivered') == 400 }, 60), 'who gets everything too');
$hooks->is_balanced('after all that');
$keelson->stop;
$sink->stop;

# Several couriers, names that are never resolved, hundreds of requests under way. A library in front of the C library's
# plays the name server.
open my $source, '>', "$folder/names.c" or die $!;
print $source <<'END';
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
	int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");

	if (node != NULL && strstr(node, ".silent.example") != NULL)
	{
		sleep(60);
		return EAI_AGAIN;
	}
	if (node != NULL && strcmp(node, "late.example") == 0)
	{
		/* Each question is noted, and answered when the test says so. */
		int questions = open(getenv("NAMES_QUESTIONS"), O_WRONLY | O_APPEND | O_CREAT, 0600);

		(void) !write(questions, "?", 1);
		close(questions);
		while (access(getenv("NAMES_ANSWER"), F_OK) != 0)
			usleep(10000);
	}
	if (node != NULL && (strcmp(node, "known.example") == 0 || strcmp(node, "late.example") == 0 || strstr(node, ".many.example") != NULL))
		node = "127.0.0.1";
	return next(node, service, hints, out);
}
END
close $source;
run_quietly("cc -shared -fPIC -o $folder/names.so $folder/names.c -ldl");
local @ENV{qw(NAMES_QUESTIONS NAMES_ANSWER)} = ("$folder/questions", "$folder/answer");
# Sanitizers have to come first.
local $ENV{LD_PRELOAD} = join ' ', grep { $_ } $ENV{LD_PRELOAD}, "$folder/names.so";
my $several = KeelsonTest->new('several', conf => join "\n",
	'keelson.environment = development', 'keelson.allow_private_targets = on', 'keelson.courier_timeout = 20', 'keelson.courier_workers = 3',
	'max_worker_processes = 16', 'keelson.courier_in_flight = 400', 'keelson.courier_in_flight_user = 400');
delete $ENV{LD_PRELOAD};
$hooks = KeelsonTest::Hooks->new($several);
$sink = KeelsonTest::Sink->new('several');
ok(wait_until(sub { $several->sql("select count(*) from pg_stat_activity where backend_type like 'keelson courier%'") == 3 }), 'three couriers');
my @people = map { $hooks->user } 1 .. 8;
my %of = map { $_ => $hooks->endpoint($people[$_], $sink->url("/user/$_")) } 0 .. $#people;
$hooks->emit($people[$_], qq({"person": $_}), 25, 'k') for 0 .. $#people;
ok($sink->wait_for(200, '/user/', 30), 'deliver what many users are sent');
ok(wait_until(sub { $several->sql('select count(*) from keelson.deliveries') == 0 }, 20), 'all of it');
is(scalar($sink->requests('/user/')), 200, 'once');
$hooks->is_balanced('with several couriers');

my $asked = q{'probe.answered', lane => gen_random_uuid()};
$several->sql(q{create schema probe; create function probe.answered(context jsonb, status int, body text, error text, cache_control text, is_last bool) returns void language sql as ''; grant usage on schema probe to keelson_system});
# More hosts than a courier remembers (a user's are one courier's): what it knew of the others goes while one is being looked up.
my $ask_hosts = sub {
	my ($hosts, $path) = @_;
	$several->sql("select count(keelson._http_request('test', 'http://' || host || ':@{[ $sink->port ]}$path', $asked, user_id => '$people[0]')) from ($hosts) as h (host)");
};
my $ask_late = sub {
	my ($path, $under_way) = @_;
	$ask_hosts->(q{values ('late.example')}, $path);
	return wait_until(sub { $several->sql('select in_flight from keelson._courier_status()') == $under_way }, 20);
};
$ask_hosts->(q{select n || '.many.example' from generate_series(1, 4050) as n}, '/many');
ok($sink->wait_for(4050, '/many', 60), 'thousands of hosts are reached');
ok(wait_until(sub { $several->sql('select in_flight = 0 from keelson._courier_status()') eq 't' }, 20), 'all of them');
ok($ask_late->('/late', 1) && $ask_late->('/late', 2), 'two wait for the name of one host');
$ask_hosts->(q{select n || '.many.example' from generate_series(4051, 4150) as n}, '/many');
ok($sink->wait_for(4150, '/many', 30), 'meanwhile more are reached than are remembered');
ok($ask_late->('/late', 3), 'a third waits with the two');
open my $answer, '>', "$folder/answer" or die $!;
close $answer;
ok($sink->wait_for(3, '/late'), 'and all three reach the host when its name is known');
is(slurp("$folder/questions"), '?', 'which was asked for once');
$ask_hosts->(q{values ('1.many.example')}, '/again');
ok($sink->wait_for(1, '/again'), 'one from before is reached again');
ok(wait_until(sub { $several->sql('select count(*) from keelson.deliveries') == 0 }, 20), 'nothing is left');

$several->sql("select count(keelson._http_request('test', 'http://n' || n || '.silent.example:' || @{[ $sink->port ]} || '/', $asked)) from generate_series(1, 60) as n");
ok(wait_until(sub { $several->sql('select in_flight >= 60 from keelson._courier_status()') eq 't' }, 20), 'many names that are not resolved');
my $named = $hooks->endpoint($people[0], $sink->url('/named', 'known.example'), events => q{'{order.*}'});
$hooks->emit($people[0], '{"n": 1}', 5);
ok($sink->wait_for(30, '/user/0', 10), 'hold up nobody whose address is known');
is(threads_of($_) <= 20, 1, "with a bounded number of threads") for couriers();
ok(wait_until(sub { $several->sql(q{select count(*) from keelson.delivery_attempts where code = 'timeout' and error like 'the host name%'}) > 0 }, 30), 'and are told of');

sub couriers { return split /\n/, $several->sql("select pid from pg_stat_activity where backend_type like 'keelson courier%'"); }
sub threads_of { my ($pid) = @_; my @tasks = glob "/proc/$pid/task/*"; return scalar @tasks; }

# Stopping.
$several->sql("select count(keelson._http_request('test', '@{[ $sink->url('/hang') ]}?' || n, $asked, timeout => '20 seconds')) from generate_series(1, 300) as n");
ok(wait_until(sub { $sink->requests('/hang') >= 300 }, 30), 'hundreds of requests under way');
my @pids = couriers();
my $began = time;
$several->sql('select pg_terminate_backend(pid) from pg_stat_activity where backend_type like \'keelson courier%\'');
ok(wait_until(sub { !grep { kill 0, $_ } @pids }, 4), 'couriers end within two seconds all the same') or diag(time - $began);
note(sprintf 'after %.1f seconds', time - $began);
is($several->sql('select count(*) from keelson.deliveries where claim_id is not null and lease_until < now()'), 0, 'nothing is left behind');
$several->stop;

done_testing();
