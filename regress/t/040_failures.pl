# What breaks under load: the database restarts, backends and the gateway are killed, the gateway is told to end.
# No acknowledged write is ever lost, nothing answered is nonsense, and all recovers without a hand.

use strict;
use warnings;

use KeelsonTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $keelson = KeelsonTest->new('failures', conf => "fsync = on\nsynchronous_commit = on");
$keelson->product;
my $gateway = $keelson->gateway;
my $user = $keelson->user($gateway);
my $callers = 6;
my $series = 0;

# Callers that each write notes with a text of their own, over kept connections, and note what they were told.
sub write_load
{
	my ($target) = @_;
	my $name = 'series ' . ++$series;
	my $load = $target->load($callers, sub {
		my ($number, $count) = @_;
		my $text = "$name $number.$count";
		my $reply = $target->post('/api/product/notes', { text => $text }, token => $user->{token}, timeout => 10);
		# A caller who is refused comes back a little later, as Retry-After asks.
		sleep 0.05 if $reply->{status} != 201;
		return join '|', $reply->{status}, $text, $reply->{json}{code} // '', $reply->{headers}{'retry-after'} // '', substr $reply->{content} // '', 0, 200;
	});
	wait_until(sub { grep { /^201/ } $load->lines }) or fail('load runs');
	return $load;
}

# What the callers were told holds: each acknowledged note is there, and nothing was answered that the contract does not know.
sub check_load
{
	my ($name, $allowed, @lines) = @_;
	my (%told, @strange, @unhelpful);
	for my $line (@lines)
	{
		my ($status, $text, $code, $retry, $content) = split /\|/, $line, 5;
		$told{$text} = $status;
		push @strange, $line unless $status == 201 || $status =~ $allowed;
		push @unhelpful, $line if $status == 503 && !($code eq 'UNAVAILABLE' && $retry);
	}
	my %there = map { $_ => 1 } split /\n/, $keelson->sql("select text from product.notes");
	my @lost = grep { $told{$_} == 201 && !$there{$_} } keys %told;
	is_deeply(\@lost, [], "$name: no acknowledged write is lost");
	is_deeply([ splice @strange, 0, 5 ], [], "$name: nothing else is answered");
	is_deeply([ splice @unhelpful, 0, 5 ], [], "$name: 503 comes as UNAVAILABLE with Retry-After");
	my @twice = split /\n/, $keelson->sql('select text from product.notes group by text having count(*) > 1');
	is_deeply(\@twice, [], "$name: no write is done twice");
	note "$name: " . join ', ', map { my $status = $_; "$status: " . grep { $_ == $status } values %told } qw(201 503 504 599);
	return;
}

sub recovers
{
	my ($target, $name) = @_;
	my $since = time();
	ok(wait_until(sub { $target->get('/api/product/whoami', token => $user->{token}, fresh => 1)->{status} == 200 }, 10), "$name: recovers by itself");
	note sprintf '%s: recovered after %.0f ms', $name, (time() - $since) * 1000;
	return;
}

