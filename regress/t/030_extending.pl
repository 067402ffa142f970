# Extending: a function and a route by SQL, served within a second; what is refused; the kinds of routes; timeouts.

use strict;
use warnings;

use IO::Select;
use KeelsonTest;
use Test::More;
use Time::HiRes qw(time);

my $keelson = KeelsonTest->new('extending');
my $gateway = $keelson->gateway;
my $user;

# Asks until it answers with the status, for a second and a half at most.
sub soon
{
	my ($method, $path, $status, %options) = @_;
	my $reply;
	wait_until(sub { $reply = $gateway->request($method, $path, %options); $reply->{status} == $status }, 1.5);
	return $reply;
}

subtest 'a route by SQL' => sub {
	is($gateway->get('/api/hello/Ada')->{status}, 404, 'not there at first');
	$keelson->sql(q{
		create schema shop;
		grant usage on schema shop to keelson_app;
		create type shop.greeting as (greeting text, made_at timestamptz);
		create function shop.hello(name text) returns shop.greeting language plpgsql as $$
		begin
			return row('Hello, ' || name, now())::shop.greeting;
		end; $$;
		comment on function shop.hello(text) is 'Greets.';
		select keelson.route('GET /hello/:name', 'shop.hello', is_public => true);
	});
	my $reply = soon('GET', '/api/hello/Ada', 200);
	is($reply->{json}{data}{greeting}, 'Hello, Ada', 'there within a second');
	like($reply->{json}{data}{madeAt}, qr/^\d{4}-\d\d-\d\dT.*Z$/, 'with camelCase names and UTC times');
	$keelson->sql(q{create or replace function shop.hello(name text) returns shop.greeting language plpgsql as $$
		begin
			return row('Good day, ' || name, now())::shop.greeting;
		end; $$});
	is($gateway->get('/api/hello/Ada')->{json}{data}{greeting}, 'Good day, Ada', 'a new body holds at once');
	$keelson->sql(q{select keelson.route('GET hello/:name', 'shop.hello', is_public => false)});
	is(soon('GET', '/api/hello/Ada', 401)->{status}, 401, 'a change of the route within a second');
	$keelson->sql(q{select keelson.route_override('GET hello/:name', is_enabled => false)});
	is(soon('GET', '/api/hello/Ada', 404)->{status}, 404, 'an operator may switch it off');
	$keelson->sql(q{select keelson.route_override('GET hello/:name', is_enabled => true); select keelson.route('GET hello/:name', 'shop.hello', is_public => true)});
	is(soon('GET', '/api/hello/Ada', 200)->{status}, 200, 'and on');
	$keelson->sql('drop function shop.hello(text)');
	my $gone = $gateway->get('/api/hello/Ada');
	ok($gone->{status} >= 500, 'a dropped function is a fault inside') or diag $gone->{content};
	unlike($gone->{content}, qr/shop/, 'that tells nothing');
	$keelson->sql(q{select keelson.route_remove('GET hello/:name')});
	is(soon('GET', '/api/hello/Ada', 404)->{status}, 404, 'taken away within a second');
};

subtest 'routes that are refused' => sub {
	$keelson->sql(q{
		create function shop.mute(name text) returns text language plpgsql as 'begin return name; end';
		create function shop.told(name text) returns text language plpgsql as 'begin return name; end';
		comment on function shop.told(text) is 'Tells.';
		create function shop.anonymous(text) returns text language plpgsql as 'begin return $1; end';
		comment on function shop.anonymous(text) is 'Tells.';
		create function shop.twice(a int) returns int language plpgsql as 'begin return a; end';
		create function shop.twice(a text) returns text language plpgsql as 'begin return a; end';
		create role regress_super superuser; create role regress_bypass bypassrls; create role regress_own; create role regress_member in role keelson_owner;
		grant usage on schema shop to regress_own;
	});
	my %bad = (
		q{'GET a', 'shop.none'}                                   => qr/does not exist/,
		q{'GET a', 'shop.mute'}                                   => qr/comment/,
		q{'GET a/:id', 'shop.told'}                               => qr/parameter|argument/,
		q{'GET a', 'shop.anonymous'}                              => qr/name/,
		q{'GET a', 'shop.twice'}                                  => qr/more than once/,
		q{'BREW a', 'shop.told'}                                  => qr/method|BREW/,
		q{'GET a b', 'shop.told'}                                 => qr/./,
		q{'GET ../a', 'shop.told'}                                => qr/./,
		q{'GET a', 'shop.told', role => 'none'}                   => qr/does not exist/,
		q{'GET a', 'shop.told', permission => 'no.such'}          => qr/permission/,
		q{'GET a', 'shop.told', rate_class => 'none'}             => qr/rate_class/,
		q{'GET a', 'shop.told', pool => 'none'}                   => qr/pool/,
		q{'GET a', 'shop.told', timeout => '-1 second'}           => qr/timeout/,
		q{'GET a', 'shop.told', body_limit => 20000000}           => qr/body_limit/,
		q{'GET auth/me', 'shop.told'}                             => qr/endpoint of/,
		(map { ("'GET a', 'shop.told', role => '$_'" => qr/may not run as/) }
			qw(keelson_owner keelson_system keelson_admin keelson_jobs keelson_gateway regress_super regress_bypass regress_member),
			scalar getpwuid($>)),
	);
	for my $arguments (sort keys %bad)
	{
		my ($status, undef, $messages) = $keelson->try_sql("select keelson.route($arguments)");
		ok($status != 0 && $messages =~ $bad{$arguments}, $arguments) or diag $messages;
	}
	is((($keelson->try_sql(q{select keelson.route('GET a', 'shop.told', role => 'regress_own')}))[0]), 0, 'a role of the product\'s own is fine');
	isnt((($keelson->try_sql(q{select keelson.route('GET b', 'shop.told')}, role => 'regress_own'))[0]), 0, 'who is no administrator registers nothing');
	is($keelson->sql('select count(*) from keelson.routes where not is_public and owner = \'shop\''), 1, 'nothing else came in');
};

