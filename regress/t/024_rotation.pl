# Rotation of the keyring: online, in batches, by several at once, through kill -9; what still needs an old key;
# and a dump that opens with the right keyring and with no other.

use strict;
use warnings;

use KeelsonTest;
use IPC::Run ();
use MIME::Base64 qw(encode_base64);
use Test::More;

my $keelson = KeelsonTest->new('rotation', conf => "keelson.environment = development\n");
my $node    = $keelson->node;
my $ring    = $keelson->{keyring};
my $gateway = $keelson->gateway;
my $people  = 2000;

sub random_line
{
	my ($id) = @_;
	open my $random, '<:raw', '/dev/urandom' or die "/dev/urandom: $!";
	read $random, (my $bytes), 32;
	return "key $id " . encode_base64($bytes, '') . "\n";
}

sub write_ring
{
	my ($text, $path) = @_;
	$path ||= $ring;
	umask 0077;
	open my $file, '>', "$path.new" or die "$path.new: $!";
	print $file $text;
	close $file;
	rename "$path.new", $path or die "$path: $!";
	return;
}

sub reload
{
	my $before = $keelson->sql('select read_at from keelson._keyring_state()');
	$keelson->sql('select pg_reload_conf()');
	wait_until(sub { $keelson->sql('select read_at from keelson._keyring_state()') ne $before }, 30) or die 'the keyring was not read again';
	return $keelson->sql("select coalesce(problem, '') from keelson._keyring_state()");
}

sub refused
{
	my ($sql) = @_;
	my (undef, undef, $messages) = $keelson->try_sql($sql);
	return $messages =~ /ERROR:\s+(.*)/ ? $1 : "none: $messages";
}

# A psql that goes on by itself.
my $scripts = 0;
sub start
{
	my ($sql) = @_;
	my $script = $node->basedir . '/script' . $scripts++;
	open my $file, '>', $script or die "$script: $!";
	print $file $sql;
	close $file;
	my ($out, $err) = ('', '');
	my $handle = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('keelson'), '-f', $script ], '>', \$out, '2>', \$err);
	return { handle => $handle, out => \$out, err => \$err };
}

# Calls batches until there are none, each in a transaction of its own; how much they moved.
sub rewrap_all
{
	my ($batch) = @_;
	my $moved = 0;
	while ((my $got = $keelson->sql("select coalesce(keelson.keyring_rewrap($batch)::text, 'over')")) ne 'over') { $moved += $got; }
	return $moved;
}

# Something of every kind, under key 1.
my $one = slurp($ring);
my $ada = $keelson->user($gateway);
is($gateway->post('/api/user/api-keys', { service => 'openai', apiKey => 'sk-' . 'a' x 40 }, token => $ada->{token})->{status}, 200, 'an API key is stored');
$keelson->sql("select keelson.secret_set('smtp_url', 'smtps://mail.example.com'), keelson.secret_set('cron_secret', 'hashed'), keelson.webhook_secret_add('stripe', 'whsec_that_moves')");
$keelson->sql(<<"SQL");
create table kept as
select user_id, keelson.seal(convert_to(user_id::text, 'UTF8'), row('totp', user_id, null)) as sealed
from (select keelson.uuid7() as user_id from generate_series(1, $people) offset 0) as made;
SQL
my $all_open = q{select count(*) from kept where convert_from(keelson.unseal(sealed, row('totp', user_id, null)), 'UTF8') = user_id::text};
my $key_open = "select keelson.user_api_key_use('$ada->{id}', 'openai')";

# Nothing to do, and nothing that may be done.
is(refused('select keelson.keyring_rotate()'), 'there is nothing to rotate: key 1 is the only one that this database has known', 'one key alone is not rotated');
is($keelson->sql('select keelson.keyring_rewrap() is null'), 't', 'no rotation runs');
is(refused('select keelson.keyring_retire(1)'), 'key 1 has not been superseded', 'the primary is not retired');
is(refused('select keelson.keyring_retire(9)'), 'this database needs no key of that id', 'nor a key that there is not');
is(refused('select keelson.keyring_rewrap(0)'), 'a batch has 1 to 100,000 values', 'no empty batches');
is($keelson->sql('select string_agg(name, \', \' order by name) from keelson.keyring_needs()'),
	q{audit events, checkout references, cursors of lists, device tokens, mails, passwords, server's secrets, sessions, signing keys, users' keys, webhook secrets}, 'what rests on the key');

