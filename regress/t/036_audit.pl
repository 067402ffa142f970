# The audit trail through HTTP, across crashes and clusters, and checked from outside by keelson-audit-verify.

use strict;
use warnings;

use KeelsonTest;
use PostgreSQL::Test::Utils ();
use Test::More;
use POSIX ();
use Time::HiRes qw(sleep time);

my $keelson = KeelsonTest->new('audit', conf => "max_prepared_transactions = 2\nlog_checkpoints = off\nkeelson.environment = development\nkeelson.audit_ring_size = 64kB");
$keelson->product;
my $gateway = $keelson->gateway;
my $work = $keelson->node->basedir;

# All that is committed is sealed.
sub settle
{
	my ($of) = @_;
	$of ||= $keelson;
	return wait_until(sub {
		$of->sql(q{select keelson.audit_seal() = 0 and not exists (select from keelson.audit_events as e
			where (e.era, e.xid, e.id) > (select c.era, c.xid, c.event_id from keelson.audit_checkpoints as c order by c.size desc limit 1))}) eq 't'
	});
}

# How many events there are, once there are as many as wanted.
sub events
{
	my ($where, $wanted) = @_;
	my $count = 0;
	wait_until(sub { ($count = $keelson->sql("select count(*) from keelson.audit_events where $where")) >= $wanted });
	return $count;
}

sub write_file
{
	my ($name, $content) = @_;
	open my $file, '>', "$work/$name" or die "$work/$name: $!";
	print $file $content;
	close $file;
	return "$work/$name";
}

# The verifier is compiled apart, as anybody would.
system("cp -r '$KeelsonTest::root/extension/keelson/audit/verifier' '$work/verifier' && make -s -C '$work/verifier' WERROR=1") == 0
	or BAIL_OUT('keelson-audit-verify does not compile');

# What it says, and with which status.
sub verifier
{
	my (@arguments) = @_;
	open my $out, '-|', "$work/verifier/keelson-audit-verify", @arguments or die "keelson-audit-verify: $!";
	my $said = join '', <$out>;
	close $out;
	return wantarray ? ($? >> 8, $said) : $? >> 8;
}