$keelson->product;
$user = $keelson->user($gateway);
soon('GET', '/api/product/items/first', 200);

# Asks for so many rows, and does not read them: a connection that takes little at a time and ends with the reply.
sub export
{
	my ($count, $version) = (@_, '1.1');
	my $socket = $gateway->connect;
	setsockopt $socket, Socket::SOL_SOCKET(), Socket::SO_RCVBUF(), 4096;
	syswrite $socket, "GET /api/product/export?count=$count HTTP/$version\r\nHost: a\r\nConnection: close\r\n\r\n";
	return $socket;
}

subtest 'kind rows' => sub {
	my $reply = $gateway->get('/api/product/export?count=5000', headers => { 'Accept-Encoding' => 'identity' });
	is($reply->{status}, 200, 'a long reply');
	my @rows = $reply->{content} =~ /row (\d+)"/g;
	is(@rows, 5000, 'all rows');
	is_deeply([ @rows[ 0, 4999 ] ], [ 1, 5000 ], 'in order');
	like($reply->{headers}{'transfer-encoding'} // '', qr/chunked/, 'in chunks');
	my $memory  = sub { return slurp('/proc/' . $gateway->pid . '/status') =~ /^VmRSS:\s+(\d+)/m ? $1 : 0 };
	my $waiting = sub { return wait_until(sub { $keelson->sql("select count(*) from pg_stat_activity where usename = 'keelson_gateway' and wait_event = 'ClientWrite'") }, 30) };
	my $before  = $memory->();
	my $socket  = export(150_000);
	ok($waiting->(), 'the rows wait in the database while their reader is slow');
	is(scalar(grep { $gateway->get('/api/product/items/first')->{status} == 200 } 1 .. 20), 20, 'others are served meanwhile');
	cmp_ok($memory->() - $before, '<', 40_000, 'the gateway does not hold them');
	setsockopt $socket, Socket::SOL_SOCKET(), Socket::SO_RCVBUF(), 1 << 20;
	my $content = KeelsonTest::Gateway::read_all($socket, 60);
	$content =~ s{\r\n[0-9a-f]+\r\n}{}gi;
	is(scalar(() = $content =~ /row \d+"/g), 150_000, 'all come when they are read');
	$socket = export(2_000_000);
	ok($waiting->(), 'another reader');
	close $socket;
	ok(wait_until(sub { $keelson->sql("select count(*) from pg_stat_activity where usename = 'keelson_gateway' and state = 'active'") == 0 }, 20),
		'who leaves ends the call');
	is($gateway->get('/api/product/export?count=0')->{status}, 200, 'no rows');
	like($gateway->raw("HEAD /api/product/export?count=$_ HTTP/1.1\r\nHost: a\r\n\r\n", 5), qr{\AHTTP/1\.1 200 (?:(?!\r\n\r\n).)*\r\n\r\n\z}s, "HEAD: nothing of $_ rows")
		for 0, 5000;
	is($gateway->get('/api/product/export?count=x')->{status}, 400, 'bad arguments are an ordinary error');
};

subtest 'rows that break off' => sub {
	my $active = "usename = 'keelson_gateway' and state = 'active'";
	my $blocked = "$active and wait_event = 'ClientWrite'";
	my $break = sub {
		my ($socket) = @_;
		ok(wait_until(sub { $keelson->sql("select count(*) from pg_stat_activity where $blocked") == 1 }, 30), 'some are sent, others wait');
		$keelson->sql("select pg_terminate_backend(pid) from pg_stat_activity where $blocked");
		return $socket;
	};
	my $socket = $break->(export(200_000));
	setsockopt $socket, Socket::SOL_SOCKET(), Socket::SO_RCVBUF(), 1 << 20;
	my ($content, $is_closed) = KeelsonTest::Gateway::read_all($socket, 60);
	ok($is_closed, 'their connection is lost: so is the client\'s');
	ok($content !~ /\r\n0\r\n\r\n\z/, 'not as if it had all');
	$content =~ s{\r\n[0-9a-f]+\r\n}{}gi;
	is(scalar(() = $content =~ /row 1"/g), 1, 'they are not sent again behind those that are out');
	$socket = $break->(export(200_000, '1.0'));
	setsockopt $socket, Socket::SOL_SOCKET(), Socket::SO_RCVBUF(), 1 << 20;
	1 while sysread $socket, $content, 65536;
	ok($!{ECONNRESET}, 'where the end of the connection is that of a reply: it is reset');
	# One large row, which the reader does not take, and behind it small ones, that have come with it.
	$keelson->sql(q{
		create function product.lump(size int) returns setof product.item language plpgsql as $$
		begin
			return next row(null, repeat('x', size))::product.item;
			return query select null::uuid, 'small' from generate_series(1, 20);
		end $$;
		comment on function product.lump(int) is 'Sends a large row.';
		select keelson.route('GET product/lump', 'product.lump', is_public => true, kind => 'rows')});
	soon('GET', '/api/product/lump?size=1', 200);
	for my $size (6_000_000, 9_000_000)
	{
		$socket = $gateway->connect;
		setsockopt $socket, Socket::SOL_SOCKET(), Socket::SO_RCVBUF(), 4096;
		syswrite $socket, "GET /api/product/lump?size=$size HTTP/1.1\r\nHost: a\r\n\r\n";
		sysread $socket, my $begin, 1000;
		like($begin, qr{^HTTP/1\.1 200}, "a row of $size bytes");
		ok(wait_until(sub { $keelson->sql("select count(*) from pg_stat_activity where $active") == 0 }, 20), 'the database has sent all');
		close $socket;
		ok(wait_until(sub { $gateway->get('/metrics', fresh => 1)->{content} =~ /^keelson_gateway_streams 0$/m }, 20), 'its reader leaves');
	}
	ok($gateway->running, 'and the gateway goes on');
};

# Watches a path: gives the connection, and a function that waits until all that has come matches a pattern; it then gives that.
sub watch
{
	my ($path, @headers) = @_;
	my $socket = $gateway->connect;
	syswrite $socket, join "\r\n", "GET $path HTTP/1.1", 'Host: a', 'Accept: text/event-stream', @headers, '', '';
	my $select = IO::Select->new($socket);
	my $all = '';
	return ($socket, sub {
		my ($pattern, $seconds) = @_;
		wait_until(sub { $select->can_read(0) && sysread($socket, $all, 65536, length $all); $all =~ $pattern }, $seconds || 8);
		return $all;
	});
}

subtest 'kind watch' => sub {
	my ($socket, $see) = watch('/api/product/tick');
	my $all = $see->(qr/tick 0/);
	like($all, qr/tick 0/, 'the state at once');
	like($all, qr{^HTTP/1\.1 200}, 'with success');
	like($all, qr{Content-Type: text/event-stream}i, 'as an event stream');
	$keelson->sql('update product.clock set now = 1');
	like($all = $see->(qr/tick 1/), qr/tick 1/, 'a change within a few seconds');
	my $ticks = () = $all =~ /tick 1/g;
	is($ticks, 1, 'once');
	is($gateway->get('/api/product/items/first')->{status}, 200, 'others are served meanwhile');
	close $socket;
};

subtest 'a watch that goes on, and its end' => sub {
	my ($quiet, $hear) = watch('/api/product/tick');
	my $reader = $keelson->user($gateway);
	my ($socket, $see) = watch('/api/user/usage/stream', "Authorization: Bearer $reader->{token}");
	like($see->(qr/^data: /m), qr/^id: 1\ndata: \{/m, 'the first event');
	like($hear->(qr/tick 1/), qr/^id: 1\ndata: /m, 'of both');
	$keelson->sql(q{select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'keelson_gateway'});
	$keelson->sql('update product.clock set now = 2');
	like($hear->(qr/tick 2/), qr/^id: 2\ndata: .*tick 2/m, 'sessions of the database that end do not end it');
	$keelson->sql('alter table product.clock rename column now to later');
	is($gateway->post('/api/auth/logout', {}, token => $reader->{token})->{status}, 200, 'the session ends');
	my $end = $see->(qr/\n0\r\n\r\n/);
	like($end, qr/^event: error\ndata: \{.*"code":"[A-Z_]+"/m, 'who may not see it any more is told');
	like($end, qr/\n0\r\n\r\n\z/, 'and it ends');
	like($hear->(qr/^:\n\n/m, 30), qr/^:\n\n/m, 'a sign of life, though nothing has changed, and the function fails');
	$keelson->sql('alter table product.clock rename column later to now');
	$keelson->sql('update product.clock set now = 3');
	like($hear->(qr/tick 3/), qr/^id: 3\ndata: .*tick 3/m, 'it is well again when the function is');
	my $tick = $keelson->sql(q{select pg_get_functiondef('product.tick()'::regprocedure)});
	$keelson->sql(q{create or replace function product.tick() returns product.item language plpgsql as $$
		begin perform keelson.raise(409, 'CLOCK_SOLD', 'the clock is sold', field => 'clock_name'); end $$});
	like($hear->(qr/\n0\r\n\r\n/),
		qr/^event: error\ndata: \{"error":"The clock is sold","code":"CLOCK_SOLD","details":\[\{"field":"clockName",[^\n]*\}\]\}\n\n\r\n0\r\n\r\n\z/m,
		'an error that the function raises ends it, too, and is told');
	$keelson->sql($tick);
	($quiet) = watch('/api/product/tick');
	close $quiet;
	close $socket;
	ok(wait_until(sub { $gateway->get('/metrics')->{content} =~ /^keelson_gateway_streams 0$/m }, 8), 'those who have left are let go');
};

subtest 'a watch of several lines' => sub {
	$keelson->sql(q{
		create function product.lines() returns json language plpgsql as $$
		begin
			return E'{"a":1,\n"b":2,\r"c":3,\r\n"d":4}'::json;
		end $$;
		comment on function product.lines() is 'Tells several lines.';
		select keelson.route('GET product/lines', 'product.lines', is_public => true, kind => 'watch')});
	soon('HEAD', '/api/product/lines', 200);
	my ($socket, $see) = watch('/api/product/lines');
	like($see->(qr/\n\n/), qr/^data: \{"a":1,\ndata: "b":2,\ndata: "c":3,\ndata: "d":4\}\n\n/m, 'each stands in the data, whatever ends it');
	close $socket;
};

subtest 'timeouts' => sub {
	my $hurried = { text => 'hurried', seconds => 30 };
	my $started = time();
	my $reply = $gateway->post('/api/product/notes/hurried', $hurried, token => $user->{token});
	is("$reply->{status} " . ($reply->{json}{code} // ''), '504 TIMEOUT', 'too long') or diag $reply->{content};
	cmp_ok(time() - $started, '<', 5 * $KeelsonTest::slow, 'is told soon');
	is($keelson->sql("select count(*) from product.notes where text = 'hurried'"), 0, 'and undone');
	ok(wait_until(sub { $keelson->sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'") == 0 }, 5), 'the call has ended in the database');
	is($gateway->get('/api/product/items/first')->{status}, 200, 'the next is served');
};

subtest 'deprecation' => sub {
	$keelson->sql(q{select keelson.route('GET product/items/first', 'product.item_first', is_public => true,
		deprecated_at => '2025-01-01 00:00Z', sunset_at => '2035-01-01 00:00Z')});
	my $reply;
	wait_until(sub { $reply = $gateway->get('/api/product/items/first'); $reply->{headers}{deprecation} }, 2);
	is($reply->{headers}{deprecation}, '@1735689600', 'Deprecation');
	is($reply->{headers}{sunset}, 'Mon, 01 Jan 2035 00:00:00 GMT', 'Sunset');
};

subtest 'versions' => sub {
	$keelson->sql(q{
		create function shop.second() returns text language plpgsql as $$ begin return 'second'; end $$;
		comment on function shop.second() is 'The second version.';
		create function shop.third() returns text language plpgsql as $$ begin return 'first'; end $$;
		comment on function shop.third() is 'The first version.';
		select keelson.route('GET versioned', 'shop.third', is_public => true);
		select keelson.route('GET versioned', 'shop.second', is_public => true, version => 'v2');
	});
	soon('GET', '/api/v2/versioned', 200);
	is($gateway->get('/api/v1/versioned')->{json}{data}, 'first', 'the first');
	is($gateway->get('/api/v2/versioned')->{json}{data}, 'second', 'the second');
	is($gateway->get('/api/versioned')->{json}{data}, 'second', 'without a version: the newest');
};

done_testing();
$keelson->stop;