# A new primary. While it is rotated, values are sealed and opened, by the API too.
my $two = random_line(2);
write_ring("$one${two}primary 2\n");
is(reload(), '', 'key 2 is the primary');
my $before = $keelson->sql("select string_agg(md5(wrapped::text), '' order by user_id) from keelson.user_keys where user_id in (select user_id from kept)");
my $rotation = $keelson->sql('select keelson.keyring_rotate()');
is($keelson->sql('select keelson.keyring_rotate()'), $rotation, 'a second call finds the rotation that runs');
is($keelson->sql('select to_key_id, outcome, moved, remaining > 2000 from keelson.keyring_progress()'), '2||0|t', 'the progress at its beginning');
is(refused('select keelson.keyring_retire(1, array(select name from keelson.keyring_uses))') =~ s/\d+/N/gr,
	q{key N is still needed: mails (N), server's secrets (N), signing keys (N), users' keys (N), webhook secrets (N)}, 'what is essential cannot be given up');

# Killed in the middle of a batch: what committed stays, what did not is as before, and it goes on.
is($keelson->sql('select keelson.keyring_rewrap(4)'), 4, 'the first batch seals the server\'s values');
is($keelson->sql('select count(*) from keelson.user_keys where wrap_key_id = 2'), 0, 'and nothing else');
is($keelson->sql('select keelson.keyring_rewrap(100)'), 100, 'the second wraps users\' keys');
my $victim = start("begin; select keelson.keyring_rewrap(500); select 'pid ' || pg_backend_pid(); select pg_sleep(600);\n");
ok(wait_until(sub { $victim->{handle}->pump_nb; ${ $victim->{out} } =~ /pid (\d+)/ }, 30), 'a batch is under way');
is($keelson->sql('select keelson.keyring_rewrap(100)'), 0, 'another moves nothing meanwhile, and does not wait');
is($keelson->sql($all_open), $people, 'all values open meanwhile');
${ $victim->{out} } =~ /pid (\d+)/;
ok($keelson->kill_process($1), 'after kill -9 the server starts over');
$victim->{handle}->finish;
is($keelson->sql('select count(*) from keelson.user_keys where wrap_key_id = 2'), 100, 'what had not committed is as before');
is($keelson->sql($all_open), $people, 'all values open');
$gateway->wait_ready;

# Several rotate, others read and write; nobody fails.
my @runners = map { start(join '', map { "select keelson.keyring_rewrap(150);\n" } 1 .. 8) } 1 .. 3;
my @readers = map { start(join '', map { "$all_open;\n" } 1 .. 5) } 1 .. 2;
my $writer = start(join '', map { "insert into kept select u, keelson.seal(convert_to(u::text, 'UTF8'), row('totp', u, null)) from (select keelson.uuid7() as u offset 0) as made;\n" } 1 .. 200);
my $failed = 0;
for (1 .. 40)
{
	$failed++ if $gateway->get('/api/user/api-keys', token => $ada->{token})->{status} != 200;
	$failed++ if $gateway->post('/api/user/api-keys', { service => 'groq', apiKey => 'gsk_' . 'b' x 40 }, token => $ada->{token})->{status} != 200;
}
is($failed, 0, 'the API works meanwhile');
$_->{handle}->finish for @runners, @readers, $writer;
is(join('', map { ${ $_->{err} } } @runners, @readers, $writer), '', 'no read, no write, no batch has failed');
rewrap_all(500);
is($keelson->sql('select outcome, finished_at is not null, remaining from keelson.keyring_progress()'), 'done|t|0', 'it is done');
is($keelson->sql('select count(*) from keelson.user_keys where wrap_key_id <> 2'), 0, 'no key is wrapped by the old one');
is($keelson->sql($all_open), $people + 200, 'all values open');
is($keelson->sql($key_open), 'sk-' . 'a' x 40, 'the API key too');
isnt($keelson->sql("select string_agg(md5(wrapped::text), '' order by user_id) from keelson.user_keys where user_id in (select user_id from kept order by user_id limit $people)"), $before, 'the wrapping is another');
is($keelson->sql(q{select keelson._secret_get('smtp_url'), keelson._secret_matches('cron_secret', 'hashed')}), 'smtps://mail.example.com|t', 'the server\'s secrets are what they were');
is($keelson->sql(q{select convert_from(keelson.unseal(secret, row('webhook-secret', null, id)), 'UTF8') from keelson.webhook_source_secrets}), 'whsec_that_moves', 'those of webhooks too');
is($keelson->sql(q{select length(keelson.jwt_sign('{"exp": 4102444800}')) > 100}), 't', 'the signing key signs');
is($keelson->sql('select keelson.keyring_rewrap() is null'), 't', 'nothing is left to do');

# What still rests on the old key, and how it goes.
is($keelson->sql('select string_agg(name, \', \' order by name) from keelson.keyring_needs(1)'),
	'audit events, checkout references, cursors of lists, device tokens, passwords, sessions', 'what a rotation cannot move');
