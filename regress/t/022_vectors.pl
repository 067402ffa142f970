# Wycheproof (C2SP/wycheproof, testvectors_v1) against the extension's own cryptography, through the
# module regress/vectors, which is compiled from the extension's files.

use strict;
use warnings;

use KeelsonTest;
use Test::More;

my $folder = ($ENV{VECTORS} // '') . '/wycheproof';
plan skip_all => 'no VECTORS' unless $ENV{VECTORS} && -d $folder;

my $keelson = KeelsonTest->new('vectors', bare => 1, preload => '');
my $build = $keelson->node->basedir . '/module';
my $made = `cp -r $KeelsonTest::root/regress/vectors $build && make -s -C $build EXTENSION_DIR=$KeelsonTest::root/extension/keelson 2>&1`;
is($?, 0, 'the module compiles') or BAIL_OUT($made);
unlike($made, qr/warning/, 'without warnings');
$keelson->sql("\\set module $build/keelson_vectors.so\n" . slurp("$KeelsonTest::root/regress/vectors/vectors.sql"), database => 'postgres');

# Ask of every test of a file whether it fails; $fails is an SQL condition over id, test_group g, test t.
# The number of tests that $counted picks must be as many as the file is known to have of that kind.
sub check
{
	my ($name, $file, $counted, $number, $fails) = @_;
	my $rows = $keelson->sql(<<"SQL", database => 'postgres');
set search_path = vectors, pg_catalog;
select count(*) filter (where $counted), coalesce(string_agg(id::text, ' ' order by id) filter (where ($counted) and ($fails) is not false), 'none')
from tests('$folder/$file') as tests(id, g, t)
SQL
	my ($count, $failed) = split /\|/, $rows;
	is($count, $number, "$name: $number tests");
	is($failed, 'none', "$name: none fails");
	return;
}

# AES-GCM.
my $ours = q{(g->>'keySize')::int = 256 and (g->>'ivSize')::int = 96};
my $open = q{gcm_open(bytes(t, 'key'), bytes(t, 'iv'), bytes(t, 'aad'), bytes(t, 'ct'), bytes(t, 'tag'))};
my $seal = q{gcm_seal(bytes(t, 'key'), bytes(t, 'iv'), bytes(t, 'aad'), bytes(t, 'msg'))};
check('AES-256-GCM that opens', 'aes_gcm_test.json', "$ours and t->>'result' = 'valid'", 39,
	"$open is distinct from bytes(t, 'msg') or $seal is distinct from bytes(t, 'ct') || bytes(t, 'tag')");
check('AES-256-GCM that does not', 'aes_gcm_test.json', "$ours and t->>'result' = 'invalid'", 27, "$open is not null");
check('other keys and nonces', 'aes_gcm_test.json', "not ($ours)", 250, "$open is not null or $seal is not null");

# HMAC, whole and shortened.
my %hmac = (1 => [ 'hmac_sha1_test.json', 170 ], 256 => [ 'hmac_sha256_test.json', 174 ], 512 => [ 'hmac_sha512_test.json', 174 ]);
for my $digest (sort { $a <=> $b } keys %hmac)
{
	my $mac = "substring(hmac($digest, bytes(t, 'key'), bytes(t, 'msg')) for (g->>'tagSize')::int / 8)";
	check("HMAC-SHA-$digest", $hmac{$digest}[0], 'true', $hmac{$digest}[1], "($mac = bytes(t, 'tag')) <> (t->>'result' = 'valid')");
}
check('HMAC-SHA-256 with a kept key', 'hmac_sha256_test.json', 'true', 174,
	q{kept_hmac(bytes(t, 'key'), bytes(t, 'msg')) <> hmac(256, bytes(t, 'key'), bytes(t, 'msg'))});

# Key derivation.
my $hkdf = q{hkdf(bytes(t, 'ikm'), bytes(t, 'salt'), bytes(t, 'info'), (t->>'size')::int)};
check('HKDF-SHA-256', 'hkdf_sha256_test.json', "t->>'result' = 'valid'", 83, "$hkdf is distinct from bytes(t, 'okm')");
check('HKDF-SHA-256 of too much', 'hkdf_sha256_test.json', "t->>'result' = 'invalid'", 3, "$hkdf is not null");
check('PBKDF2-HMAC-SHA-256', 'pbkdf2_hmacsha256_test.json', 'true', 60,
	q{pbkdf2(bytes(t, 'password'), bytes(t, 'salt'), (t->>'iterationCount')::int, (t->>'dkLen')::int) is distinct from bytes(t, 'dk')});

# Signatures. One RSA vector lacks a NULL that most encoders write: either answer is right. Two have
# keys with the exponent 3, which we refuse.
my $sound = q{t->>'result' <> 'acceptable' and coalesce(g->'publicKey'->>'publicExponent', '') <> '03'};
for my $kind (
	[ 'ES256', 'ecdsa_secp256r1_sha256_p1363_test.json',  262, 252 ],
	[ 'RS256', 'rsa_signature_2048_sha256_test.json',     256, 0   ],
	[ 'PS256', 'rsa_pss_2048_sha256_mgf1_32_test.json',   108, 108 ],
	[ 'EdDSA', 'ed25519_test.json',                       151, 151 ])
{
	my ($algorithm, $file, $number, $with_jwk) = @$kind;
	check($algorithm, $file, $sound, $number,
		"signature('$algorithm', g->>'publicKeyPem', bytes(t, 'msg'), bytes(t, 'sig')) <> (t->>'result' = 'valid')");
	check("$algorithm, key as JWK", $file, "$sound and g ? 'publicKeyJwk'", $with_jwk,
		"signature('$algorithm', g->>'publicKeyJwk', bytes(t, 'msg'), bytes(t, 'sig')) <> (t->>'result' = 'valid')");
}
check('RSA keys of exponent 3', 'rsa_signature_2048_sha256_test.json', "g->'publicKey'->>'publicExponent' = '03'", 2,
	"signature('RS256', g->>'publicKeyPem', bytes(t, 'msg'), bytes(t, 'sig')) is not null");

# JWS and JWK: each valid one whose algorithm is one of ours, and the key's, is accepted, all else refused.
my $keys = q{coalesce(g->'public', g->'private')};
my $good = "jws(t->>'jws', ($keys)::text) is null";
# Two keys for PS256 come with tokens whose header begins with {"alg":"PS384".
my $is_ours = "coalesce(coalesce($keys->'keys'->0, $keys)->>'alg' in ('ES256', 'RS256', 'PS256') and t->>'jws' not like 'eyJhbGciOiJQUzM4NCI%', false)";
check('JWS of ours, valid', 'json_web_signature_test.json', "t->>'result' = 'valid' and $is_ours", 16, "not ($good)");
check('all other JWS', 'json_web_signature_test.json', "not (t->>'result' = 'valid' and $is_ours)", 385, $good);
check('JWK of ours, valid', 'json_web_key_test.json', "t->>'result' = 'valid' and $is_ours", 1, "not ($good)");
check('all other JWK', 'json_web_key_test.json', "not (t->>'result' = 'valid' and $is_ours)", 25, $good);

# JSONTestSuite, each text as it is and as a member: what must be taken is, but for names said twice and
# U+0000, which we refuse; what must be refused is; the rest may go either way, and nothing raises an error.
my $suite = "$ENV{VECTORS}/json/test_parsing";
is($keelson->sql(<<"SQL", database => 'postgres'), '95|188|none', 'JSON');
select count(*) filter (where name like 'y%'), count(*) filter (where name like 'n%'),
    coalesce(string_agg(name, ' ' order by name) filter (where
        name like 'y%' and is_taken = (name ~ 'duplicated_key|null_escape|escaped_null')
        or name like 'n%' and (is_taken or vectors.json_is_good(content))), 'none')
from pg_ls_dir('$suite') as name,
    lateral (select pg_read_binary_file('$suite/' || name) as content) as file,
    lateral (select vectors.json_is_good('{"a":'::bytea || content || '}'::bytea) as is_taken) as taken
SQL
is($keelson->sql(<<'SQL', database => 'postgres'), 't|f|t|f|f|t|f', 'depth, numbers, names in objects beside one another');
select vectors.json_is_good(convert_to(repeat('{"a":', 16) || '1' || repeat('}', 16), 'UTF8')),
    vectors.json_is_good(convert_to(repeat('{"a":', 17) || '1' || repeat('}', 17), 'UTF8')),
    vectors.json_is_good('{"a":1e99}'), vectors.json_is_good('{"a":1e100}'), vectors.json_is_good('{"a":1e-999999999}'),
    vectors.json_is_good('{"a":{"b":1},"c":{"b":1},"b":[{"a":1},{"a":1}]}'), vectors.json_is_good('{"a":{"b":1},"\\u0061":2}')
SQL

# base64url in its canonical form alone (RFC 4648, 10, and what must be refused).
is($keelson->sql(<<'SQL', database => 'postgres'), 'true', 'base64url round trips');
select bool_and(vectors.base64url(t) = t)::text from unnest(array['', 'Zg', 'Zm8', 'Zm9v', 'Zm9vYg', 'Zm9vYmE', 'Zm9vYmFy', '-_-_']) as t
SQL
is($keelson->sql(<<'SQL', database => 'postgres'), '0', 'what is not canonical is refused');
select count(vectors.base64url(t)) from unnest(array['Z', 'Zg==', 'Zg=', 'Zh', 'Zm9', 'Zm9v\n', ' Zm9v', 'Zm+v', 'Zm/v', 'Zm9vY', 'Zm9vé', 'Zm.v']) as t
SQL

# The hash, against the server's own, around its block's length.
is($keelson->sql(<<'SQL', database => 'postgres'), '0', 'SHA-256');
select count(*) from generate_series(0, 200) as n, convert_to(repeat('k', n), 'UTF8') as m where vectors.hash(m) <> sha256(m)
SQL

done_testing();
$keelson->stop;