subtest 'published vectors' => sub {
	my $folder = ($ENV{VECTORS} // '') . '/merkle/testdata';
	plan skip_all => 'no VECTORS (transparency-dev/merkle)' unless $ENV{VECTORS} && -d $folder;
	my ($count, @wrong) = (0);
	for my $kind (qw(inclusion consistency))
	{
		for my $path (split /\n/, `find $folder/$kind -name '*.json'`)
		{
			my $vector = json_decode(slurp($path));
			# Two roots that are no hashes, and equal: we take hashes alone.
			next if ($vector->{root1} // '') eq 'ZG9uJ3QgY2FyZSAy';
			$count++;
			push @wrong, $path unless verifier($kind, $path) == ($vector->{wantErr} ? 1 : 0);
		}
	}
	is_deeply(\@wrong, [], 'every proof is judged rightly');
	cmp_ok($count, '>', 150, 'and there are many');
	# The proofs that the server makes of the same leaves are the published ones.
	my $of_leaves = q{
		delete from keelson.audit_tiles;
		insert into keelson.audit_tiles (level, number, hashes, event_ids, event_times)
		select 0, 0, string_agg(sha256('\\x00'::bytea || leaf), ''::bytea order by n), decode(repeat('00', 16 * 8), 'hex'), int8range(0, 1)
		from unnest(array['', '\\x00', '\\x10', '\\x2021', '\\x3031', '\\x40414243', '\\x5051525354555657', '\\x606162636465666768696a6b6c6d6e6f']::bytea[])
			with ordinality as l (leaf, n)};
	my $made = sub { my ($what) = @_; return $keelson->sql("begin; $of_leaves; select $what; rollback"); };
	my @happy = map { json_decode(slurp($_)) } glob "$folder/{inclusion,consistency}/[0-9]/happy-path.json";
	for my $vector (@happy)
	{
		my $is_inclusion = exists $vector->{treeSize};
		my $proof = $is_inclusion ? "_audit_inclusion($vector->{leafIdx}, $vector->{treeSize})" : "_audit_consistency($vector->{size1}, $vector->{size2})";
		my ($size, $root) = $is_inclusion ? @$vector{qw(treeSize root)} : @$vector{qw(size2 root2)};
		is($made->("encode(keelson._audit_root($size), 'base64')"), $root, "the root of $size leaves");
		is_deeply(json_decode($made->("keelson._base64_array(keelson.$proof)")), $vector->{proof} // [], "$proof is the published one");
	}
	cmp_ok(scalar(@happy), '>=', 10, 'so are all');
};

my $user = $keelson->user($gateway);
my $admin = $keelson->user($gateway);
$keelson->sql("select keelson.role_grant('$admin->{email}', 'admin')");

subtest 'what requests leave' => sub {
	my %agent = ('User-Agent' => 'a test', 'X-Request-ID' => '01930000-0000-7000-8000-00000000abcd');
	$gateway->post('/api/auth/login', { email => $user->{email}, password => $user->{password} }, headers => \%agent);
	is($gateway->post('/api/auth/login', { email => $user->{email}, password => 'wrong horse battery' }, headers => \%agent)->{status}, 401, 'a wrong password');
	is($gateway->post('/api/auth/login', { email => 'nobody@example.com', password => 'wrong horse battery' })->{status}, 401, 'a stranger');
	$gateway->put('/api/user/profile', { name => 'Ada' }, token => $user->{token});
	my $reply = $gateway->get('/api/user/activity', token => $user->{token});
	is($reply->{status}, 200, 'one can read of oneself') or diag $reply->{content};
	my @events = @{ $reply->{json}{data} };
	is(join(' ', map { "$_->{type}:$_->{outcome}" } @events), 'user.update:success auth.login:failure auth.login:success auth.register:success', 'what one did');
	is_deeply([ sort keys %{ $events[0] } ], [ sort qw(id type outcome userId actor actorId data ipAddress userAgent requestId createdAt) ], 'with all fields');
	my %login = %{ $events[2] };
	is("$login{actor} $login{ipAddress} $login{userAgent} $login{requestId}", "user 127.0.0.1 a test $agent{'X-Request-ID'}", 'by whom, whence, in which request');
	is($events[1]{data}{email}, $user->{email}, 'the address that was tried is known to its owner');
	is($events[1]{actor}, 'anonymous', 'though not who tried');
	my $page = $gateway->get('/api/user/activity?limit=3', token => $user->{token})->{json};
	is(@{ $page->{data} }, 3, 'page by page');
	my $next = $gateway->get("/api/user/activity?limit=3&cursor=$page->{meta}{pagination}{nextCursor}", token => $user->{token})->{json};
	is(join(' ', map { $_->{type} } @{ $next->{data} }), 'auth.register', 'to the end');
	is($next->{meta}{pagination}{nextCursor}, undef, 'which is known');
	like($keelson->sql("select string_agg(data::text, '') from keelson.audit_events"), qr/^(?!.*example\.com)/s, 'no address stands open in the table');
};

subtest 'what was refused' => sub {
	my $before = $keelson->sql("select count(*) from keelson.audit_events where event_type = 'security.unauthenticated'");
	is($gateway->get('/api/user/activity')->{status}, 401, 'nobody is known');
	is($gateway->get('/api/admin/audit', token => $user->{token})->{status}, 403, 'somebody is not allowed');
	cmp_ok(events("event_type = 'security.unauthenticated'", $before + 1), '>', $before, 'the one is recorded');
	is(events("event_type = 'security.forbidden' and user_id = '$user->{id}' and data ->> 'endpoint' = 'GET admin/audit v1'", 1), 1, 'so is the other');
	my $reply = $gateway->get('/api/admin/audit?type=security.forbidden&ip=127.0.0.1', token => $admin->{token});
	is($reply->{status}, 200, 'an administrator reads it') or diag $reply->{content};
	is($reply->{json}{data}[0]{userId}, $user->{id}, 'by address');
	is(@{ $gateway->get('/api/admin/audit?ip=192.0.2.99', token => $admin->{token})->{json}{data} }, 0, 'from another there was nothing');
	is($gateway->get('/api/admin/audit?type=nonsense', token => $admin->{token})->{status}, 400, 'a type that there is none of');
	is($gateway->get('/api/admin/audit?ip=nonsense', token => $admin->{token})->{status}, 400, 'an address that is none');
	cmp_ok($gateway->get('/api/admin/audit/summary', token => $admin->{token})->{json}{data}{total}, '>', 5, 'a summary counts');
	# A flood is one record for each time the keeper comes, once a second at most.
	my $began = time;
	$gateway->get('/api/admin/audit/summary', token => $user->{token}) for 1 .. 300;
	my $lasted = time - $began;
	ok(wait_until(sub {
		$keelson->sql(q{select coalesce(sum(1 + coalesce((data -> 'repeated')::int, 0)), 0) from keelson.audit_events where data ->> 'endpoint' = 'GET admin/audit/summary v1'}) == 300
	}), 'all of a flood are counted');
	cmp_ok($keelson->sql(q{select count(*) from keelson.audit_events where data ->> 'endpoint' = 'GET admin/audit/summary v1'}), '<=', 2 + $lasted, 'in few records');
	like($gateway->get('/metrics')->{content}, qr/keelson_audit_dropped_total 0/, 'none was dropped, and that is shown');
};

subtest 'what failed, and what was locked' => sub {
	$keelson->sql(q{
		create function product.locked() returns void language plpgsql as $$ begin perform keelson.raise(423, 'ACCOUNT_LOCKED', 'not now'); end $$;
		comment on function product.locked() is 'Is locked.';
		select keelson.route('GET product/locked', 'product.locked', is_public => true)});
	ok(wait_until(sub { $gateway->get('/api/product/locked')->{status} == 423 }), 'something locked');
	cmp_ok(events("event_type = 'security.locked' and data ->> 'endpoint' = 'GET product/locked v1'", 1), '>=', 1, 'is recorded');
	# Its transaction rolls back, and what it had recorded with it.
	$keelson->sql('alter function keelson._audit_summary(timestamptz, timestamptz) rename to _audit_summary_away');
	is($gateway->get('/api/admin/audit/summary', token => $admin->{token})->{status}, 500, 'an endpoint of administration that fails');
	$keelson->sql('alter function keelson._audit_summary_away(timestamptz, timestamptz) rename to _audit_summary');
	is(events("event_type = 'security.failed' and outcome = 'failure' and user_id = '$admin->{id}' and data ->> 'status' = '500'", 1), 1, 'is recorded');
	is($gateway->get('/api/product/fail?how=division')->{status}, 500, 'one of the product');
	is($gateway->get('/api/admin/audit?type=security.failed', token => $admin->{token})->{json}{data}[0]{data}{endpoint}, 'GET admin/audit/summary v1', 'is not');
};

subtest 'what readers may give' => sub {
	my $read = sub { return $gateway->get("/api/admin/audit$_[0]", token => $admin->{token}); };
	is($read->("?$_")->{status}, 200, $_)
		for 'from=1900-01-01T00:00:00Z', 'from=0001-01-01T00:00:00Z', 'to=9999-12-31T23:59:59Z', 'from=2030-01-01T00:00:00Z&to=2020-01-01T00:00:00Z';
	is($read->("/summary?$_")->{status}, 200, "summary: $_")
		for 'from=0001-01-01T00:00:00Z', 'to=9999-12-31T23:59:59Z';
	my $cursor = $gateway->get('/api/user/activity?limit=1', token => $user->{token})->{json}{meta}{pagination}{nextCursor};
	for my $given ('limit=0', 'limit=101', 'limit=x', 'cursor=nonsense', "cursor=$cursor", 'from=yesterday-ish', 'from=-infinity', 'to=infinity', 'to=294276-12-31T23:59:59Z', 'outcome=perhaps', 'actor=somebody', 'userId=1', 'ip=10.0.0.0/8',
		'colour=red')
	{
		my $reply = $read->("?$given");
		is("$reply->{status} $reply->{json}{code}", '400 VALIDATION_FAILED', $given);
	}
	is($gateway->get("/api/audit/checkpoint?from=$_", token => $admin->{token})->{status}, 400, "a checkpoint from $_") for -1, 999_999_999, 'x';
	is($gateway->get("/api/user/activity?$_", token => $user->{token})->{status}, 400, "activity: $_") for 'limit=0', 'cursor=nonsense', "userId=$admin->{id}";
};

subtest 'whence an administrator acted' => sub {
	$keelson->sql(q{
		create function product.grant_something(id uuid) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
		begin
			perform keelson.permission_require('users.write');
			perform keelson.audit('admin.role_grant', '{"role": "tester"}', user_id => id);
		end $$;
		comment on function product.grant_something(uuid) is 'Stands for what administrators do to users.';
		alter function product.grant_something(uuid) owner to keelson_owner;
		select keelson.route('POST product/grants/:id', 'product.grant_something', permission => 'users.write')});
	ok(wait_until(sub { $gateway->post("/api/product/grants/$user->{id}", {}, token => $admin->{token}, headers => { 'User-Agent' => 'an office' })->{status} == 204 }), 'somebody did something');
	my $own = $gateway->get('/api/user/activity?limit=1', token => $user->{token})->{json}{data}[0];
	is("$own->{type} $own->{actorId}", "admin.role_grant $admin->{id}", 'the user sees it');
	is_deeply([ @$own{qw(ipAddress userAgent)} ], [ undef, undef ], 'not whence');
	my $seen = $gateway->get("/api/admin/audit?limit=1&userId=$user->{id}", token => $admin->{token})->{json}{data}[0];
	is("$seen->{ipAddress} $seen->{userAgent}", '127.0.0.1 an office', 'other administrators do');
};

subtest 'which of one\'s keys it was' => sub {
	my $key = $gateway->post('/api/user/access-keys', { name => 'a robot', scopes => ['usage.write'] }, token => $user->{token})->{json}{data};
	is($gateway->get('/api/admin/audit', token => $key->{key})->{status}, 403, 'an access key that may not');
	cmp_ok(events("event_type = 'security.forbidden' and actor = 'access_key' and user_id = '$user->{id}' and data ->> 'accessKeyId' = '$key->{id}'", 1), '>=', 1, 'is named');
};

subtest 'proofs and checkpoints' => sub {
	settle();
	my $id = $keelson->sql("select id from keelson.audit_events where event_type = 'user.update' and user_id = '$user->{id}'");
	my $proof = $keelson->sql("select keelson.audit_proof('$id')");
	my $file = write_file('proof.json', $proof);
	my ($status, $said) = verifier('proof', $file);
	is($status, 0, 'a proof holds') or diag $said;
	like($said, qr/$id\n$user->{id}/, 'of this event');
	my $changed = json_decode($proof);
	(my $leaf = $changed->{leaf}) =~ tr/ABC/BCA/;
	is(verifier('proof', write_file('changed.json', json_encode({ %$changed, leaf => $leaf }))), 1, 'of no other');
	is(verifier('proof', write_file('moved.json', json_encode({ %$changed, leafIndex => $changed->{leafIndex} ^ 1 }))), 1, 'in no other place');
	my $kept = $gateway->get('/api/audit/checkpoint', token => $admin->{token});
	is($kept->{status}, 200, 'a checkpoint') or diag $kept->{content};
	my $kept_file = write_file('kept.json', $kept->{content});
	is(verifier('checkpoint', $kept_file), 0, 'is signed');
	is(verifier('proof', $file, $kept_file), 0, 'by the key that signed the proof');
	is($gateway->get('/api/audit/checkpoint', token => $user->{token})->{status}, 403, 'it is for administrators');
	my $size = $kept->{json}{data}{size};
	$keelson->sql("select count(keelson.audit('user.update')) from generate_series(1, 700)");
	settle();
	my $now = $gateway->get("/api/audit/checkpoint?from=$size", token => $admin->{token});
	($status, $said) = verifier('checkpoint', write_file('now.json', $now->{content}), $kept_file);
	is($status, 0, 'the trail goes on from the one kept') or diag $said;
	like($keelson->server_log, qr/audit checkpoint: \Q$now->{json}{data}{checkpoint}\E/, 'the log has the checkpoint too');
	# A superuser writes history anew, as a whole.
	$keelson->sql("delete from keelson.audit_events where id = '$id'; delete from keelson.audit_tiles; delete from keelson.audit_checkpoints; delete from keelson.audit_totals");
	settle();
	is($keelson->sql('select count(*) from keelson.audit_verify()'), '0', 'so that it looks whole');
	my $anew = $gateway->get("/api/audit/checkpoint?from=$size", token => $admin->{token});
	($status, $said) = verifier('checkpoint', write_file('anew.json', $anew->{content}), $kept_file);
	is($status, 1, 'whoever kept a checkpoint sees it');
	like($said, qr/written anew/, 'and is told');
	is($keelson->sql("select finding from keelson.audit_verify(checkpoint => '$kept->{json}{data}{checkpoint}')"), 'rewritten', 'audit_verify() says so as well');
};

subtest 'an insert that fails in the middle of a request' => sub {
	my $day = $keelson->sql(q{select to_char(now() at time zone 'UTC', 'YYYYMMDD')});
	$keelson->sql(qq{
		select keelson.audit_event_type('regress.fragile', 'Cannot be written by requests.');
		create function public.burns(type text) returns boolean language plpgsql immutable as \$\$
		begin
			if type = 'regress.fragile' and session_user = 'keelson_gateway' then
				raise exception 'the disk is on fire';
			end if;
			return true;
		end \$\$;
		create index fragile on keelson.audit_events_$day (id) where public.burns(event_type);
		create table product.done (n integer);
		grant select, insert on product.done to keelson_app;
		create function product.fragile(n integer) returns void language plpgsql as \$\$
		begin
			insert into product.done values (n);
			perform keelson.audit('regress.fragile', jsonb_build_object('n', n));
		end \$\$;
		comment on function product.fragile(integer) is 'Does something of which the record burns.';
		select keelson.route('POST product/fragile', 'product.fragile', is_public => true)});
	my $retries = sub { return $gateway->get('/metrics')->{content} =~ /^keelson_gateway_call_retries_total (\d+)$/m ? $1 : undef };
	ok(wait_until(sub { $gateway->post('/api/product/fragile', { n => 0 })->{status} != 404 }), 'an action');
	is($gateway->post('/api/product/fragile', { n => 1 })->{status}, 204, 'is done all the same');
	is($gateway->post('/api/product/fragile', { n => 2 })->{status}, 204, 'and again');
	is($retries->(), 1, 'by trying it once more, the first time');
	like($keelson->server_log, qr/ERROR:  could not write an audit event of type "regress.fragile": the disk is on fire/, 'the log tells why');
	is($keelson->sql('select string_agg(n::text, \' \' order by n) from product.done'), '0 1 2', 'each was done once');
	is(events("event_type = 'regress.fragile'", 3), 3, 'and each has its event, by the ring');
	$keelson->sql("drop index keelson.fragile; drop function public.burns");
	# From now on all would be written guarded, for a minute.
	$keelson->node->restart;
	$gateway->wait_ready;
};

subtest 'killed in the middle' => sub {
	$keelson->sql(q{
		select keelson.audit_event_type('regress.action', 'An action of a test.');
		create table actions (n bigint generated always as identity primary key, rolled_back boolean);
		create function product.act() returns void language plpgsql as $$
		declare
			m bigint;
		begin
			insert into public.actions default values returning n into m;
			perform keelson.audit('regress.action', jsonb_build_object('n', m));
			if m % 7 = 0 then
				raise exception 'not this one';
			end if;
		end $$;
		comment on function product.act() is 'Does something, or fails.';
		grant select, insert on actions to keelson_app;
		select keelson.route('POST product/act', 'product.act', is_public => true)});
	# By psql, and as the gateway does it: records of requests go another way.
	my $route = $keelson->sql(q{select id from keelson.routes where template like '%product/act'});
	my $request = qq{select keelson.dispatch($route, null, null, null, '{"ip":"192.0.2.1","requestId":"01930000-0000-7000-8000-00000000abce"}')};
	write_file('act.sql', "select product.act();\n$request;\n" x 2000);
	my $clients = q{select pid from pg_stat_activity where usename <> 'keelson_gateway' and pid <> pg_backend_pid() and (query like '%product.act();' or query like '%keelson.dispatch(%') limit 1};
	for my $round (1 .. 3)
	{
		my $load = fork // die "fork: $!";
		if (!$load)
		{
			# A group of its own, so that what it starts can be ended with it; the server stays.
			setpgrp 0, 0;
			$SIG{TERM} = 'DEFAULT';
			open STDOUT, '>', '/dev/null';
			open STDERR, '>', '/dev/null';
			# A client goes on after an error, until it is killed or its server is; then there are others.
			for (1 .. 200)
			{
				system 'sh', '-c', 'for client in 1 2 3 4; do psql -XAtq -f "$0" -h "$1" -p "$2" keelson & done; wait',
					"$work/act.sql", $keelson->node->host, $keelson->node->port;
				sleep 0.05;
			}
			POSIX::_exit(0);
		}
		my $so_far = $keelson->sql('select count(*) from actions');
		wait_until(sub { my ($status, $count) = $keelson->try_sql('select count(*) from actions'); $status == 0 && $count > $so_far + 50 }) or fail('actions happen');
		# A client's process, the keeper, and the whole server.
		my $whom = (qw(client keeper server))[ $round - 1 ];
		if ($whom eq 'server')
		{
			my ($postmaster) = slurp($keelson->node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
			my @others = split ' ', slurp("/proc/$postmaster/task/$postmaster/children");
			$keelson->node->kill9;
			ok(wait_until(sub { !grep { -d "/proc/$_" } @others }, 20), 'without the server its processes end');
		}
		else
		{
			my $victims = $whom eq 'client' ? $clients : q{select pid from pg_stat_activity where backend_type = 'keelson keeper'};
			# One may have ended before it is killed.
			ok(wait_until(sub { (undef, my $pid) = $keelson->try_sql($victims); return $pid && $keelson->kill_process($pid); }, 60), "$whom: killed, and the server is back");
		}
		kill 'TERM', -$load;
		waitpid $load, 0;
		$keelson->node->start if $whom eq 'server';
	}
	ok(wait_until(sub { $keelson->sql($clients) eq '' }, 20), 'nobody acts any more');
	cmp_ok($keelson->sql('select count(*) from actions'), '>', 100, 'many actions were committed');
	is($keelson->sql(q{select count(*) from actions as a full join (
		select (data ->> 'n')::bigint as n from keelson.audit_events where event_type = 'regress.action') as e using (n)
		where a.ctid is null or e.n is null or n in (select n from actions where n % 7 = 0)}), '0', 'each with its event, and no event without an action');
	cmp_ok($keelson->sql(q{select count(*) from keelson.audit_events where event_type = 'regress.action' and address_hash is not null}), '>', 50, 'many of them of requests');
	ok(settle(), 'what there was is sealed');
	is($keelson->sql(q{select string_agg(finding, ' ') from keelson.audit_verify()}), '', 'and whole');
	is($keelson->sql(q{
		create extension amcheck;
		select count(bt_index_check(i.indexrelid, true))
		from pg_index as i join pg_class as c on c.oid = i.indexrelid join pg_am as a on a.oid = c.relam
		where a.amname = 'btree' and i.indrelid in (select inhrelid from pg_inherits where inhparent = 'keelson.audit_events'::regclass)}) >= 18, 1, 'so are the indexes');
};

subtest 'more than the ring holds' => sub {
	$gateway->wait_ready;
	my $counted = sub { my %counts = $keelson->sql('select name, value from keelson._audit_counters()') =~ /^(\w+)\|(\d+)$/mg; return $counts{ $_[0] } };
	# Nobody can write, the keeper neither.
	my $hindrance = $keelson->node->background_psql('keelson');
	$hindrance->query_safe('begin; lock table keelson.audit_events in access exclusive mode');
	my $sent = 0;
	ok(wait_until(sub {
		# Each says something else, so that none is a repetition.
		$gateway->get('/api/user/activity', headers => { 'User-Agent' => 'agent ' . ++$sent . 'x' x 200 }) for 1 .. 20;
		return $counted->('dropped_total') > 5;
	}, 60), 'a ring that nobody empties is full at last');
	my $dropped = $counted->('dropped_total');
	like($gateway->get('/metrics')->{content}, qr/^keelson_audit_dropped_total $dropped$/m, 'what finds no room is counted and shown');
	$hindrance->query_safe('rollback');
	$hindrance->quit;
	ok(wait_until(sub { $counted->('ring_bytes') == 0 }, 20), 'then the keeper empties it');
	is($keelson->sql(qq{
		select count(*) from keelson.audit_events as e
		where e.event_type = 'security.unauthenticated' and keelson._audit_open(e.user_id, e.id, e.personal) ->> 'userAgent' like 'agent %xxx'}),
		$sent - $dropped, 'and nothing else is missing');
};

# Of a day that is over, with events that no request has left.
sub add_events
{
	my ($from, $until) = @_;
	$keelson->sql(qq{
		insert into keelson.audit_events (user_id, id, era, xid, event_type, outcome, actor, data)
		select '$user->{id}', overlay(keelson._uuid7_floor(date_trunc('day', now(), 'UTC') - interval '10 days' + make_interval(secs => 4 * n))::text placing '7' from 15 for 1)::uuid,
			keelson._current_era(), pg_current_xact_id(), 'regress.action', 'success', 'system', jsonb_build_object('n', n, 'much', repeat('x', 200))
		from generate_series($from, $until) as n});
	return;
}

subtest 'days that are over' => sub {
	my $day = $keelson->sql(q{select 'audit_events_' || to_char((now() - interval '10 days') at time zone 'UTC', 'YYYYMMDD')});
	my $is_looked_at = sub { return $keelson->sql(qq{select '$day' = any (keelson._audit_unsettled((select max(size) from keelson.audit_checkpoints)))}) };
	# The keeper comes when there is something new.
	my $is_left_alone = sub { return wait_until(sub { $keelson->sql(q{select keelson.audit('user.update') is not null}); sleep 0.2; return $is_looked_at->() eq 'f' }, 60) };
	my $unsealed = sub { return $keelson->sql("select count(*) from keelson.$day where keelson._audit_place(id) is null") };
	$keelson->sql(q{select keelson.audit_partitions_make(0, now() - interval '10 days')});
	# One transaction wrote more than is sealed at a time.
	add_events(1, 20_000);
	is($is_looked_at->(), 't', 'with something that is not sealed, a day is looked at');
	ok(settle(), 'sealed');
	is($unsealed->(), 0, 'batch by batch, all that one transaction wrote');
	is($keelson->sql(q{select string_agg(finding, ' ') from keelson.audit_verify()}), '', 'and whole');
	ok($is_left_alone->(), 'then the day is left alone');
	add_events(20_001, 20_200);
	is($is_looked_at->(), 't', 'until it has grown');
	ok(settle(), 'which is sealed');
	is($unsealed->(), 0, 'as well');
	is($keelson->sql(qq{select keelson.audit_proof(id) is not null from keelson.$day where data ->> 'n' = '$_'}), 't', "the proof of $_") for 7, 10_000, 20_200;
	ok($is_left_alone->(), 'it is left alone again');
	$keelson->node->restart;
	$gateway->wait_ready;
	ok($is_left_alone->(), 'and after a start, which forgets all that was known');
};

subtest 'verified while the keeper seals' => sub {
	ok(settle(), 'all is sealed');
	# The one who verifies has seen how far the tree goes, and waits for its tiles; meanwhile it grows.
	my $sealer = $keelson->node->background_psql('keelson', on_error_stop => 1);
	$sealer->query_safe('begin; lock table keelson.audit_tiles in access exclusive mode');
	my $verifier = $keelson->node->background_psql('keelson', on_error_stop => 1);
	$verifier->query_until(qr/begun/, "\\echo begun\nselect 'found ' || coalesce(string_agg(finding || ': ' || detail, ' '), 'nothing') from keelson.audit_verify();\n\\echo over\n");
	ok(wait_until(sub { $keelson->sql(q{select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%audit_verify%' and pid <> pg_backend_pid()}) eq '1' }), 'it waits');
	$keelson->sql("select count(keelson.audit('regress.action')) from generate_series(1, 20)");
	is($sealer->query_safe('select keelson.audit_seal() >= 20'), 't', 'more is sealed');
	$sealer->query_safe('commit');
	like($verifier->query_until(qr/over/, ''), qr/^found nothing$/m, 'it tells of nothing');
	$_->quit for $sealer, $verifier;
};

subtest 'a transaction that is prepared' => sub {
	my $lock = hex '4b656c736f6e4131';
	my $waiting = q{select count(*) from pg_locks where locktype = 'advisory' and not granted and pid };
	my ($before, $after) = map { $keelson->node->background_psql('keelson', on_error_stop => 1) } 1 .. 2;
	ok(settle(), 'all is sealed');
	$before->query_safe("select pg_advisory_lock($lock)");
	$keelson->sql(q{begin; select keelson.audit('regress.action', '{"n": "prepared"}'); prepare transaction 'regress'});
	ok(wait_until(sub { $keelson->sql("$waiting = (select pid from pg_stat_activity where backend_type = 'keelson keeper')") eq '1' }, 30), 'the keeper comes');
	$after->query_until(qr/begun/, "\\echo begun\nselect pg_advisory_lock($lock);\n\\echo got\n");
	ok(wait_until(sub { $keelson->sql("$waiting > 0") eq '2' }, 30), 'behind it somebody else');
	$before->quit;
	$after->query_until(qr/got/, '');
	# The keeper has found nothing that was committed, and from now on nobody writes any more.
	$after->quit;
	$keelson->sql(q{commit prepared 'regress'});
	ok(wait_until(sub { $keelson->sql(q{select keelson._audit_place(id) is not null from keelson.audit_events where data ->> 'n' = 'prepared'}) eq 't' }, 30),
		'what it wrote is sealed when it has committed');
};

subtest 'a cluster with B-trees in place of the index of ranges' => sub {
	my $indexes = q{select string_agg(c.relname, ' ' order by c.relname) from pg_index as i join pg_class as c on c.oid = i.indexrelid where i.indrelid = 'keelson.audit_events'::regclass};
	my $now = $keelson->sql($indexes);
	# Two more days that are over.
	$keelson->sql(q{select keelson.audit_partitions_make(0, now() - interval '3 days')});
	$keelson->sql(q{
		begin;
		lock table keelson.audit_events in access exclusive mode;
		drop index keelson.audit_events_id_era_xid_idx;
		create index audit_events_id_idx on keelson.audit_events (id);
		create index audit_events_era_xid_id_idx on keelson.audit_events (era, xid, id);
		delete from keelson.migrations where capability = 'audit' and number = 3;
		commit});
	isnt($keelson->sql($indexes), $now, 'as it was');
	$keelson->sql("select count(keelson.audit('regress.action')) from generate_series(1, 20)");
	my $days = q{select string_agg(p.name, ' ' order by p.name) from keelson.audit_partitions as p where p.dropped_at is null and};
	my $over = $keelson->sql("$days p.until_at <= now()");
	like($over, qr/^\w+ \w+ /, 'with some days that are over');
	my ($operator, $holder) = map { $keelson->node->background_psql('keelson', on_error_stop => 1) } 1 .. 2;
	my ($applied, $lacking) = split /\n/, $operator->query_safe(
		"begin; select count(*) from keelson.migrate(); $days keelson._audit_ranges_index(p.name) is null");
	# Somebody is about to write to one of them, and is let in before the keeper can come.
	my $second = (split / /, $over)[1];
	$holder->query_until(qr/begun/, "\\echo begun\nbegin; lock table keelson.$second in row exclusive mode;\n\\echo got\n");
	ok(wait_until(sub { $keelson->sql("select count(*) from pg_locks where relation = to_regclass('keelson.$second') and mode = 'RowExclusiveLock' and not granted") eq '1' }, 30),
		'while somebody waits to write to one of them');
	$operator->query_safe('commit');
	$operator->quit;
	$holder->query_until(qr/got/, '');
	is($applied, '1', 'is brought up');
	is($keelson->sql($indexes), $now, 'with the index');
	is($lacking, $over, 'but for the days that are over, each of which has to be read for it');
	$keelson->sql("select keelson.audit('regress.action')");
	ok(wait_until(sub { $keelson->sql("$days keelson._audit_ranges_index(p.name) is null") eq $second }, 30), 'the keeper gives it to those that nobody writes to');
	$holder->query_safe('commit');
	$holder->quit;
	$keelson->sql("select keelson.audit('regress.action')");
	ok(wait_until(sub { $keelson->sql(q{select indisvalid from pg_index where indexrelid = 'keelson.audit_events_id_era_xid_idx'::regclass}) eq 't' }, 30), 'and then to that');
	$keelson->sql("select count(keelson.audit('regress.action')) from generate_series(1, 20)");
	ok(settle(), 'what was written before and after is sealed');
	is($keelson->sql(q{select string_agg(finding, ' ') from keelson.audit_verify()}), '', 'and whole');
};

subtest 'into another cluster, with what is not sealed yet' => sub {
	# A transaction that is open keeps what comes after it from being sealed.
	my $open = $keelson->node->background_psql('keelson');
	$open->query_safe('begin; select pg_current_xact_id()');
	$keelson->sql("select count(keelson.audit('regress.action')) from generate_series(1, 20)");
	my @server = ('-h', $keelson->node->host, '-p', $keelson->node->port);
	PostgreSQL::Test::Utils::system_or_bail('pg_dump', @server, '-Fc', '-f', "$work/dump", 'keelson');
	$open->quit;
	my $other = KeelsonTest->new('moved', uninstalled => 1);
	$other->node->stop;
	PostgreSQL::Test::Utils::system_or_bail('cp', '-p', $keelson->{keyring}, $other->{keyring});
	$other->node->start;
	# A young cluster: its transaction ids are below those in the dump.
	PostgreSQL::Test::Utils::system_log('pg_restore', '-h', $other->node->host, '-p', $other->node->port, '-d', 'keelson', "$work/dump");
	ok(settle($other), 'all is sealed there');
	is($other->sql('select count(*) from keelson.eras'), '2', 'in an era of its own');
	$other->sql("select count(keelson.audit('regress.action')) from generate_series(1, 20)");
	ok(settle($other), 'what comes later too');
	is($other->sql(q{select string_agg(distinct finding, ' ') from keelson.audit_verify()}), '', 'and the trail is whole');
	is($other->sql('select count(*) = max(c.size) from keelson.audit_events, (select max(size) as size from keelson.audit_checkpoints) as c'), 't', 'no event is left out, none is there twice');
	$other->stop;
};

subtest 'retention without anybody doing it' => sub {
	# A day of long ago, and one that is younger.
	$keelson->sql(qq{
		select keelson.audit_partitions_make(0, '2020-03-01 12:00Z'), keelson.audit_partitions_make(0);
		insert into keelson.audit_events (user_id, id, era, xid, event_type, outcome, actor)
		select '$user->{id}', overlay(keelson._uuid7_floor(timestamptz '2020-03-01 00:00Z' + make_interval(secs => n))::text placing '7' from 15 for 1)::uuid,
			keelson._current_era(), pg_current_xact_id(), 'regress.action', 'success', 'system'
		from generate_series(1, 5000) as n});
	ok(settle(), 'sealed');
	# A checkpoint for every ten minutes of two hours of long ago.
	$keelson->sql(q{
		insert into keelson.audit_checkpoints (size, root, era, xid, event_id, created_at, signature)
		select -n + (select min(size) from keelson.audit_checkpoints), sha256(''), 1, '3', keelson.uuid7(), timestamptz '2020-03-01 12:00Z' - make_interval(mins => 10 * n), ''
		from generate_series(1, 12) as n where -n + (select min(size) from keelson.audit_checkpoints) > 0});
	$keelson->node->restart;
	ok(wait_until(sub { $keelson->sql(q{select to_regclass('keelson.audit_events_20200301') is null}) eq 't' }, 20), 'the keeper drops the day that is due');
	is($keelson->sql(q{select string_agg(finding || ' ' || split_part(detail, ':', 1), ', ') from keelson.audit_verify('2020-03-01 00:00Z', '2020-03-01 02:00Z')}),
		'expired 5000 events', 'which is no fault');
	is($keelson->sql(q{select count(*) from keelson.audit_checkpoints where created_at < '2020-03-02'}), 2, 'of old checkpoints the last of each hour stays');
	$keelson->sql(q{delete from keelson.audit_checkpoints where created_at < '2020-03-02'});
};

done_testing();
$keelson->stop;
