# Installing by hand, dumping and restoring, taking the extension away and bringing it back.

use strict;
use warnings;

use KeelsonTest;
use PostgreSQL::Test::Utils ();
use Test::More;

# What the keeper would do in its time, so that it changes nothing meanwhile.
sub settle
{
	my ($keelson) = @_;
	my $is_settled = q{select keelson.audit_seal() = 0
		and (select tail_from = (now() at time zone 'UTC')::date and next_from is null from keelson.usage_watermark)};
	ok(wait_until(sub { $keelson->sql($is_settled) eq 't' }, 90), 'the keeper has nothing left to do');
	return;
}

# Everything that is in the tables, as text that can be compared: names and rows, without what belongs to a cluster.
sub all_rows
{
	my ($keelson) = @_;
	settle($keelson);
	my $tables = $keelson->sql("select c.oid::regclass from pg_class as c where c.relnamespace in ('keelson'::regnamespace, 'product'::regnamespace)
		and c.relkind in ('r', 'p') and not c.relispartition and c.relname not in ('migrations', 'installation', 'eras', 'courier_fence') order by 1");
	return join "\n", map { "$_: " . $keelson->sql("select coalesce(string_agg(t::text, chr(10) order by t::text), '') from $_ as t") } split /\n/, $tables;
}

# The objects of the schema: functions, types, tables with columns and rights, policies, triggers.
sub all_objects
{
	my ($keelson) = @_;
	return $keelson->sql(q{
		select * from (
			select 'function ' || p.oid::regprocedure || ' ' || p.proowner::regrole || ' ' || coalesce(p.proacl::text, '') || md5(coalesce(p.prosrc, '')) from pg_proc as p where p.pronamespace = 'keelson'::regnamespace
			union all select 'column ' || a.attrelid::regclass || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || coalesce(a.attacl::text, '')
				from pg_attribute as a join pg_class as c on c.oid = a.attrelid where c.relnamespace = 'keelson'::regnamespace and a.attnum > 0 and not a.attisdropped
			union all select 'relation ' || c.oid::regclass || ' ' || c.relowner::regrole || ' ' || coalesce(c.relacl::text, '') || c.relrowsecurity || c.relforcerowsecurity
				from pg_class as c where c.relnamespace = 'keelson'::regnamespace and c.relkind in ('r', 'p', 'v')
			union all select 'default ' || d.adrelid::regclass || ' ' || d.adnum || ' ' || pg_get_expr(d.adbin, d.adrelid) from pg_attrdef as d join pg_class as c on c.oid = d.adrelid where c.relnamespace = 'keelson'::regnamespace
			union all select 'constraint ' || c.conname || ' ' || pg_get_constraintdef(c.oid, true) from pg_constraint as c where c.connamespace = 'keelson'::regnamespace
			union all select 'index ' || pg_get_indexdef(i.indexrelid) from pg_index as i join pg_class as c on c.oid = i.indrelid where c.relnamespace = 'keelson'::regnamespace
			union all select 'policy ' || p.polrelid::regclass || ' ' || p.polname || p.polcmd::text || coalesce(pg_get_expr(p.polqual, p.polrelid), '') || coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '') from pg_policy as p
				join pg_class as c on c.oid = p.polrelid where c.relnamespace = 'keelson'::regnamespace
			union all select 'trigger ' || pg_get_triggerdef(t.oid) from pg_trigger as t join pg_class as c on c.oid = t.tgrelid where c.relnamespace = 'keelson'::regnamespace and not t.tgisinternal
		) as objects (line) order by line collate "C"});
}

# Compares texts by line and shows the lines that one of them lacks.
sub same_lines
{
	my ($got, $expected, $name) = @_;
	my %count;
	$count{$_}++ for split /\n/, $got;
	$count{$_}-- for split /\n/, $expected;
	my @differ = map { ($count{$_} > 0 ? '+ ' : '- ') . $_ } grep { $count{$_} } sort keys %count;
	return ok(!@differ, $name) || diag(join "\n", splice @differ, 0, 40);
}

my $keelson = KeelsonTest->new('install', uninstalled => 1);

