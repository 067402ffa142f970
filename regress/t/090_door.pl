# make up, make down and their like, in places where others stumble. Runs as
# whoever runs make check, on copies of the clone. Root tries a clone below a
# folder that only root may enter, and lends another user the second part: an
# ordinary person, in a path of 200 characters with blanks in it.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use HTTP::Tiny;
use IO::Socket::INET;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep);

my $root = abs_path(dirname(__FILE__) . '/../..');
my $is_root = $> == 0;
my $lent = 'keelson-check';
my (@places, $scratch, $closed);

# An object for one copy of the clone: its folder, ports, and the user it is
# run as (undef: ourselves).
sub place
{
	my (%given) = @_;
	my $place = { %given, port => free_port(), pgport => free_port() };
	my $from = quoted($root);
	my $to = quoted($place->{folder});
	run($place, '/', "mkdir -p $to") == 0 or die "cannot make $place->{folder}\n";
	system("tar -C $from --exclude=./var --exclude=./.git --exclude=node_modules --exclude=./regress/tools -cf - . | tar -C $to -xf -") == 0
		or die "cannot copy the clone to $place->{folder}\n";
	system("chown -R $place->{user} $to") == 0 or die "cannot give away $place->{folder}\n" if $place->{user};
	push @places, $place;
	return $place;
}

# Below the ports that the system gives to those who ask for any, as other tests do meanwhile.
sub free_port
{
	for (1 .. 1000)
	{
		my $port = 12000 + int rand 18000;
		return $port if IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1, ReuseAddr => 1);
	}
	die "no free port: $!\n";
}

sub quoted
{
	my ($text) = @_;
	$text =~ s/'/'\\''/g;
	return "'$text'";
}

# Run a shell command in a folder as the place's user; its status. What it
# says is in $place->{said}.
sub run
{
	my ($place, $folder, $command, %env) = @_;
	my $vars = join ' ', map { "$_=" . quoted($env{$_}) } sort keys %env;
	my $shell = 'cd ' . quoted($folder) . " && $vars $command";
	my @become = $place->{user} ? ('runuser', '-u', $place->{user}, '--') : ();
	open my $pipe, '-|', @become, 'sh', '-c', "exec 2>&1; $shell" or die "sh: $!\n";
	local $/;
	$place->{said} = <$pipe> // '';
	close $pipe;
	return $? >> 8;
}

sub make
{
	my ($place, $target, %env) = @_;
	return run($place, $place->{folder}, "make $target",
		KEELSON_PORT => $place->{port}, KEELSON_PGPORT => $place->{pgport}, KEELSON_DRAIN_SECONDS => 5, %env);
}

sub sql
{
	my ($place, $sql) = @_;
	run($place, $place->{folder}, 'scripts/psql -X -q -A -t -c ' . quoted($sql));
	chomp $place->{said};
	return $place->{said};
}

sub var { return abs_path("$_[0]{folder}/var"); }

sub first_line
{
	my ($path) = @_;
	open my $file, '<', $path or return '';
	my $line = <$file> // '';
	chomp $line;
	return $line;
}

sub server_pid { return first_line(var($_[0]) . '/data/postmaster.pid') || 0; }
sub gateway_pid { return (split ' ', first_line(var($_[0]) . '/run/gateway.pid'))[0] || 0; }
sub is_alive { return first_line("/proc/$_[0]/stat") =~ /.*\) [^ZX]/; }
sub owner { return scalar getpwuid((stat $_[0])[4]); }
sub mode { return sprintf '%04o', (stat $_[0])[2] & 07777; }
sub ready { return HTTP::Tiny->new(timeout => 5)->get("http://127.0.0.1:$_[0]{port}/ready")->{status} == 200; }