subtest 'the database restarts' => sub {
	my $load = write_load($gateway);
	$keelson->node->stop('fast');
	my $reply = $gateway->get('/api/product/whoami', token => $user->{token}, timeout => 10);
	is("$reply->{status} " . ($reply->{json}{code} // ''), '503 UNAVAILABLE', 'without it: 503');
	ok($reply->{headers}{'retry-after'}, 'with Retry-After');
	is($gateway->get('/live')->{status}, 200, '/live is 200');
	is($gateway->get('/ready')->{status}, 503, '/ready is 503');
	is($gateway->get('/api/none')->{status}, 404, 'what needs no database is answered');
	$keelson->node->start;
	recovers($gateway, 'after the start');
	ok(wait_until(sub { $gateway->get('/ready')->{status} == 200 }, 5), '/ready is 200 again');
	my $acknowledged = grep { /^201/ } $load->lines;
	ok(wait_until(sub { grep({ /^201/ } $load->lines) > $acknowledged + 20 }), 'the load goes on');
	check_load('restart', qr/^503$/, $load->stop);
};

subtest 'the database crashes' => sub {
	my $load = write_load($gateway);
	$keelson->node->stop('immediate');
	$keelson->node->start;
	recovers($gateway, 'after the crash');
	check_load('crash', qr/^503$/, $load->stop);
};

subtest 'a backend is ended' => sub {
	my $load = write_load($gateway);
	for (1 .. 5)
	{
		$keelson->sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'keelson_gateway' and application_name <> '' order by random() limit 2");
		sleep 0.1;
	}
	recovers($gateway, 'after it');
	check_load('terminated', qr/^503$/, $load->stop);
};

subtest 'a backend is killed' => sub {
	my $load = write_load($gateway);
	my $pid = wait_until(sub { ($keelson->try_sql("select pid from pg_stat_activity where usename = 'keelson_gateway' limit 1"))[1] =~ /^(\d+)/ ? $1 : undef })
		or die 'the gateway has no backend';
	kill_server_process($pid);
	wait_until(sub { grep { /^503/ } $load->lines });
	ok(wait_until(sub { ($keelson->try_sql('select 1'))[0] == 0 }, 20), 'the server starts again');
	recovers($gateway, 'after it');
	check_load('killed backend', qr/^503$/, $load->stop);
};

subtest 'told to end' => sub {
	my $leaving = $keelson->gateway(KEELSON_DRAIN_SECONDS => 20);
	my $slow = $leaving->load(1, sub {
		my (undef, $count) = @_;
		return if $count > 1;
		return $leaving->post('/api/product/notes/slow', { text => 'at the end', seconds => 1.5 }, token => $user->{token}, fresh => 1)->{status};
	});
	wait_until(sub { $keelson->sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'") == 1 }) or fail('a slow one runs');
	my $load = write_load($leaving);
	is($leaving->stop('TERM', 30), 0, 'ends with status 0');
	is(($slow->stop)[0], 201, 'the one in flight was answered');
	# 599 is the client's own word for a refused or closed connection: nothing had been sent on it that was taken.
	my @lines = $load->stop;
	check_load('drain', qr/^(503|599)$/, @lines);
	my %there = map { $_ => 1 } split /\n/, $keelson->sql("select text from product.notes");
	my @unanswered = grep { my ($status, $text) = split /\|/; $status != 201 && $there{$text} } @lines;
	is_deeply(\@unanswered, [], 'no request that was done went unanswered');
};

subtest 'killed' => sub {
	my $victim = $keelson->gateway;
	my $load = write_load($victim);
	$victim->stop('KILL');
	ok(wait_until(sub { $keelson->sql("select count(*) from pg_stat_activity where usename = 'keelson_gateway' and client_port is not null and state = 'active'") <= 8 }, 10),
		'the database lets its connections go');
	$victim->start->wait_ready;
	recovers($victim, 'after the next start');
	check_load('killed gateway', qr/^(503|599)$/, $load->stop);
	$victim->stop;
};

subtest 'no database at the start' => sub {
	$keelson->node->stop('fast');
	my $early = $keelson->gateway(unready => 1);
	ok(wait_until(sub { $early->get('/live')->{status} == 200 }), 'the gateway starts all the same');
	is($early->get('/ready')->{status}, 503, 'and says that it is not ready');
	my $reply = $early->get('/api/product/items/first');
	is("$reply->{status} " . ($reply->{json}{code} // ''), '503 UNAVAILABLE', 'as do its replies');
	$keelson->node->start;
	$early->wait_ready;
	recovers($early, 'when the database comes');
	$early->stop;
};

subtest 'too few connections in the database' => sub {
	# The quick lane of two loops takes two; nothing is left for the slow requests.
	my $others = $keelson->sql(q{select count(*) from pg_stat_activity where usename = 'keelson_gateway'});
	# The third is the control's.
	$keelson->sql('alter role keelson_gateway connection limit ' . ($others + 3));
	my $small = $keelson->gateway(KEELSON_POOL => 1, unready => 1);
	ok(wait_until(sub { $keelson->sql(q{select count(*) from pg_stat_activity where usename = 'keelson_gateway'}) == $others + 3 }), 'a gateway has all that it may have');
	ok(wait_until(sub { $small->get('/api/auth/me', token => $user->{token})->{status} == 200 }), 'which do for quick requests');
	my $reply = $small->get('/ready');
	is($reply->{status}, 503, 'it is not ready while slow ones get none');
	like($reply->{content}, qr/too few connections/, 'and says so');
	is($small->get('/health')->{status}, 503, 'nor is it healthy');
	is($small->post('/api/auth/login', { email => $user->{email}, password => $user->{password} })->{status}, 503, 'as they see');
	$keelson->sql('alter role keelson_gateway connection limit -1');
	ok(wait_until(sub { $small->get('/ready')->{status} == 200 }), 'when there are more');
	is($small->post('/api/auth/login', { email => $user->{email}, password => $user->{password} })->{status}, 200, 'they are served at once');
	recovers($small, 'as the others are');
	$small->stop;
};

subtest 'the connections of slow requests are lost alone' => sub {
	my $login = sub { return $gateway->post('/api/auth/login', { email => $user->{email}, password => $user->{password} })->{status} };
	is($login->(), 200, 'one is there');
	# Idle, and so not seen to have gone: the next request finds out, and takes a new one.
	$keelson->sql(q{select pg_terminate_backend(pid) from pg_stat_activity where usename = 'keelson_gateway'});
	ok(wait_until(sub { $gateway->get('/ready')->{status} == 200 }), 'ready');
	is($login->(), 200, 'is true of it');
};

subtest 'OpenSSL fails' => sub {
	# A library in front of it says that no cipher can be had while a file is there.
	my ($library, $switch) = map { $keelson->node->basedir . $_ } '/no_cipher', '/no_cipher_now';
	open my $source, '>', "$library.c" or die "$library.c: $!";
	print $source <<'END';
#define _GNU_SOURCE
#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <unistd.h>

int
EVP_CipherInit_ex2(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, const unsigned char *key, const unsigned char *iv, int enc, const OSSL_PARAM params[])
{
	int (*next)(EVP_CIPHER_CTX *, const EVP_CIPHER *, const unsigned char *, const unsigned char *, int, const OSSL_PARAM[]) = dlsym(RTLD_NEXT, "EVP_CipherInit_ex2");

	if (access(getenv("NO_CIPHER"), F_OK) == 0)
	{
		ERR_raise(ERR_LIB_EVP, EVP_R_INITIALIZATION_ERROR);
		return 0;
	}
	return next(ctx, cipher, key, iv, enc, params);
}
END
	close $source;
	is(system("cc -shared -fPIC -o $library.so $library.c -ldl"), 0, 'the library compiles');
	local $ENV{NO_CIPHER} = $switch;
	# Sanitizers have to come first.
	local $ENV{LD_PRELOAD} = join ' ', grep { $_ } $ENV{LD_PRELOAD}, "$library.so";
	$keelson->node->restart;
	delete local $ENV{LD_PRELOAD};
	recovers($gateway, 'after the restart');

	my $store = sub { return $gateway->post('/api/user/api-keys', { service => 'openai', apiKey => "sk-proj-$_[0]" . 'a' x 40 }, token => $user->{token}) };
	# What is kept, and what psql says.
	my $open = sub { return ($keelson->try_sql("select left(api_key, 9) from keelson.user_api_key_use('$user->{id}', 'openai') as api_key"))[ 1, 2 ] };
	is($store->('1')->{status}, 200, 'a secret is sealed');
	is(($open->())[0], 'sk-proj-1', 'and opened');
	open my $file, '>', $switch or die "$switch: $!";
	close $file;
	my $reply = $store->('2');
	is("$reply->{status} $reply->{json}{code}", '500 INTERNAL', 'whoever has one sealed is told that it cannot be done');
	unlike($reply->{content}, qr/cipher|OpenSSL/, 'and not why');
	is($gateway->get('/api/product/whoami', token => $user->{token})->{status}, 200, 'what needs no secret is served');
	my (undef, $messages) = $open->();
	like($messages, qr/ERROR:  could not start a cipher\nDETAIL:  OpenSSL says: initialization error\./, 'an operator is told why');
	unlink $switch;
	is(($open->())[0], 'sk-proj-1', 'afterwards the old one is there');
	is($store->('2')->{status}, 200, 'until it is replaced');
	is(($open->())[0], 'sk-proj-2', 'by the new one');
	unlike($keelson->server_log . $gateway->log_text, qr/sk-proj-/, 'neither is in a log');
};

ok($gateway->running, 'the first gateway has lived through it all');
done_testing();
$keelson->stop;
