# Users' keys in the memory of a server process: there while they are kept, wiped when their place is needed, when they
# are erased, and when the transaction that made them rolls back. The keys are unwrapped here, apart from the server, and
# then looked for in all of the process's memory.

use strict;
use warnings;

use KeelsonTest;
use MIME::Base64 qw(decode_base64);
use Test::More;

my $keelson = KeelsonTest->new('memory');
my $session = $keelson->node->background_psql('keelson');
my $pid = $session->query_safe('select pg_backend_pid()');
my ($master) = slurp($keelson->{keyring}) =~ m{^key 1 (\S+)}m;
my $kept = 256;    # keys that the cache has room for
my ($ada, $ben, $cora) = map { "00000000-0000-7000-8000-00000000000$_" } 1 .. 3;

sub hkdf
{
	my ($purpose) = @_;
	my $key = unpack 'H*', decode_base64($master);
	my $info = unpack 'H*', "keelson/1/$purpose";
	my $out = `openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt hexkey:$key -kdfopt salt:keelson -kdfopt hexinfo:$info HKDF`;
	$out =~ tr/0-9A-Fa-f//cd;
	return $out;
}

sub wrapped { my ($user) = @_; return "select encode(wrapped, 'hex') from keelson.user_keys where user_id = '$user'"; }

# The user's key: AES-GCM is a stream in counter mode from 2 on, behind a header of 5 bytes and a nonce of 12.
sub unwrap
{
	my ($wrapped) = @_;
	my ($nonce, $text) = $wrapped =~ /^.{10}(.{24})(.{64})/ or die "no key: $wrapped";
	my $wrapping = hkdf('user-key');
	open my $file, '>:raw', my $path = $keelson->node->basedir . '/wrapped' or die "wrapped: $!";
	print $file pack 'H*', $text;
	close $file;
	return scalar `openssl enc -d -aes-256-ctr -K $wrapping -iv ${nonce}00000002 -in $path`;
}

sub seal { my ($user) = @_; return "select length(keelson.seal('x', row('totp', '$user', null)))"; }

plan skip_all => 'memory under a checker is not the server\'s alone' if $ENV{KEELSON_TEST_GATEWAY_WRAPPER} || $KeelsonTest::slow > 1;
plan skip_all => 'the memory of a process cannot be looked at' unless defined process_holds($pid, 'x' x 40);

# Each is sealed for and committed.
$session->query_safe("begin; @{[ seal($ada) ]}; commit; begin; @{[ seal($ben) ]}; commit;");
my ($ada_key, $ben_key) = map { unwrap($keelson->sql(wrapped($_))) } $ada, $ben;
is(length $ada_key, 32, 'a key is unwrapped as the server does it');
is(process_holds($pid, $ada_key), 1, 'a key that is kept is found, so what is looked for is the key');
is(process_holds($pid, $ben_key), 1, 'another too');

# As many others as there is room for: the least recently used goes first.
my $others = sub { return "select count(keelson.seal('x', row('totp', ('00000000-0000-7000-9000-' || lpad(n::text, 12, '0'))::uuid, null))) from generate_series(1, $_[0]) as n"; };
$session->query_safe($others->($kept - 2));
is(process_holds($pid, $ada_key), 1, 'it stays while there is room');
$session->query_safe(seal($ben));
$session->query_safe($others->($kept - 1));
is(process_holds($pid, $ada_key), 0, 'then the one used longest ago goes, and nothing of it is left');
is(process_holds($pid, $ben_key), 1, 'the one used since stays');

# Erased by somebody else: gone with the next thing that the process does.
$keelson->sql("select keelson._user_keys_erase('$ben')");
$session->query_safe('select count(*) from keelson.user_keys');
is(process_holds($pid, $ben_key), 0, 'of a key that somebody has erased nothing is left');

# Made in a transaction that rolls back.
$session->query_safe("begin; @{[ seal($cora) ]};");
my $cora_key = unwrap($session->query_safe(wrapped($cora)));
is(process_holds($pid, $cora_key), 1, 'a key that was just made');
$session->query_safe('rollback');
is(process_holds($pid, $cora_key), 0, 'is gone with its transaction');

# Rotated, in the process that wraps it anew.
$keelson->sql(seal($ada));
$session->query_safe('select r.moved from keelson._user_keys_rewrap(1, \'00000000-0000-0000-0000-000000000000\', 1, 10000) as r');
is(process_holds($pid, $ada_key), 0, 'a key that was only wrapped anew leaves nothing behind');
$session->quit;
done_testing();
$keelson->stop;
