# Nobody is somebody else: identity, roles and rows, through HTTP and from inside an endpoint function.

use strict;
use warnings;

use KeelsonTest;
use MIME::Base64 qw(encode_base64url decode_base64url);
use Test::More;

my $keelson = KeelsonTest->new('unforgeable');
$keelson->product;
my $gateway = $keelson->gateway(KEELSON_LOOPS => 1, KEELSON_POOL => 1);
my ($ada, $eve) = map { $keelson->user($gateway) } 1 .. 2;

my $who = sub { return $gateway->get('/api/product/whoami', token => $_[0]{token}, headers => { 'User-Agent' => 'agent' })->{json}{data}; };
my $seen = $who->($ada);
is($seen->{userId}, $ada->{id}, 'the user of the token');
is($seen->{actor}, 'user', 'as a user');
is($seen->{role}, 'keelson_app', 'with the application\'s role');
is($seen->{ip}, '127.0.0.1', 'from where the connection comes');
is($seen->{userAgent}, 'agent', 'by this agent');
is($who->($eve)->{userId}, $eve->{id}, 'the next request on the same connection is another user\'s');
is($gateway->post('/api/product/whoami', {})->{json}{data}{userId}, undef, 'and then nobody\'s');

subtest 'from inside a function' => sub {
	for my $how (qw(set_config act_as role reset session dispatch discard token notes roles users passwords))
	{
		my $reply = $gateway->post('/api/product/forge', { how => $how, target => $eve->{id} }, token => $ada->{token});
		my $data = $reply->{json}{data} || {};
		is($data->{userId}, $ada->{id}, "$how: still oneself") or diag $reply->{content};
		is($data->{role}, 'keelson_app', "$how: with the same role");
		isnt($data->{actor}, 'went through', "$how: refused") unless $how =~ /^(set_config|reset)$/;
		is($gateway->post('/api/product/whoami', {})->{json}{data}{userId}, undef, "$how: nothing is left behind");
	}
	is($keelson->sql("select count(*) from product.notes where text = 'forged'"), 0, 'no row under another\'s name');
};

