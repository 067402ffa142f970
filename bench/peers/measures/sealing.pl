# Sealing a value in one backend: keelson.seal, which is AES-256-GCM with a key for each user and the place of the value
# bound in; pgcrypto's pgp_sym_encrypt as it comes and with what makes it fast; pgcrypto's AES-256-CBC with an HMAC by hand.
# Beside them what OpenSSL itself can do on one core with a key that is kept and no fresh nonce.

use strict;
use warnings;

use Bench;
use Bench::Peers;
use Bench::Sql;
use Bench::System;

my @sizes = (64, 1024, 4096);
my $key = q{decode(repeat('6b', 32), 'hex')};
$Bench::System::users = 8;
my ($is_prepared, $context, %seal, %open);

sub prepare
{
	return if $is_prepared++;
	keelson->sql('create extension if not exists pgcrypto');
	my $pgcrypto = keelson->sql(q{select extnamespace::regnamespace from pg_extension where extname = 'pgcrypto'});
	my $user_id = (people)[0]{id};
	$Bench::System::versions{pgcrypto} = keelson->sql(q{select extversion from pg_extension where extname = 'pgcrypto'});
	$Bench::System::versions{OpenSSL} = `openssl version` =~ /^OpenSSL (\S+)/ ? $1 : 'unknown';
	$context = "row('totp', '$user_id'::uuid, null)::keelson.seal_context";
	my $tuned = q{'cipher-algo=aes256, compress-algo=0, s2k-mode=1'};
	%seal = (
		'keelson' => "keelson.seal(data, $context)",
		'pgp' => "$pgcrypto.pgp_sym_encrypt_bytea(data, repeat('k', 32))",
		'pgp-tuned' => "$pgcrypto.pgp_sym_encrypt_bytea(data, repeat('k', 32), $tuned)",
		'cbc-hmac' => "(select v.iv || v.sealed || $pgcrypto.hmac(v.iv || v.sealed, $key, 'sha256') from (select n.iv, "
			. "$pgcrypto.encrypt_iv(data, $key, n.iv, 'aes-cbc') as sealed from (select $pgcrypto.gen_random_bytes(16) as iv where row_number > 0 offset 0) as n offset 0) as v)");
	%open = (
		'keelson' => sub { "keelson.unseal($_[0], $context)" },
		'pgp' => sub { "$pgcrypto.pgp_sym_decrypt_bytea($_[0], repeat('k', 32))" },
		'pgp-tuned' => sub { "$pgcrypto.pgp_sym_decrypt_bytea($_[0], repeat('k', 32))" },
		'cbc-hmac' => sub { "$pgcrypto.decrypt_iv(substr($_[0], 17, length($_[0]) - 48), $key, substr($_[0], 1, 16), 'aes-cbc')" });
	check_opens($_) for sort keys %seal;
	return;
}

# What is sealed opens again, and is another each time.
sub check_opens
{
	my ($name) = @_;
	my $opened = $open{$name}->('s.a');
	keelson->sql(qq{
		select bool_and($opened = s.data) and bool_and(s.a <> s.b)
		from (select data, $seal{$name} as a, $seal{$name} as b from (select row_number, sha256(row_number::text::bytea) as data from generate_series(1, 3) as row_number) as d offset 0) as s}) eq 't'
		or die "what $name seals does not open\n";
	return;
}

# Microseconds of AES-256-GCM by "openssl speed".
sub openssl_us
{
	my ($size) = @_;
	my $said = `openssl speed -elapsed -seconds 1 -bytes $size -aead -evp aes-256-gcm 2>/dev/null`;
	my ($kilobytes) = $said =~ /^aes-256-gcm\s+([\d.]+)k/mi or die "openssl speed said $said\n";
	return $size / $kilobytes * 1000;
}

# The key stretching of PGP, as it comes, takes a tenth of a millisecond.
sub rows { my ($name) = @_; return $name eq 'pgp' ? 2_000 : 50_000; }

measure('sealing', sub {
	prepare();
	for my $size (@sizes)
	{
		my %run = (openssl => sub { openssl_us($size) }, map {
			my $name = $_;
			($name => sub { each_us($seal{$name}, 'generate_series(1, ' . rows($name) . ') as row_number', rows($name), "decode(repeat('5a', $size), 'hex')") })
		} keys %seal);
		my %sample = map { $_ => keep("sealing.$size.$_", unit => 'us', value => $run{$_}->()) } in_turn("sealing.$size", sort keys %run);
		relate(\%sample, "sealing.$size");
	}
});

1;