# Up, up again, and who owns what.
sub test_up
{
	my ($place, $name) = @_;
	is(make($place, 'up', STRIPE_WEBHOOK_SECRET => 'whsec_canary'), 0, "$name: up") or diag $place->{said};
	like($place->{said}, qr{running at http://127\.0\.0\.1:$place->{port}\b}, "$name: the URL is told");
	is(() = $place->{said} =~ /^  (?:curl|make) /mg, 3, "$name: with three commands to try");
	ok(ready($place), "$name: it is ready");
	for my $command ($place->{said} =~ /^  (curl .*)/mg)
	{
		is(run($place, '/', "$command --fail-with-body"), 0, "$name: " . substr($command, 0, 40)) or diag $place->{said};
	}

	my @pids = (server_pid($place), gateway_pid($place));
	# Clients of PostgreSQL are told where to go by us alone.
	is(make($place, 'up', PGHOSTADDR => '127.0.0.2', PGCHANNELBINDING => 'require'), 0, "$name: up again") or diag $place->{said};
	like($place->{said}, qr/nothing had to be done/, "$name: has nothing to do");
	is_deeply([ server_pid($place), gateway_pid($place) ], \@pids, "$name: the same processes run");

	my $keyring = var($place) . '/keyring/keyring';
	my $server_user = $is_root && !$place->{user} ? 'keelson' : $place->{user} || getpwuid $>;
	my $gateway_user = $is_root && !$place->{user} ? 'keelson-gateway' : $server_user;
	is(mode($keyring), '0600', "$name: the keyring is for one user");
	is(owner($keyring), $server_user, "$name: that is the server's");
	is(owner("/proc/$pids[0]"), $server_user, "$name: as whom the server runs");
	is(owner("/proc/$pids[1]"), $gateway_user, "$name: and the gateway as its own");
	is(mode(var($place) . '/gateway/pgpass'), '0600', "$name: the gateway's password is for one user");
	unlike(join(' ', map { first_line("/proc/$pids[1]/$_") } qw(cmdline environ)),
		qr/keelson_gateway:[^@]|CRON_SECRET|SMTP/, "$name: no secret in the gateway's arguments and environment");
	unlike(first_line("/proc/$pids[0]/environ"), qr/canary|CRON_SECRET|SMTP/, "$name: nor in the server's environment");
	return;
}

# A reboot: everything killed, sockets gone, another process has the pid.
sub test_reboot
{
	my ($place, $name) = @_;
	sql($place, 'create table public.kept as select 42 as answer');
	my $socket = sql($place, 'show unix_socket_directories');
	my $server = server_pid($place);
	kill 'KILL', $_ for grep { $_ > 1 } gateway_pid($place), $server;
	for (1 .. 100)
	{
		last unless is_alive($server) || grep { (readlink "$_/cwd" // '') eq var($place) . '/data' } glob '/proc/[0-9]*';
		sleep 0.1;
	}
	remove_tree($socket);
	is(make($place, 'up', KEELSON_LOOPS => 64), 0, "$name: up after a crash of the machine, as on one of many cores") or diag $place->{said};
	ok(ready($place), "$name: it is ready");
	is(sql($place, 'select answer from public.kept'), '42', "$name: the data is there");
	return;
}

# Faults in the environment are named, and nothing is touched.
sub test_refusals
{
	my ($place, $name) = @_;
	my @pids = (server_pid($place), gateway_pid($place));
	isnt(make($place, 'up', KEELSON_PROT => 1, KEELSON_TLS => 'perhaps'), 0, "$name: faults stop the start");
	like($place->{said}, qr/KEELSON_PROT/, "$name: an unknown variable is named");
	like($place->{said}, qr/KEELSON_TLS/, "$name: so is a bad value");
	isnt(make($place, 'up', KEELSON_PORT => 'http', KEELSON_PGPORT => 0, KEELSON_MAIL_FROM => 'no-reply', KEELSON_SMTP_URL => 'mail.example.com'),
		0, "$name: as are faults of what is the database's");
	like($place->{said}, qr/KEELSON_$_/, "$name: $_ is named") for qw(PORT PGPORT MAIL_FROM SMTP_URL);
	isnt(make($place, 'up', KEELSON_ENV => 'production', KEELSON_TLS => 'proxy'), 0, "$name: production wants more");
	like($place->{said}, qr/CRON_SECRET.*KEELSON_SMTP_URL/s, "$name: a secret and a mail server");
	is_deeply([ server_pid($place), gateway_pid($place) ], \@pids, "$name: what ran runs on");
	return;
}

# A restore drops the database, which ends the launcher of jobs for good, and brings the old server's host and port.
sub test_jobs
{
	my ($place, $name) = @_;
	sql($place, q{update cron.job set nodename = '/elsewhere', nodeport = 1});
	sql($place, q{select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'pg_cron launcher'});
	is(make($place, 'up'), 0, "$name: up") or diag $place->{said};
	is(sql($place, q{select count(*) from pg_stat_activity where backend_type = 'pg_cron launcher'}), '1', "$name: they are launched again");
	is(sql($place, q{select count(*) from cron.job where nodename <> current_setting('cron.host') or nodeport <> current_setting('port')::integer}), '0', "$name: here");
	is(make($place, 'up'), 0, "$name: up again");
	like($place->{said}, qr/nothing had to be done/, "$name: has nothing to do");
	return;
}

# The keyring: copied, rotated, its old key let go; a copy that is not this database's changes nothing.
sub test_keyring
{
	my ($place, $name) = @_;
	my $copy = "$closed/copy";
	my $refused = sub {
		my ($target, $reason) = @_;
		isnt(make($place, $target), 0, "$name: $target is refused");
		return like($place->{said}, $reason, "$name: with the reason");
	};
	my $sealed = q{select convert_from(keelson.unseal(value, row('totp', '00000000-0000-7000-8000-00000000005f', null)), 'UTF8') from public.sealed};
	sql($place, q{create table public.sealed as select keelson.seal('kept', row('totp', '00000000-0000-7000-8000-00000000005f', null)) as value});
	is(make($place, "keyring-backup FILE=$copy.1"), 0, "$name: a copy") or diag $place->{said};
	is(mode("$copy.1"), '0600', "$name: is for one user");
	$refused->("keyring-backup FILE=$copy.1", qr/is there already/);
	$refused->('keyring-backup', qr/where to\?/);

	# Nobody else goes on with a rotation that breaks off.
	my $rename = sub { my ($from, $to) = @_; return sql($place, "alter function keelson.$from(integer) rename to $to"); };
	$rename->('_keyring_rewrap_job', '_keyring_rewrap_job_away');
	$rename->('keyring_rewrap', 'keyring_rewrap_away');
	$refused->('keyring-rotate', qr/the rotation to key 2 goes no further/);
	$rename->('keyring_rewrap_away', 'keyring_rewrap');
	is(make($place, 'keyring-rotate'), 0, "$name: rotated") or diag $place->{said};
	like($place->{said}, qr/going on with the rotation to key 2$/m, "$name: which had begun");
	like($place->{said}, qr/moved to key 2: .* done, 0 left/, "$name: everything has moved");
	unlike($place->{said}, qr{[A-Za-z0-9+/]{43}=}, "$name: no key is shown");
	$rename->('_keyring_rewrap_job_away', '_keyring_rewrap_job');
	is(sql($place, $sealed), 'kept', "$name: what was sealed before opens");
	is(make($place, 'keyring-status'), 0, "$name: the status");
	like($place->{said}, qr/1 \| f +\| ready.*2 \| t +\| ready.* 2 \| .*done/s, "$name: shows both keys, and the rotation");
	is(make($place, "keyring-backup FILE=$copy.2"), 0, "$name: a copy of both") or diag $place->{said};

	$refused->("keyring-restore FILE=$copy.1", qr/lacks key 2, which this database needs.*in place before is in place again/s);
	system("echo 'no keyring' >$copy.3");
	$refused->("keyring-restore FILE=$copy.3", qr/not this database's keyring.*in place before is in place again/s);
	$refused->("keyring-restore FILE=$copy.4", qr/which copy\?/);
	is(make($place, "keyring-restore FILE=$copy.2"), 0, "$name: the right one is taken") or diag $place->{said};

	$refused->('keyring-retire KEY=1', qr/key 1 is still needed: .*passwords/);
	$refused->('keyring-retire KEY=2', qr/key 2/);
	$refused->("keyring-retire KEY='1; x'", qr/which key\?/);
	# Whatever transactions are here unless they say so.
	sql($place, q{do $$ begin execute format('alter database %I set default_transaction_isolation = %L', current_database(), 'repeatable read'); end $$});
	is(make($place, "keyring-retire KEY=1 ACCEPT='audit events, checkout references, cursors of lists, device tokens, passwords, sessions'"), 0, "$name: let go all the same") or diag $place->{said};
	sql($place, q{do $$ begin execute format('alter database %I reset default_transaction_isolation', current_database()); end $$});
	is(sql($place, q{select string_agg(key_id || ' ' || state, ', ' order by key_id) from keelson.keyring_status()}), '1 retired, 2 ready', "$name: key 1 is retired");
	is(run($place, $place->{folder}, "grep -c '^key 1 ' var/keyring/keyring"), 1, "$name: and out of the file");
	ok(ready($place), "$name: it is ready") or diag $place->{said};
	is(sql($place, $sealed), 'kept', "$name: without it all opens that was moved");
	return;
}

# The keyring is gone: nothing is made in its stead, and a copy brings all back.
sub test_keyring_lost
{
	my ($place, $name) = @_;
	unlink var($place) . '/keyring/keyring' or die "keyring: $!\n";
	isnt(make($place, 'up'), 0, "$name: no start without it");
	like($place->{said}, qr/keyring .* is missing.*put your copy of it back/s, "$name: which is said");
	ok(!-e var($place) . '/keyring/keyring', "$name: none is made");
	is(make($place, "keyring-restore FILE=$closed/copy.2"), 0, "$name: the copy is put in place") or diag $place->{said};
	is(mode(var($place) . '/keyring/keyring'), '0600', "$name: for one user");
	is(make($place, 'up'), 0, "$name: up again") or diag $place->{said};
	is(sql($place, q{select convert_from(keelson.unseal(value, row('totp', '00000000-0000-7000-8000-00000000005f', null)), 'UTF8') from public.sealed}), 'kept', "$name: all opens");
	is(make($place, 'down'), 0, "$name: down");
	return;
}

sub test_down
{
	my ($place, $name) = @_;
	my @pids = (server_pid($place), gateway_pid($place));
	is(make($place, 'down'), 0, "$name: down") or diag $place->{said};
	# The server removes its pid file a moment before it is gone.
	for (1 .. 100)
	{
		last unless grep { is_alive($_) } @pids;
		sleep 0.1;
	}
	ok(!(grep { is_alive($_) } @pids), "$name: both have ended");
	is(make($place, 'down'), 0, "$name: down again");
	like($place->{said}, qr/not running/, "$name: says that nothing runs");
	return;
}

# The example product, and that it stays when the code is replaced.
sub test_product
{
	my ($place, $name) = @_;
	is(make($place, 'example'), 0, "$name: put in") or diag $place->{said};
	is(make($place, 'example'), 0, "$name: again") or diag $place->{said};
	is(run($place, $place->{folder}, 'examples/invoices/test'), 0, "$name: its tests pass") or diag $place->{said};
	sql($place, q{alter table invoices.invoices alter column number set default 7;
		create policy narrow on invoices.invoices as restrictive for delete to keelson_app, keelson_system using (keelson.current_actor() = 'nobody');
		comment on policy narrow on invoices.invoices is 'Nothing is deleted.';
		create function invoices_api.answer(event keelson.incoming_event default null) returns keelson.reply language plpgsql as 'begin return null; end';
		comment on function invoices_api.answer is 'An answer.';
		revoke execute on function invoices_api.answer from public;
		grant execute on function invoices_api.answer to keelson_app with grant option;
		grant execute on function invoices_api.answer to keelson_jobs;
		alter function invoices_api.answer owner to keelson_owner;
		set check_function_bodies = off;
		create function invoices_api.ping(given keelson.reply) returns keelson.reply language sql as 'select invoices_api.pong(given) where (given).status > 0';
		create function invoices_api.pong(given keelson.reply) returns keelson.reply language sql as 'select invoices_api.ping(given) where (given).status > 1'});
	my $state = q{select string_agg(concat_ws(' ', polname, polpermissive, polcmd, polroles::regrole[], pg_get_expr(polqual, polrelid),
		pg_get_expr(polwithcheck, polrelid), obj_description(oid, 'pg_policy')), '; ' order by polname)
		|| (select string_agg(adnum || pg_get_expr(adbin, adrelid), ';' order by adnum) from pg_attrdef where adrelid = 'invoices.invoices'::regclass)
		|| (select concat_ws(' ', pg_get_functiondef(oid), proowner::regrole, obj_description(oid), array(select unnest(proacl)::text order by 1))
			from pg_proc where proname = 'answer')
		|| (select string_agg(prosrc, ';' order by proname) from pg_proc where proname in ('ping', 'pong'))
		from pg_policy where polrelid = 'invoices.invoices'::regclass};
	my $before = sql($place, $state);
	like($before, qr/narrow f d .*current_actor.*Nothing is deleted.*own_rows t \*.*keelson\.uuid7.*An answer.*keelson_app=X\*.*pong\(given\).*ping\(given\)/s, "$name: has policies, defaults and functions");
	sql($place, q{create view public.mine as select keelson.current_user_id() as me; update keelson.installation set code_checksum = 'old'});
	isnt(make($place, 'up'), 0, "$name: what would be lost stops new code");
	like($place->{said}, qr/objects of yours:\n  view (?:public\.)?mine/s, "$name: and is named, alone") or diag $place->{said};
	sql($place, 'drop view public.mine');
	is(make($place, 'up'), 0, "$name: new code comes in") or diag $place->{said};
	is(sql($place, $state), $before, "$name: policies, defaults and functions are as they were");
	sql($place, 'drop policy narrow on invoices.invoices');
	is(run($place, $place->{folder}, 'examples/invoices/test'), 0, "$name: its tests pass") or diag $place->{said};
	is(make($place, 'log'), 0, "$name: the log is shown") or diag $place->{said};
	like($place->{said}, qr{errors of the server \(\S+\)\n}, "$name: with the server's errors");
	unlike($place->{said}, qr/administrator command|connection to client lost/, "$name: without those of stopping it");
	return;
}

# A start that fails says why and leaves nothing behind.
sub test_failure
{
	my ($place, $name) = @_;
	my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $place->{port}, Listen => 1, ReuseAddr => 1);
	isnt(make($place, 'up'), 0, "$name: the gateway's port is taken");
	like($place->{said}, qr/port $place->{port} .*taken/, "$name: which is said");
	is(server_pid($place), 0, "$name: the server was stopped again");
	close $taken;
	$taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $place->{pgport}, Listen => 1, ReuseAddr => 1);
	isnt(make($place, 'up'), 0, "$name: the server's port is taken");
	like($place->{said}, qr/\| .*could not bind/, "$name: the server's log is shown");
	ok(!ready($place), "$name: no gateway runs");
	return;
}

# Two at once take turns.
sub test_two
{
	my ($place, $name) = @_;
	my $child = fork // die "fork: $!\n";
	if (!$child)
	{
		POSIX::_exit(make($place, 'up'));
	}
	is(make($place, 'up'), 0, "$name: up while another up runs") or diag $place->{said};
	waitpid $child, 0;
	is($?, 0, "$name: the other succeeds too");
	ok(ready($place), "$name: it is ready");
	return;
}

delete @ENV{ grep { /^KEELSON_|^CRON_SECRET$|^ALLOWED_ORIGINS$|^MAKE|^MFLAGS$/ } keys %ENV };

$scratch = tempdir('/tmp/keelson-door.XXXXXX');
$closed = tempdir(($is_root ? '/root' : $scratch) . '/keelson-door.XXXXXX');
chmod 0755, $scratch;
chmod 0700, $closed;

my $first = place(folder => "$closed/clone");
test_up($first, $is_root ? 'below a closed folder' : 'in a closed folder');
ok(-l "$first->{folder}/var", 'below a closed folder: var is a link') if $is_root;
test_refusals($first, 'refusals');
test_reboot($first, 'reboot');
test_jobs($first, 'jobs');
test_product($first, 'product');
test_keyring($first, 'keyring');
test_down($first, 'down');
test_keyring_lost($first, 'keyring lost');
test_failure($first, 'failure');

SKIP:
{
	skip 'there is no user to lend', 1 if $is_root && !defined getpwnam $lent;
	my $long = "$scratch/person/";
	$long .= 'a folder ' while length $long < 192;
	mkdir "$scratch/person";
	system 'chown', $lent, "$scratch/person" if $is_root;
	my $second = place(folder => "${long}x/clone", user => $is_root ? $lent : undef);
	test_two($second, 'long path with blanks');
	test_down($second, 'long path with blanks');
}

done_testing();

END
{
	my $status = $?;
	for my $place (@places)
	{
		make($place, 'down') if -e "$place->{folder}/var";
		remove_tree(var($place)) if -l "$place->{folder}/var";
	}
	remove_tree(grep { defined } $closed, $scratch);
	$? = $status;
}