# A product's code may be hostile: operators before the server's own, domains and defaults that call functions.
$keelson->sql(q{
	create schema intruder;
	grant usage on schema intruder to public;
	create function intruder.equal(a text, b text) returns boolean language plpgsql as $$
	begin
		insert into keelson.user_roles (user_id, role) values (keelson.current_user_id(), 'owner') on conflict do nothing;
		return a operator(pg_catalog.=) b;
	end $$;
	create operator intruder.= (leftarg = text, rightarg = text, function = intruder.equal);
	create function intruder.climb() returns text language plpgsql as $$
	begin
		perform pg_catalog.set_config('search_path', 'intruder, pg_catalog', true);
		return keelson.has_permission('users.write')::text;
	end $$;
	comment on function intruder.climb() is 'Has the core compare by an operator of its own.';
	create function intruder.who(value text) returns text language plpgsql immutable as $$
	begin
		begin
			execute 'deallocate all';
			return current_user || ' deallocated';
		exception when insufficient_privilege or feature_not_supported then
			return current_user || ' ' || session_user || ' ' || pg_catalog.current_setting('search_path');
		end;
	end $$;
	create function intruder.note(value text) returns boolean language sql volatile
		begin atomic select pg_catalog.set_config('intruder.who', intruder.who(value), false) is not null; end;
	create domain intruder.trap as text check (intruder.note(value));
	create function intruder.lately() returns text language sql volatile begin atomic select intruder.who('x'); end;
	create function intruder.bite(x intruder.trap, later text default intruder.lately(), fixed text default intruder.who('x'))
	returns text[] language sql as $$ select array[pg_catalog.current_setting('intruder.who', true), later, fixed] $$;
	comment on function intruder.bite is 'Tells as whom its arguments were bound.';
	create function intruder.lock() returns boolean language sql as $$ select pg_catalog.pg_try_advisory_lock(4711) $$;
	comment on function intruder.lock is 'Leaves a lock of the session''s behind.';
	create function intruder.find(path jsonpath) returns boolean language sql as $$ select true $$;
	comment on function intruder.find is 'Takes what has a grammar of its own.';
	create function intruder.leave(statement text) returns text language plpgsql as $$
	begin
		execute statement;
		return 'went through';
	exception when others then
		return sqlstate;
	end $$;
	comment on function intruder.leave is 'Says something to the server that would outlive the request.';
	create table intruder.seen (state text);
	create table intruder.late (id int);
	create function intruder.postpone() returns trigger language plpgsql as $$
	begin
		insert into intruder.seen values (intruder.leave('set constraints all deferred'));
		return null;
	end $$;
	create constraint trigger late after insert on intruder.late deferrable initially deferred for each row execute function intruder.postpone();
	grant insert on all tables in schema intruder to keelson_app;
	create function intruder.defer() returns void language sql as $$ insert into intruder.late values (1) $$;
	comment on function intruder.defer is 'Leaves something to the end.';
	create function intruder.defer_early() returns text language plpgsql as $$
	begin
		insert into intruder.late values (2);
		create temporary table stays ();
		return 'left';
	end $$;
	create function intruder.refused(needed text, early text default intruder.defer_early()) returns void language sql as '';
	comment on function intruder.refused is 'Leaves something to the end before it is called, which it then is not.';
	select keelson.route('POST intruder/leave', 'intruder.leave', is_public => true);
	select keelson.route('POST intruder/defer', 'intruder.defer', is_public => true);
	select keelson.route('POST intruder/refused', 'intruder.refused', is_public => true);
	select keelson.route('POST intruder/find', 'intruder.find', is_public => true);
	select keelson.route('POST intruder/climb', 'intruder.climb');
	select keelson.route('POST intruder/bite', 'intruder.bite', is_public => true);
	select keelson.route('POST intruder/lock', 'intruder.lock', is_public => true);
});

subtest 'around a function' => sub {
	ok(wait_until(sub { return $gateway->post('/api/intruder/lock', {})->{status} == 200; }), 'the endpoints are there');
	ok(wait_until(sub { return $gateway->post('/api/intruder/climb', {}, token => $ada->{token})->{status} == 200; }), 'the endpoint is there');
	is_deeply($gateway->get('/api/auth/me', token => $ada->{token})->{json}{data}{roles}, ['user'], 'the core compares by the server\'s operators');
	my $bound = $gateway->post('/api/intruder/bite', { x => 'y' })->{json}{data};
	is_deeply($bound, [ ('keelson_app keelson_gateway pg_catalog, pg_temp') x 3 ], 'checks and defaults run as the route\'s role') or diag explain $bound;
	is($gateway->post('/api/intruder/leave', { statement => $_ })->{json}{data}, '42501', $_)
		for 'deallocate dispatch', 'prepare dispatch as select 1', 'discard plans', 'listen keelson_routes', 'unlisten *', "load 'keelson'",
		'declare later cursor with hold for select 1';
	is($gateway->post('/api/intruder/leave', { statement => 'declare now cursor for select 1' })->{json}{data}, 'went through', 'a cursor that ends with the request');
	is($gateway->post('/api/intruder/defer', {})->{status}, 204, 'a deferred trigger');
	is($keelson->sql('select state from intruder.seen'), '42501', 'defers nothing again');
	is($gateway->post('/api/intruder/refused', {})->{status}, 400, 'a deferred trigger of a call that is refused');
	is($keelson->sql('select state from intruder.seen'), "42501\n42501", 'is run as a part of it');
	is($keelson->sql("select count(*) from pg_class where relname = 'stays'"), 0, 'and temporary tables go with it');
	is($gateway->post('/api/intruder/find', { path => $_ })->{status}, 400, "$_: the client's fault") for '$ ? (', '$ ? (@ like_regex "a" flag "x")';
	is($gateway->post('/api/intruder/lock', {})->{json}{data}, JSON::PP::true, 'a lock of the session\'s');
	is($keelson->sql('select count(*) from pg_locks where locktype = \'advisory\' and objid = 4711'), 0, 'ends with the request');
};

