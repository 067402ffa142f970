# The keyring: what is refused at start and at reload, in which words; a wrong one names the key it lacks;
# commands and passphrases; and nothing of it in settings, logs or core dumps.

use strict;
use warnings;

use KeelsonTest;
use MIME::Base64 qw(encode_base64 decode_base64);
use Test::More;

my $keelson = KeelsonTest->new('keyring', unmigrated => 1, conf => "keelson.keyring_file = ''");
my $node = $keelson->node;
my $ring = $node->basedir . '/ring';
my %key = map { $_ => random_bytes(32) } 1 .. 4;

sub random_bytes
{
	my ($count) = @_;
	open my $random, '<:raw', '/dev/urandom' or die "/dev/urandom: $!";
	read $random, (my $bytes), $count;
	return $bytes;
}

sub line { return "key $_[0] " . encode_base64($key{ $_[0] }, '') . "\n"; }

sub write_ring
{
	my ($text, $mode, $path) = @_;
	$path ||= $ring;
	open my $file, '>', "$path.new" or die "$path.new: $!";
	print $file $text;
	close $file;
	chmod $mode // 0600, "$path.new";
	rename "$path.new", $path or die "$path: $!";
	return;
}

# Have the server read the keyring now; what it found wrong, or nothing.
sub reload
{
	my (%settings) = @_;
	$keelson->sql("alter system set keelson.$_ = '$settings{$_}'") for sort keys %settings;
	my $before = $keelson->sql('select read_at from keelson._keyring_state()');
	$keelson->sql('select pg_reload_conf()');
	wait_until(sub { $keelson->sql('select read_at from keelson._keyring_state()') ne $before }, 30) or die 'the keyring was not read again';
	return $keelson->sql("select coalesce(problem, '') from keelson._keyring_state()");
}

sub seal { return $keelson->sql("select keelson.seal('$_[0]', row('totp', '00000000-0000-7000-8000-00000000000$_[1]', null))"); }

sub opens
{
	my ($sealed, $user) = @_;
	my ($status, $text, $messages) = $keelson->try_sql("select convert_from(keelson.unseal('$sealed', row('totp', '00000000-0000-7000-8000-00000000000$user', null)), 'UTF8')");
	chomp $text;
	return $status == 0 ? $text : $messages =~ /ERROR:\s+(.*)/ ? $1 : $messages;
}

sub ready { return $keelson->sql("select is_ready || coalesce(' ' || reason, '') from keelson._keyring_ready()"); }

# Without a keyring the server starts, the tables are made, and what needs a key says what to set.
is(ready(), 'false neither keelson.keyring_file nor keelson.keyring_command is set', 'no keyring before the tables');
$keelson->migrate;
is(ready(), 'false neither keelson.keyring_file nor keelson.keyring_command is set', 'no keyring');
like(opens('\x00', 1), qr/^secrets cannot be used: neither keelson.keyring_file nor/, 'unseal refuses');
my ($status, undef, $messages) = $keelson->try_sql(q{select keelson.seal('x', row('secret', null, null))});
like($messages, qr/secrets cannot be used.*HINT:.*keyring_status/s, 'seal refuses, with a hint');
isnt($status, 0, 'seal fails');
is($keelson->sql('select jsonb_array_length(keelson.jwks()->\'keys\')'), '0', 'nothing signs yet');
is($keelson->sql('select state, problem from keelson.keyring_status()'), 'not read|neither keelson.keyring_file nor keelson.keyring_command is set', 'the status says so');
is($keelson->sql(q{select is_ready, reason ~ 'keyring' from keelson.gateway_ready()}), 'f|t', 'the gateway is not ready, and says why');
is($keelson->sql(q{select keelson.password_verify('x', keelson.password_hash('x'))}), 't', 'what needs no key works');

# Given by a reload it is taken, and a key to sign with is made on first need.
write_ring("# the first\n\n" . line(1));
is(reload(keyring_file => $ring), '', 'a keyring by reload');
is(ready(), 'true', 'ready');
my $of_one = seal('under one', 1);
is(opens($of_one, 1), 'under one', 'sealed and opened');
is($keelson->sql(q{select length(keelson.jwt_sign('{"exp": 4102444800}')) > 100}), 't', 'a token is signed');
is($keelson->sql('select key_id, is_primary, state from keelson.keyring_status()'), '1|t|ready', 'the status');

