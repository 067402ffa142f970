# Sealing in one backend: many values of one user, values of many users, each with a key of its own; pgcrypto beside it;
# and the rotation of 100,000 users' keys while the API answers.

use strict;
use warnings;
use MIME::Base64 qw(encode_base64);
use POSIX ();
use Time::HiRes qw(time);

use Bench;
use Bench::Sql;
use Bench::System;

my $holders = 100_000;
my %aims = (64 => [ 1.0, 1.11 ], 1024 => [ 1.25, 1.39 ], 4096 => [ 2.0, 2.22 ]);
aim_cost("sealing a value of $_ bytes, µs" => $aims{$_}) for keys %aims;
aim_cost('sealing a value of 64 bytes for each of many users, µs' => [ 5, 5.56 ], "rotating the keys of $holders users, s" => [ 20, 20 ],
	'reads that failed meanwhile' => [ 0, 0 ]);

# Users with a key each, made once.
sub make_holders
{
	return if keelson->sql("select to_regclass('bench.key_holders') is not null") eq 't';
	keelson->sql(qq{
		create table bench.key_holders as select keelson.uuid7() as user_id from generate_series(1, $holders);
		select count(keelson.seal('x', row('totp', user_id, null))) from bench.key_holders;
		vacuum analyze keelson.user_keys});
	return;
}

measure('seal', sub {
	return unless wanted('seal');
	my $user_id = (people)[0]{id};
	for my $size (sort { $a <=> $b } keys %aims)
	{
		my $rows = $size > 1024 ? 50_000 : 200_000;
		my $us = each_us("keelson.seal(data, row('totp', '$user_id'::uuid, null)::keelson.seal_context)",
			"generate_series(1, $rows)", $rows, "decode(repeat('5a', $size), 'hex')");
		keep("seal.$size.keelson", unit => 'us', value => $us);
		cost("sealing a value of $size bytes, µs", $us);
	}
	make_holders();
	my $us = each_us("keelson.seal(data, row('totp', user_id, null)::keelson.seal_context)",
		"bench.key_holders", $holders, "decode(repeat('5a', 64), 'hex')");
	keep('seal.users.keelson', unit => 'us', value => $us);
	cost('sealing a value of 64 bytes for each of many users, µs', $us);
});

measure_once('seal.64.pgcrypto', sub {
	return unless wanted('seal');
	keelson->sql('create extension if not exists pgcrypto');
	my $schema = keelson->sql(q{select extnamespace::regnamespace from pg_extension where extname = 'pgcrypto'});
	keep('seal.64.pgcrypto', unit => 'us', value => each_us("$schema.pgp_sym_encrypt_bytea(data, repeat('k', 32), 'cipher-algo=aes256')",
		'generate_series(1, 1000)', 1000, "decode(repeat('5a', 64), 'hex')"));
});

measure_once('rotation', sub {
	return unless wanted('rotation');
	make_holders();
	my $id = keelson->sql('select max(key_id) + 1 from keelson.keyring_status()');
	my $before = keelson->sql('select generation from keelson._keyring_state()');
	open my $random, '<:raw', '/dev/urandom' or die "/dev/urandom: $!";
	read $random, (my $key), 32;
	my $text = KeelsonTest::slurp(keelson->{keyring}) =~ s/^primary.*\n//mr;
	open my $file, '>', keelson->{keyring} or die "the keyring: $!";
	print $file $text, "key $id ", encode_base64($key, ''), "\nprimary $id\n";
	close $file;
	keelson->sql('select pg_reload_conf()');
	KeelsonTest::wait_until(sub { keelson->sql('select generation from keelson._keyring_state()') ne $before }, 30) or die 'the keyring was not read';
	# Somebody reads all the while; what failed comes back by the exit status.
	my $person = (people)[0];
	my $reader = fork // die "fork: $!";
	if (!$reader)
	{
		my ($failed, $ends) = (0, 0);
		local $SIG{TERM} = sub { $ends = 1; };
		while (!$ends) { $failed++ if gateway->get('/api/auth/me', token => $person->{token})->{status} != 200; }
		POSIX::_exit($failed > 250 ? 250 : $failed);
	}
	my $started = time;
	keelson->sql('select keelson.keyring_rotate()');
	keelson->sql('do $$ begin loop exit when keelson.keyring_rewrap(2000) is null; commit; end loop; end $$');
	my $seconds = time - $started;
	kill 'TERM', $reader;
	waitpid $reader, 0;
	my $failed = $? >> 8;
	die 'the rotation is not done' unless keelson->sql('select outcome from keelson.keyring_progress()') eq 'done';
	keep("rotation.$holders.keelson", unit => 's', value => $seconds);
	cost("rotating the keys of $holders users, s", $seconds);
	cost('reads that failed meanwhile', $failed);
});

1;