# What is temporary is found before all else by whoever does not say otherwise.
$keelson->sql(q{
	create table intruder.caught (role text);
	grant insert on intruder.caught to public;
	create function intruder.plant() returns void language plpgsql as $plant$
	declare
		name text;
	begin
		for name in
			select t.typname from pg_type as t where t.typnamespace = 'pg_catalog'::regnamespace and t.typtype = 'b' and t.typname not like '\_%'
			union select c.relname from pg_class as c where c.relnamespace = 'keelson'::regnamespace and c.relkind in ('r', 'p', 'v')
		loop
			execute pg_catalog.format('create temporary table %I (x pg_catalog.int4)', name);
			if name in ('bytea', 'inet', 'jsonb', 'oid', 'text', 'timestamptz', 'uuid') then
				execute pg_catalog.format($make$
					create function pg_temp.spring(x pg_catalog.%1$I) returns pg_temp.%1$I language plpgsql as $body$
					begin
						insert into intruder.caught values (current_user);
						return null;
					end $body$;
					create cast (pg_catalog.%1$I as pg_temp.%1$I) with function pg_temp.spring(pg_catalog.%1$I) as implicit
				$make$, name);
			end if;
		end loop;
	end $plant$;
});

subtest 'an administrator\'s session' => sub {
	my ($status, $said, $messages) = $keelson->try_sql(q{
		begin;
		select keelson.act_as('} . $ada->{email} . q{') is null;
		select intruder.plant();
		commit;
		select keelson.is_migrated();
		select count(*) from keelson.migrate(anew => true);
		call keelson.job_run('expire-trials');
		select keelson.user_create('planted@example.com', 'a beam bolted to the keel') is null;
		select keelson.user_tier_set('planted@example.com', 'pro');
		select (keelson.jwks_document()).status;
		begin;
		select keelson.act_as('} . $ada->{email} . q{') is null;
		select keelson.permission_require('users.write');
	});
	is($said, join("\n", qw(f), '', qw(t 0 f t 200 f)), 'finds what is Keelson\'s');
	like($messages, qr/this needs the permission users.write/, 'to the end');
	is($keelson->sql('select count(*) from intruder.caught'), 0, 'and runs nothing of what a product\'s function has left in it');
};

subtest 'rows' => sub {
	$gateway->post('/api/product/notes', { text => 'of ada' }, token => $ada->{token});
	$gateway->post('/api/product/notes', { text => 'of eve' }, token => $eve->{token});
	for my $user ([ $ada, 'of ada' ], [ $eve, 'of eve' ])
	{
		my $names = join ',', map { $_->{name} } @{ $gateway->get('/api/product/notes', token => $user->[0]{token})->{json}{data} };
		is($names, $user->[1], 'each sees their own');
	}
};