# What is refused leaves the keys in use as they are.
my $zeros = encode_base64("\0" x 32, '');
my $one = encode_base64($key{1}, '');
my @refused = (
	[ 'readable by the group', line(1), qr/^the keyring file has mode 0640: others than its owner/, 0640 ],
	[ 'readable by all',       line(1), qr/^the keyring file has mode 0604: others than its owner/, 0604 ],
	[ 'empty',                 '',      qr/^the keyring holds no key$/ ],
	[ 'comments alone',        "# nothing\n",          qr/^the keyring holds no key$/ ],
	[ 'another word',          "kee 1 $one\n",         qr/^line 1 of the keyring: it must begin with/ ],
	[ 'no id',                 "# x\nkey\n",           qr/^line 2 of the keyring: the second word must be a key's id/ ],
	[ 'id 0',                  "key 0 $one\n",         qr/^line 1 of the keyring: the second word must be a key's id/ ],
	[ 'an id too large',       "key 2147483648 $one\n", qr/^line 1 of the keyring: the second word must be a key's id/ ],
	[ 'no key',                "key 1\n",              qr/^line 1 of the keyring: a key is 32 bytes in base64$/ ],
	[ 'a short key',           "key 1 AAAA\n",         qr/^line 1 of the keyring: a key is 32 bytes in base64$/ ],
	[ 'a long key',            "key 1 " . encode_base64('x' x 33, '') . "\n", qr/^line 1 of the keyring: a key is 32 bytes in base64$/ ],
	[ 'a key with more',       "key 1 $one primary\n", qr/^line 1 of the keyring: a key is 32 bytes in base64$/ ],
	[ 'zeros',                 "key 1 $zeros\n",       qr/^line 1 of the keyring: key 1 is all zeros$/ ],
	[ 'an id twice',           line(1) . line(1),      qr/^line 2 of the keyring: key 1 stands there twice$/ ],
	[ 'a key twice',           line(1) . "key 2 $one\n", qr/^line 2 of the keyring: key 2 is the same as key 1$/ ],
	[ 'no primary',            line(1) . line(2),      qr/^the keyring does not say which of its keys is the primary$/ ],
	[ 'two primaries',         line(1) . "primary 1\nprimary 1\n", qr/^line 3 of the keyring: one line says which key is the primary/ ],
	[ 'a primary not there',   line(1) . "primary 2\n", qr/^the keyring's primary is key 2, which it does not hold$/ ],
	[ 'few rounds',            "passphrase 1 99999 c2FsdHNhbHRzYWx0c2FsdA== words\n", qr/^line 1 of the keyring: a passphrase's rounds/ ],
	[ 'a short salt',          "passphrase 1 100000 c2FsdA== words\n", qr/^line 1 of the keyring: a passphrase's salt/ ],
	[ 'no passphrase',         "passphrase 1 100000 c2FsdHNhbHRzYWx0c2FsdA==  \n", qr/^line 1 of the keyring: the passphrase is missing$/ ],
	[ 'not text',              line(1) . "\0\n",       qr/^the keyring is not text$/ ],
	[ 'too long',              line(1) . '#' x 70000,  qr/^the keyring file is longer than 65536 bytes$/ ],
	[ '17 keys',               join('', map { "key $_ " . encode_base64(random_bytes(32), '') . "\n" } 1 .. 17), qr/^line 17 of the keyring: a keyring has at most 16 keys$/ ],
);
for my $case (@refused)
{
	my ($name, $text, $words, $mode) = @$case;
	write_ring($text, $mode);
	like(reload(), $words, "refused: $name");
}
unlink $ring;
like(reload(), qr/^could not open the keyring file: No such file or directory$/, 'refused: missing');
like(reload(keyring_file => $node->basedir), qr/^the keyring file is not a regular file$/, 'refused: a folder');
like(reload(keyring_file => 'ring'), qr/^keelson.keyring_file is not an absolute path$/, 'refused: a relative path');
my $inside = $node->data_dir . '/ring';
write_ring(line(1), 0600, $inside);
like(reload(keyring_file => $inside), qr/^the keyring file lies inside the data directory/, 'refused: in the data directory');
symlink $inside, "$ring.link";
like(reload(keyring_file => "$ring.link"), qr/^the keyring file lies inside the data directory/, 'refused: a link into it');
unlink $inside;
is(ready(), 'true', 'the keys loaded before stay in use');
is(opens($of_one, 1), 'under one', 'and open');
is($keelson->sql('select state from keelson.keyring_status() order by key_id'), "ready\nnot read", 'the status has both');

# At a start such a keyring is refused as well; the server starts.
$node->restart;
like(ready(), qr/^false could not open the keyring file/, 'not loaded at start');
like(opens($of_one, 1), qr/^secrets cannot be used: could not open the keyring file/, 'and nothing opens');

# A wrong keyring: another key of that id, or not that id. The key is named, and the right one mends it.
write_ring("key 1 " . encode_base64($key{4}, '') . "\n");
is(reload(keyring_file => $ring), '', 'another key 1');
is(ready(), q{false the keyring's key 1 is not the key 1 of this database}, 'named');
like(opens($of_one, 1), qr/^secrets cannot be used: the keyring's key 1 is not the key 1 of this database$/, 'nothing opens');
like($keelson->sql('select key_id, state, problem from keelson.keyring_status()'), qr/^1\|wrong\|the keyring's key of this id is another/, 'the status');
write_ring(line(2));
is(reload(), '', 'key 2 alone');
is(ready(), 'false the keyring lacks key 1, which this database needs', 'named');
is($keelson->sql('select key_id, is_primary, state from keelson.keyring_status() order by 1'), "1|f|missing\n2|t|unused", 'the status');
is($keelson->sql(q{select is_ready, reason ~ 'key 1' from keelson.gateway_ready()}), 'f|t', 'the gateway is not ready, and names it');

# Both, the new one as primary: old values open, new users' keys are wrapped by the new one, passwords peppered.
write_ring("primary 2\r\n" . line(2) . line(1));
is(reload(), '', 'keys 1 and 2');
is(ready(), 'true', 'ready');
is($keelson->sql('select count(*) from keelson.keyring_keys'), '1', 'looking records nothing');
is(opens($of_one, 1), 'under one', 'the old value opens');
is($keelson->sql('select count(*) from keelson.keyring_keys'), '2', 'using does');
my $of_two = seal('under two', 2);
is($keelson->sql('select wrap_key_id from keelson.user_keys order by user_id'), "1\n2", 'wrapped by the primary of their time');
is($keelson->sql(q{select pepper_key_id from keelson._password_store('x')}), '2', 'the pepper is the primary\'s');
is($keelson->sql('select key_id, is_primary, state from keelson.keyring_status() order by 1'), "1|f|ready\n2|t|ready", 'the status');
# Nothing is needed of a key that is retired.
$keelson->sql('delete from keelson.user_keys where wrap_key_id = 1; update keelson.keyring_keys set retired_at = now() where key_id = 1; delete from keelson.signing_keys');
write_ring(line(2));
is(reload(), '', 'key 2 alone again');
is(ready(), 'true', 'a retired key is not missed');
is(opens($of_two, 2), 'under two', 'opens');
is($keelson->sql('select key_id, state from keelson.keyring_status() order by 1'), "1|retired\n2|ready", 'the status');

# A passphrase stands for the key that PBKDF2 makes of it: known answer, 100,000 rounds.
my $salt = encode_base64('saltsaltsaltsalt', '');
write_ring(line(2) . "passphrase 3 100000 $salt correct horse  battery staple\nprimary 3\n");
is(reload(), '', 'a passphrase');
my $of_three = seal('under three', 3);
my $derived = `python3 -c "import hashlib,base64;print(base64.b64encode(hashlib.pbkdf2_hmac('sha256',b'correct horse  battery staple',b'saltsaltsaltsalt',100000)).decode())"`;
SKIP:
{
	skip 'no python3', 2 if $? != 0;
	chomp $derived;
	write_ring(line(2) . "key 3 $derived\nprimary 3\n");
	is(reload(), '', 'its key itself');
	is(opens($of_three, 3), 'under three', 'is the same key');
}

# A command.
my $generation = $keelson->sql('select generation from keelson._keyring_state()');
is(reload(keyring_file => '', keyring_command => "cat $ring"), '', 'a command');
is($keelson->sql('select generation from keelson._keyring_state()'), $generation, 'the same keys are no change');
is(opens($of_three, 3), 'under three', 'opens');
is(reload(keyring_command => 'exit 3'), 'the keyring command failed with status 3', 'a command that fails');
is(reload(keyring_command => "cat $ring; kill -9 \$\$"), 'the keyring command failed with signal 9', 'a command that is killed');
is(reload(keyring_command => 'yes'), 'the keyring command printed more than 65536 bytes', 'a command without end');
my $began = time;
is(reload(keyring_command => 'sleep 120.0417; true'), 'the keyring command took longer than 10 seconds', 'a command that hangs');
cmp_ok(time - $began, '<', 20 * $KeelsonTest::slow, 'is given ten seconds');
is(`pgrep -fc '[s]leep 120.0417'`, "0\n", 'and its children are gone');
is(opens($of_three, 3), 'under three', 'the keys stay');
is(reload(keyring_command => "cat $ring"), '', 'a command again');
$node->restart;
is(opens($of_three, 3), 'under three', 'at start too');

# A backend that dies takes nothing along: the server starts over with its keys.
my $pid = $keelson->sql('select pg_backend_pid()');
my $victim = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('keelson'), '-c', 'select pg_sleep(60)' ], '>', \my $out, '2>', \my $err);
my $found = wait_until(sub { $keelson->sql(q{select pid from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'}) });
ok($keelson->kill_process($found), 'the server starts over');
$victim->finish;
is(opens($of_three, 3), 'under three', 'with its keys');

is($keelson->sql(q{select keelson.password_verify('x', keelson.password_hash('x'))}), 't', 'and hashes as before');

# Nothing of the keys in settings that others see, in the log, in a core dump of backend or postmaster.
my @marks = map { ($_, encode_base64($_, ''), unpack('H*', $_)) } $key{2}, decode_base64($derived);
my $log = $keelson->server_log;
is(scalar(grep { index($log, $_) >= 0 } @marks, 'correct horse  battery'), 0, 'not in the log');
like($log, qr/keyring loaded: 2 keys, primary 3/, 'which says what was loaded');
is($keelson->sql(q{create role regress_nobody login; select count(*) from pg_settings where name like 'keelson.%'}) > 0, 1, 'settings');
($status, $out, $messages) = $keelson->try_sql('show keelson.keyring_command', role => 'regress_nobody');
like($messages, qr/ERROR: .*pg_read_all_settings/s, 'where the keyring comes from is not shown to everybody');
# Under a checker a dump would hold its shadow of the whole address space.
for my $process ([ 'the postmaster', slurp($node->data_dir . '/postmaster.pid') =~ /^(\d+)/ ], [ 'a backend', undef ])
{
	last if $ENV{KEELSON_TEST_GATEWAY_WRAPPER};
	my ($name, $target) = @$process;
	my $backend;
	if (!defined $target)
	{
		$backend = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('keelson'), '-c', "select keelson.seal('x', row('secret', null, null)); select pg_sleep(60)" ], '>', \$out, '2>', \$err);
		$target = wait_until(sub { $keelson->sql(q{select pid from pg_stat_activity where query like '%pg_sleep(60)%' and wait_event = 'PgSleep'}) });
	}
	my $core = $node->basedir . '/core';
	my ($kilobytes) = slurp("/proc/$target/status") =~ /^VmSize:\s+(\d+)/m;
	SKIP:
	{
		# A sanitizer maps terabytes, and the dump would hold them.
		skip "$name is too large for a core dump", 2 if $kilobytes > 8 * 1024 * 1024;
		my $made = `gcore -o $core $target 2>&1`;
		skip "no core dump to be had of $name", 2 unless -s "$core.$target";
		my $dump = slurp("$core.$target");
		cmp_ok(index($dump, "cat $ring"), '>', 0, "a core dump of $name");
		is(scalar(grep { index($dump, $_) >= 0 } @marks), 0, 'has no master key');
		unlink "$core.$target";
	}
	$backend->kill_kill if $backend;
}
done_testing();
$keelson->stop;