subtest 'by hand' => sub {
	$keelson->sql('create extension keelson cascade');
	isnt(($keelson->try_sql(q{select keelson.openapi()}))[0], 0, 'before migrate() nothing works');
	$keelson->sql('select keelson.migrate()');
	$keelson->sql("alter role keelson_gateway password '$keelson->{password}'");
	my $objects = all_objects($keelson);
	my $routes = $keelson->sql('select string_agg(r::text, chr(10) order by id) from keelson.routes as r');
	$keelson->sql("select keelson.migrate(anew => $_)") for qw(false true);
	same_lines(all_objects($keelson), $objects, 'migrate() again changes nothing');
	is($keelson->sql('select string_agg(r::text, chr(10) order by id) from keelson.routes as r'), $routes, 'in the routes neither');
};

$keelson->product;
my $gateway = $keelson->gateway;
my $user = $keelson->user($gateway);
$gateway->post('/api/product/notes', { text => "a note $_" }, token => $user->{token}, headers => { 'Idempotency-Key' => "key $_" }) for 1 .. 3;
$keelson->sql("select keelson.role_grant('$user->{email}', 'admin')");

# What works on with the rows of before: sessions, passwords, keys, roles, replies that were kept.
sub works_on
{
	my ($target, $name) = @_;
	is($target->get('/api/auth/me', token => $user->{token})->{status}, 200, "$name: the session goes on");
	my $login = $target->post('/api/auth/login', { email => $user->{email}, password => $user->{password} });
	is($login->{status}, 200, "$name: the password holds") or diag $login->{content};
	is($target->post('/api/auth/login', { email => $user->{email}, password => 'wrong horse battery' })->{status}, 401, "$name: and no other");
	is($target->get('/api/product/administer', token => $user->{token})->{status}, 204, "$name: roles are there");
	is(@{ $target->get('/api/product/notes', token => $user->{token})->{json}{data} }, 3, "$name: the product's rows are there");
	my $replayed = $target->post('/api/product/notes', { text => 'a note 1' }, token => $user->{token}, headers => { 'Idempotency-Key' => 'key 1' });
	is($replayed->{headers}{'idempotency-replayed'}, 'true', "$name: sealed replies open");
	my $fresh = $target->post('/api/auth/register', { email => "new-$name\@example.com", password => 'a new one of good length' });
	is($fresh->{status}, 201, "$name: somebody new can come") or diag $fresh->{content};
	return;
}