like(refused('select keelson.keyring_retire(1)'), qr/^key 1 is still needed: audit events, checkout references until .*, cursors of lists until .*, device tokens until .*, passwords \(1\), sessions \(1\)$/, 'the key is still needed');
my $reply = $gateway->post('/api/auth/refresh', { refreshToken => $ada->{refresh} });
is($reply->{status}, 200, 'a session of the old key is refreshed');
# The gateway's first call on a connection that the crash has cut is answered 503.
ok(wait_until(sub { $gateway->post('/api/auth/login', { email => $ada->{email}, password => $ada->{password} })->{status} == 200 }, 30),
	'a password of the old key logs in');
is($keelson->sql('select string_agg(name, \', \' order by name) from keelson.keyring_needs(1)'), 'audit events, checkout references, cursors of lists, device tokens', 'both have moved to the new one');

# A transaction from before may still write what it has sealed under the old key: it is waited for.
my $open = start("begin; select 'pid ' || pg_backend_pid(); select pg_sleep(600);\n");
wait_until(sub { $open->{handle}->pump_nb; ${ $open->{out} } =~ /pid (\d+)/ }, 30);
my ($open_pid) = ${ $open->{out} } =~ /pid (\d+)/;
my $retiring = start("select keelson.keyring_retire(1, '{audit events, checkout references, cursors of lists, device tokens}');\n");
ok(wait_until(sub { $keelson->sql(q{select count(*) from pg_locks where locktype = 'virtualxid' and not granted}) > 0 }, 30), 'retiring waits for it');
is($keelson->sql('select retired_at from keelson.keyring_keys where key_id = 1'), '', 'and has not retired the key');
$keelson->sql("select pg_terminate_backend($open_pid)");
$open->{handle}->finish;
$retiring->{handle}->finish;
is(${ $retiring->{err} }, '', 'then it does');
is($keelson->sql('select key_id, state from keelson.keyring_status() order by 1'), "1|retired\n2|ready", 'the status');
write_ring("${two}");
is(reload(), '', 'the old key leaves the keyring');
is($keelson->sql('select is_ready from keelson._keyring_ready()'), 't', 'and is not missed');
is($keelson->sql($all_open), $people + 200, 'all values open without it');
write_ring("$one${two}primary 1\n");
is(reload(), '', 'the retired key as primary');
is($keelson->sql('select reason from keelson._keyring_ready()'), q{the keyring's primary is key 1, which was retired}, 'is refused');
write_ring("$two");
reload();

# Something that does not open, or is locked, holds nothing up; it is said at the end.
my $three = random_line(3);
my $whole = $keelson->sql('select secret from keelson.webhook_source_secrets');
$keelson->sql('update keelson.webhook_source_secrets set secret = set_bit(secret, 200, 1 - get_bit(secret, 200))');
$keelson->sql(q{select keelson.webhook_secret_add('stripe', 'whsec_that_comes_after')});
write_ring("$two${three}primary 3\n");
reload();
$keelson->sql('select keelson.keyring_rotate()');
1 while $keelson->sql('select keelson._server_values_reseal(1)') > 0;
is($keelson->sql('select key_id, name, values_count from keelson.keyring_needs() where is_essential and key_id = 2 and name <> \'users\'\' keys\''),
	'2|webhook secrets|1', 'one that comes first and does not open keeps no other, however small the batch');
$keelson->sql("update keelson.webhook_source_secrets set secret = '$whole' where keelson._sealed_key_id(secret) = 2");
$keelson->sql("update keelson.user_keys set wrapped = set_bit(wrapped, 300, 1 - get_bit(wrapped, 300)) where user_id = (select user_id from kept order by user_id limit 1)");
my $locker = start("begin; select count(*) from (select from keelson.user_keys where user_id = (select user_id from kept order by user_id desc limit 1) for update) as locked; select 'locked ' || pg_backend_pid(); select pg_sleep(600);\n");
ok(wait_until(sub { $locker->{handle}->pump_nb; ${ $locker->{out} } =~ /locked (\d+)/ }, 30), 'a row is locked');
rewrap_all(1000);
is($keelson->sql('select outcome, remaining from keelson.keyring_progress()'), 'incomplete|2', 'two are left');
my ($locker_pid) = ${ $locker->{out} } =~ /locked (\d+)/;
$keelson->sql("select pg_terminate_backend($locker_pid)");
$locker->{handle}->finish;
ok(wait_until(sub { $keelson->sql("select count(*) from pg_stat_activity where pid = $locker_pid") == 0 }, 30), 'the lock goes');
$keelson->sql('select keelson.keyring_rotate()');
rewrap_all(1000);
is($keelson->sql('select outcome, remaining from keelson.keyring_progress()'), 'incomplete|1', 'the next rotation takes the one that was locked');
like(refused('select keelson.keyring_retire(2, array(select name from keelson.keyring_uses))'), qr/^key 2 is still needed: users' keys \(1\)$/, 'the one that does not open is still there');
$keelson->sql("select keelson._user_keys_erase((select user_id from kept order by user_id limit 1)); delete from kept where user_id = (select min(user_id::text)::uuid from kept)");

# What did not open is in the trail, by way of the ring, and counted.
$keelson->sql("update keelson.user_api_keys set sealed_key = set_bit(sealed_key, 300, 1 - get_bit(sealed_key, 300)) where service = 'groq'");
is(refused("select keelson.user_api_key_use('$ada->{id}', 'groq')"), 'a sealed value could not be opened', 'a value that was changed does not open');
ok(wait_until(sub { $keelson->sql("select count(*) from keelson.audit_events where event_type = 'security.unseal_failed' and user_id = '$ada->{id}' and outcome = 'failure' and data ->> 'what' = 'api-key'") == 1 }, 30), 'which is an event of its user\'s');
like($keelson->server_log, qr/LOG:  a sealed value of purpose "api-key" could not be opened: it was changed, or sealed for another place, under key 1\n/, 'the log has the reason');
like($gateway->get('/metrics')->{content}, qr/^keelson_unseal_failures_total [1-9]/m, 'and the metrics a count');

# The drill. A dump, restored beside the keyring that it was made with: all can be read.
my $held = $keelson->sql('select count(*) from kept');
my $dump = $node->basedir . '/keelson.dump';
is(system('pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('keelson')), 0, 'a dump');
my $new = KeelsonTest->new('restored', uninstalled => 1);
sub restore
{
	$new->sql('select 1', database => 'postgres');
	$new->node->safe_psql('postgres', 'drop database keelson with (force)');
	$new->node->safe_psql('postgres', 'create database keelson');
	return system("pg_restore -d '@{[ $new->node->connstr('keelson') ]}' '$dump' 2> '$dump.log'");
}

sub take_ring
{
	my ($text) = @_;
	write_ring($text, $new->{keyring});
	$new->node->restart;
	return;
}
take_ring("$two${three}primary 3\n");
is(restore(), 0, 'restored') or diag slurp("$dump.log");
$new->migrate;
$new->sql("alter role keelson_gateway password '$new->{password}'");
is($new->sql('select is_ready from keelson.gateway_ready()'), 't', 'with the right keyring it is ready');
is($new->sql($all_open), $held, 'and every value opens');
is($new->sql($key_open), 'sk-' . 'a' x 40, 'the API key too');
is($new->sql(q{select keelson._secret_get('smtp_url')}), 'smtps://mail.example.com', 'and the server\'s secrets');
my $restored = $new->gateway;
is($restored->post('/api/auth/login', { email => $ada->{email}, password => $ada->{password} })->{status}, 200, 'the user logs in');
$restored->stop;

# With any other it refuses, and names the key.
for my $wrong (
	[ 'without a key',   "$two",                           qr/the keyring lacks key 3, which this database needs/ ],
	[ 'of another',      random_line(1),                   qr/the keyring lacks key 2, which this database needs/ ],
	[ 'of other keys',   random_line(2) . random_line(3) . "primary 3\n", qr/the keyring's key 2 is not the key 2 of this database/ ],
	[ 'that is missing', undef,                            qr/^could not open the keyring file: .*; this database needs keys 2, 3$/ ],
	[ 'that all can read', 'mode',                         qr/^the keyring file has mode 0644: .*; this database needs keys 2, 3$/ ],
	[ 'that is no text', "\0",                             qr/^the keyring is not text; this database needs keys 2, 3$/ ])
{
	my ($name, $text, $words) = @$wrong;
	if (!defined $text) { unlink $new->{keyring}; $new->node->restart; }
	elsif ($text eq 'mode') { write_ring("$two${three}primary 3\n", $new->{keyring}); chmod 0644, $new->{keyring}; $new->node->restart; }
	else { take_ring($text); }
	is($new->sql('select is_ready from keelson.gateway_ready()'), 'f', "a keyring $name: the gateway is not ready");
	like($new->sql('select reason from keelson.gateway_ready()'), $words, 'and says which key it needs');
	my (undef, undef, $messages) = $new->try_sql($key_open);
	like($messages, qr/ERROR:\s+secrets cannot be used: /, 'nothing opens');
	ok(wait_until(sub { $new->server_log =~ /WARNING:  secrets cannot be used: .*key/ }, 90), 'the server\'s log says so');
}
take_ring("$two${three}primary 3\n");
is($new->sql($all_open), $held, 'put right, all is there again');

done_testing();
$new->stop;
$keelson->stop;