subtest 'tokens' => sub {
	my ($head, $claims, $signature) = split /\./, $ada->{token};
	my $claim = sub {
		my (%change) = @_;
		return encode_base64url(json_encode({ %{ json_decode(decode_base64url($claims)) }, %change }));
	};
	my %forged = (
		'another user'          => join('.', $head, $claim->(sub => $eve->{id}), $signature),
		'a longer life'         => join('.', $head, $claim->(exp => time + 1e6), $signature),
		'no algorithm'          => join('.', encode_base64url('{"alg":"none","typ":"at+jwt"}'), $claims, ''),
		'no signature'          => join('.', $head, $claims, ''),
		'no signature at all'   => "$head.$claims",
		'another algorithm'     => join('.', encode_base64url('{"alg":"HS256","typ":"at+jwt"}'), $claims, $signature),
		'half a signature'      => join('.', $head, $claims, substr $signature, 0, 43),
		'zeroes as signature'   => join('.', $head, $claims, encode_base64url("\0" x 64)),
		'padding'               => "$ada->{token}=",
		'a space inside'        => join(' .', $head, $claims, $signature),
		'a fourth part'         => "$ada->{token}.x",
		'the refresh token'     => $ada->{refresh},
		'another\'s signature'  => join('.', $head, $claims, (split /\./, $eve->{token})[2]),
	);
	for my $name (sort keys %forged)
	{
		my $reply = $gateway->get('/api/product/whoami', token => $forged{$name});
		is("$reply->{status} " . ($reply->{json}{code} // ''), '401 UNAUTHENTICATED', $name);
	}
	is($gateway->get('/api/product/whoami', token => $ada->{token})->{status}, 200, 'the real one');
	is($gateway->request('GET', '/api/product/whoami', headers => { Authorization => "bearer $ada->{token}" })->{status}, 200, 'the scheme in any case');
	is($gateway->request('GET', '/api/product/whoami', headers => { Authorization => "Basic $ada->{token}" })->{status}, 401, 'another scheme');
	is($gateway->request('GET', "/api/product/whoami?access_token=$ada->{token}")->{status} =~ /^4/, 1, 'never in the address');
	$gateway->post('/api/auth/logout', {}, token => $ada->{token});
	is($gateway->get('/api/product/whoami', token => $ada->{token})->{status}, 401, 'after the logout: refused at once');
};

subtest 'headers do not say who one is' => sub {
	for my $name (qw(X-User-Id X-Forwarded-User X-Keelson-User Keelson-User-Id Remote-User))
	{
		is($gateway->post('/api/product/whoami', {}, headers => { $name => $eve->{id} })->{json}{data}{userId}, undef, $name);
	}
	is($gateway->get('/api/product/whoami', token => $eve->{token}, headers => { 'X-Forwarded-For' => '10.1.2.3' })->{json}{data}{ip},
		'127.0.0.1', 'X-Forwarded-For from just anybody');
};

subtest 'the gateway\'s role' => sub {
	my $refused = sub {
		my ($sql, $name) = @_;
		local $ENV{PGPASSWORD} = $keelson->{password};
		my ($status, undef, $messages) = $keelson->try_sql($sql, role => 'keelson_gateway');
		ok($status != 0 && $messages =~ /permission denied|must be|cannot|not/i, $name || $sql) or diag $messages;
	};
	$refused->($_) for 'select * from keelson.users', 'select * from keelson.sessions', 'select * from keelson.routes',
		'set role keelson_app', 'set role keelson_owner', 'set role keelson_system', "select keelson.act_as('$eve->{id}')",
		"select keelson.seal('x', row(null, null, null))", "select keelson.jwt_sign('{}', 'at+jwt')", 'create table public.t (a int)', 'create table keelson.t (a int)',
		'begin; select keelson.migrate()', 'select keelson.raise(400, \'X\', \'x\')', 'load \'keelson\'', 'alter role keelson_gateway superuser',
		"set keelson.public_url = 'https://evil.example.com'", "set keelson.database = 'x'";
	my ($status) = $keelson->try_sql('select 1', role => 'keelson_gateway');
	isnt($status, 0, 'and it needs its password');
};

subtest 'settings' => sub {
	my $settings = $keelson->sql("select name || '=' || quote_literal(setting) from pg_settings where name like 'keelson.%' order by 1");
	for my $setting (split /\n/, $settings)
	{
		my ($name, $value) = split /=/, $setting, 2;
		my ($status) = $keelson->try_sql("set $name = $value");
		isnt($status, 0, "$name cannot be set in a session");
		($status) = $keelson->try_sql("alter role keelson_app set $name = $value");
		isnt($status, 0, "$name cannot be set for a role");
	}
	cmp_ok(scalar(split /\n/, $settings), '>', 5, 'there are settings');
	my ($status) = $keelson->try_sql("set keelson.user_id = 'x'");
	isnt($status, 0, 'nobody adds one');
};

done_testing();
$keelson->stop;