subtest 'dropped and made anew' => sub {
	my ($objects, $rows) = (all_objects($keelson), all_rows($keelson));
	my $public = $keelson->sql("select count(*) from keelson.users");
	$keelson->sql('drop extension keelson cascade');
	is($keelson->sql('select count(*) from keelson.users'), $public, 'no row goes with it');
	$keelson->sql('set role keelson_owner; select count(*) from keelson.users') eq '0' or fail('without policies nobody sees rows');
	ok(wait_until(sub { $gateway->get('/ready')->{status} == 503 }, 10), 'meanwhile the gateway is not ready');
	like($gateway->get('/api/auth/me', token => $user->{token})->{status}, qr/^5/, 'and serves nothing');
	$keelson->sql('create extension keelson cascade');
	is($keelson->sql('select keelson.is_migrated()'), 'f', 'created, it is known to lack what was dropped');
	$keelson->sql('select keelson.migrate()');
	# The product's policies and defaults that used functions of the extension went with it: they are the product's to bring back.
	$keelson->sql('create policy own on product.notes using (user_id = keelson.current_user_id()) with check (user_id = keelson.current_user_id());
		alter table product.notes alter id set default keelson.uuid7()');
	# Days that are over get their index of ranges when the keeper is next to seal.
	ok(wait_until(sub {
		$keelson->sql(q{select keelson._audit_ranges_catch_up(); select indisvalid from pg_index where indexrelid = 'keelson.audit_events_id_era_xid_idx'::regclass}) =~ /t$/
	}), 'days that are over get their index later');
	# What the product had registered is in the table of routes still; its own functions were never the extension's.
	same_lines(all_objects($keelson), $objects, 'the same objects');
	same_lines(all_rows($keelson), $rows, 'the same rows');
	ok(wait_until(sub { $gateway->get('/ready')->{status} == 200 }, 10), 'ready again');
	works_on($gateway, 'anew');
};

subtest 'dumped and restored' => sub {
	my $dump = $keelson->node->basedir . '/dump';
	my $globals = $keelson->node->basedir . '/globals.sql';
	my @server = ('-h', $keelson->node->host, '-p', $keelson->node->port);
	PostgreSQL::Test::Utils::system_or_bail('pg_dumpall', @server, '--roles-only', '-f', $globals);
	settle($keelson);
	PostgreSQL::Test::Utils::system_or_bail('pg_dump', @server, '-Fc', '-f', $dump, 'keelson');
	my $other = KeelsonTest->new('restored', uninstalled => 1);
	# The keyring is no part of a dump: it is kept apart and goes along by hand.
	$other->node->stop;
	PostgreSQL::Test::Utils::system_or_bail('cp', '-p', $keelson->{keyring}, $other->{keyring});
	$other->node->start;
	$other->{password} = $keelson->{password};
	# The bootstrap superuser is in every cluster already.
	PostgreSQL::Test::Utils::system_log('psql', '-X', '-q', '-h', $other->node->host, '-p', $other->node->port, '-d', 'postgres', '-f', $globals);
	PostgreSQL::Test::Utils::system_or_bail('pg_restore', '-h', $other->node->host, '-p', $other->node->port, '-d', 'keelson', '--exit-on-error', $dump);
	same_lines(all_rows($other), all_rows($keelson), 'the same rows');
	same_lines(all_objects($other), all_objects($keelson), 'the same objects');
	$other->migrate;
	same_lines(all_objects($other), all_objects($keelson), 'migrate() there has nothing to do');
	my $there = $other->gateway;
	works_on($there, 'restored');
	$other->stop;
};

subtest 'a wrong keyring' => sub {
	$keelson->node->stop;
	rename $keelson->{keyring}, "$keelson->{keyring}.right";
	KeelsonTest::write_keyring($keelson->{keyring});
	$keelson->node->start;
	ok(wait_until(sub { $gateway->get('/ready')->{status} == 503 }, 10), 'is not served with');
	ok(wait_until(sub { $gateway->get('/ready')->{content} =~ /key/i }, 10), 'and says which key is needed')
		or diag $gateway->get('/ready')->{content};
	like($gateway->get('/api/auth/me', token => $user->{token})->{status}, qr/^5/, 'no request passes');
	unlink $keelson->{keyring};
	rename "$keelson->{keyring}.right", $keelson->{keyring};
	$keelson->node->reload;
	ok(wait_until(sub { $gateway->get('/ready')->{status} == 200 }, 10), 'the right one holds after a reload');
	is($gateway->get('/api/auth/me', token => $user->{token})->{status}, 200, 'without a restart');
};

$keelson->stop;

subtest 'another migration' => sub {
	my $source = "$KeelsonTest::root/extension/keelson";
	my ($capability) = map { m{([^/]+)/tables\.sql$} } glob "$source/*/tables.sql";
	my $folder = PostgreSQL::Test::Utils::tempdir();
	my $count = () = KeelsonTest::slurp("$source/$capability/tables.sql") =~ /^-- migration \d+:/mg;
	my $added = '-- migration ' . ($count + 1) . ": one more\n\nselect 1;\n";
	mkdir "$folder/$_" for 'core', $capability;
	for my $file ('core/finish.sql', "$capability/tables.sql")
	{
		open my $copy, '>', "$folder/$file" or die "$folder/$file: $!";
		print $copy KeelsonTest::slurp("$source/$file");
	}
	my $build = sub { return scalar `cd '$folder' && '$source/build-install-script' '$capability'`; };
	my $section = qr{'tables', $count, (.*?)\x24keelson\x24\)(?:,|\n\x24source)}s;
	my ($before) = $build->() =~ $section;
	open my $more, '>>', "$folder/$capability/tables.sql" or die $!;
	print $more "\n$added";
	close $more;
	my ($after) = $build->() =~ $section;
	ok(length $before > 20, 'the install script holds the text of a migration');
	is($after, $before, 'which is the same when another one has been added behind it');
};

subtest 'without shared_preload_libraries' => sub {
	my $bare = KeelsonTest->new('unloaded', uninstalled => 1, preload => '');
	my ($status, undef, $messages) = $bare->try_sql('create extension keelson cascade; select keelson.migrate()');
	isnt($status, 0, 'it does not go');
	like($messages, qr/shared_preload_libraries/, 'and says what to set');
	$bare->node->stop;
};

subtest 'in another database' => sub {
	my $elsewhere = KeelsonTest->new('elsewhere');
	$elsewhere->sql('create database other', database => 'postgres');
	my ($status, undef, $messages) = $elsewhere->try_sql('create extension keelson cascade; select keelson.migrate()', database => 'other');
	isnt($status, 0, 'it refuses');
	like($messages, qr/keelson\.database/, 'and names the setting');
	$elsewhere->stop;
};

done_testing();
