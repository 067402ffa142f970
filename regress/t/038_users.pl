# Users over HTTP: address, picture, by id, roles, administration; what random input does and does not do.

use strict;
use warnings;

use KeelsonTest;
use MIME::Base64 qw(decode_base64);
use POSIX ();
use Test::More;

my $keelson = KeelsonTest->new('users');
my $gateway = $keelson->gateway;
my $seed = $ENV{KEELSON_TEST_SEED} || time;
srand $seed;
note "KEELSON_TEST_SEED=$seed";

sub code { return $_[0]{json}{code} // '' }
sub data { return $_[0]{json}{data} }
sub fields { return join ' ', sort map { $_->{field} } @{ $_[0]{json}{details} || [] } }
sub login { my ($email, $password) = @_; return $gateway->post('/api/auth/login', { email => $email, password => $password }); }

# A user with these roles.
sub staff
{
	my (@roles) = @_;
	my $user = $keelson->user($gateway);
	$keelson->sql("select keelson.role_grant('$user->{id}', '$_')") for @roles;
	return $user;
}

# Everything that is stored of users, as one value.
sub state_of_users
{
	return $keelson->sql(q{select md5(string_agg(t.line, e'\n' order by t.line)) from (
		select 'u' || u::text as line from keelson.users as u
		union all select 'e' || e::text from keelson.user_emails as e
		union all select 'r' || r::text from keelson.user_roles as r
		union all select 'p' || p::text from keelson.role_permissions as p
		union all select 'a' || a.user_id || md5(a.image) from keelson.avatars as a
		union all select 'w' || w::text from keelson.passwords as w
		union all select 'b' || b::text from keelson.bulk_operations as b) as t});
}

my $png = decode_base64('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==');
my $webp = decode_base64('UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==');
my $jpeg = "\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xc0\x00\x0b\x08\x00\x02\x00\x03\x01\x01\x11\x00"
	. "\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x12\x34\xff\x00\x56\xff\xd9";

subtest 'a new address' => sub {
	my $user = $keelson->user($gateway);
	my $other = $keelson->user($gateway);
	my %as = (token => $user->{token});
	my $before = state_of_users();
	my @refused = (
		[ { email => 'new@example.com' }, 400, 'currentPassword', 'not without the password' ],
		[ { email => 'new@example.com', currentPassword => 'not this one, I think' }, 401, 'currentPassword', 'not with a wrong one' ],
		[ { email => 'nonsense', currentPassword => $user->{password} }, 400, 'email', 'not to nonsense' ],
		[ { email => undef, currentPassword => $user->{password} }, 400, 'email', 'not to nothing' ],
		[ { email => uc $other->{email}, currentPassword => $user->{password} }, 409, 'email', "not to somebody's" ]);
	for my $case (@refused)
	{
		my $reply = $gateway->put('/api/user/profile', $case->[0], %as);
		is($reply->{status}, $case->[1], "$case->[3]: $case->[1]") or diag $reply->{content};
		is(fields($reply), $case->[2], "$case->[3]: which field");
	}
	is(state_of_users(), $before, 'nothing has changed');
	my $reply = $gateway->put('/api/user/profile', { email => 'New@Example.com', currentPassword => $user->{password}, name => 'New' }, %as);
	is($reply->{status}, 200, 'changed') or diag $reply->{content};
	is(data($reply)->{user}{email}, 'New@Example.com', 'it holds at once');
	ok(!data($reply)->{user}{emailVerified}, 'not verified');
	is(data($reply)->{user}{name}, 'New', 'the rest of the request too');
	is($gateway->get('/api/auth/me', %as)->{status}, 200, 'the session stays');
	is(login('new@example.com', $user->{password})->{status}, 200, 'log in with the new one');
	is(code(login($user->{email}, $user->{password})), 'INVALID_CREDENTIALS', 'not with the old one');
	is(code($gateway->post('/api/auth/register', { email => $user->{email}, password => 'correct horse battery staple' })),
		'EMAIL_TAKEN', 'which nobody else gets for a while');
	is($gateway->put('/api/user/profile', { email => $user->{email}, currentPassword => $user->{password} }, %as)->{status}, 200, 'but its user does');
	my $both = $gateway->put('/api/user/profile', { email => 'both@example.com', currentPassword => $user->{password}, newPassword => 'a whole new sentence' }, %as);
	is($both->{status}, 200, 'address and password at once') or diag $both->{content};
	is(login('both@example.com', 'a whole new sentence')->{status}, 200, 'both hold');
};

subtest 'undoing a change' => sub {
	my $user = $keelson->user($gateway);
	$keelson->sql("update keelson.users set email_verified_at = '2025-01-01 00:00Z' where id = '$user->{id}'");
	my $password = $user->{password};
	$gateway->put('/api/user/profile', { email => "$_-$user->{email}", currentPassword => $password }, token => $user->{token}) for 'thief', 'again';
	my $change = $keelson->sql("select id from keelson.email_changes where user_id = '$user->{id}' order by id limit 1");
	is($keelson->sql("select count(*) from keelson.email_changes where user_id = '$user->{id}'"), 1, 'an address never shown to be theirs is let go at once');
	is($keelson->sql("select keelson._email_change_undo('$user->{id}', '$change')"), 't', 'undone');
	is($keelson->sql("select email, email_verified_at is not null from keelson.users where id = '$user->{id}'"), "$user->{email}|t", 'the old address, verified as it was');
	is($keelson->sql("select string_agg(email, ' ') from keelson.user_emails where user_id = '$user->{id}'"), $user->{email}, 'and no other');
	is($gateway->get('/api/auth/me', token => $user->{token})->{status}, 401, 'all sessions have ended');
	is($keelson->sql("select keelson._email_change_undo('$user->{id}', '$change')"), 'f', 'once only');
};

subtest 'the picture' => sub {
	my $user = $keelson->user($gateway);
	my $stranger = $keelson->user($gateway);
	my %as = (token => $user->{token});
	my $put = sub { my ($type, $bytes) = @_; return $gateway->request('PUT', '/api/user/avatar', body => $bytes, headers => { 'Content-Type' => $type }, %as); };
	is($gateway->get('/api/user/avatar', %as)->{status}, 404, 'there is none at first');
	for my $case ([ 'image/png', $png ], [ 'image/jpeg', $jpeg ], [ 'image/webp', $webp ])
	{
		my ($type, $bytes) = @$case;
		my $reply = $put->($type, $bytes);
		is($reply->{status}, 200, "$type is taken") or diag $reply->{content};
		like(data($reply)->{avatarUrl}, qr{/api/users/$user->{id}/avatar\?v=[0-9a-f]{16}$}, "$type: has an address");
		my $got = $gateway->get('/api/user/avatar', %as);
		is($got->{status}, 200, "$type: is served");
		ok($got->{content} eq $bytes, "$type: byte for byte");
		is($got->{headers}{'content-type'}, $type, "$type: as what it is");
		is($got->{headers}{'x-content-type-options'}, 'nosniff', "$type: and nothing else");
		like($got->{headers}{'content-security-policy'}, qr/default-src 'none'; sandbox/, "$type: does nothing");
		my $again = $gateway->get('/api/user/avatar', headers => { 'If-None-Match' => "\"x\", $got->{headers}{etag}" }, %as);
		is($again->{status}, 304, "$type: not sent to who has it");
		is($again->{content} // '', '', "$type: not at all");
		(my $path = data($reply)->{avatarUrl}) =~ s{^https?://[^/]+}{};
		is($gateway->get($path, %as)->{status}, 200, "$type: at its address");
		is($gateway->get($path, token => $stranger->{token})->{status}, 404, "$type: not for strangers");
		is($gateway->get($path)->{status}, 401, "$type: nor for nobody");
	}
	my $before = state_of_users();
	is($put->('image/gif', 'GIF89a')->{status}, 415, 'another type');
	is($put->('image/png', $jpeg)->{status}, 400, 'not what its header says');
	is($put->('image/png', '<html><script>alert(1)</script>')->{status}, 400, 'a page');
	is($put->('image/png', $png . '<script>')->{status}, 400, 'a picture and a page');
	is($put->('image/png', '')->{status}, 400, 'nothing');
	is($put->('image/png', $png . "\0" x (1024 * 1024))->{status}, 413, 'too much');
	is($gateway->put('/api/user/avatar', { image => 'x' }, %as)->{status}, 415, 'JSON');
	my $taken = 0;
	for my $case ([ 'image/png', $png ], [ 'image/jpeg', $jpeg ], [ 'image/webp', $webp ])
	{
		my ($type, $bytes) = @$case;
		$taken += $keelson->sql("select count(*) from generate_series(0, " . (length($bytes) - 1) . ") as n, lateral keelson._image_read(substring(decode('"
			. unpack('H*', $bytes) . "', 'hex') for n)) as r where r.fault is null");
	}
	is($taken, 0, 'none that is cut short is taken');
	is($keelson->sql("select count(*) from generate_series(0, " . (8 * length($png) - 1) . ") as n, lateral keelson._image_read(set_bit(decode('"
			. unpack('H*', $png) . "', 'hex'), n, 1 - get_bit(decode('" . unpack('H*', $png) . "', 'hex'), n))) as r where r.fault is null"), 0,
		'no PNG with a bit turned is taken');
	my $png_of = sub { my ($w, $h) = @_; return $keelson->sql("select fault from keelson._image_read(decode('" . unpack('H*', png_sized($w, $h)) . "', 'hex'))"); };
	is($png_of->(8192, 1), '', 'the widest');
	isnt($png_of->(8193, 1), '', 'wider');
	isnt($png_of->(0, 1), '', 'of no width');
	isnt($png_of->(8000, 8000), '', 'a bomb');
	is(state_of_users(), $before, 'nothing has changed');
	is($gateway->delete('/api/user/avatar', %as)->{status}, 204, 'removed') for 1 .. 2;
	is($gateway->get('/api/user/avatar', %as)->{status}, 404, 'gone');
	is(data($gateway->get('/api/auth/me', %as))->{avatarUrl}, undef, 'the user has none');
};

# A PNG of this size, its checksums right.
sub png_sized
{
	my ($width, $height) = @_;
	my $chunk = sub { my ($type, $bytes) = @_; return pack('N', length $bytes) . $type . $bytes . pack('N', crc32($type . $bytes)); };
	return "\x89PNG\r\n\x1a\n" . $chunk->('IHDR', pack('NNC5', $width, $height, 8, 6, 0, 0, 0)) . $chunk->('IDAT', 'x') . $chunk->('IEND', '');
}

sub crc32
{
	my ($bytes) = @_;
	my $crc = 0xFFFFFFFF;
	for my $byte (unpack 'C*', $bytes)
	{
		$crc ^= $byte;
		$crc = $crc & 1 ? ($crc >> 1) ^ 0xEDB88320 : $crc >> 1 for 1 .. 8;
	}
	return $crc ^ 0xFFFFFFFF;
}

subtest 'by id' => sub {
	my ($user, $stranger, $support, $admin) = ($keelson->user($gateway), $keelson->user($gateway), staff('support'), staff('admin'));
	my $path = "/api/users/$user->{id}";
	is(data($gateway->get($path, token => $user->{token}))->{email}, $user->{email}, 'oneself');
	is($gateway->get($path, token => $stranger->{token})->{status}, 404, 'a stranger sees nobody');
	is($gateway->get('/api/users/00000000-0000-7000-8000-000000000000', token => $support->{token})->{status}, 404, 'nobody is not there');
	is($gateway->get('/api/users/x', token => $support->{token})->{status}, 400, 'nonsense is no id');
	is(data($gateway->get($path, token => $support->{token}))->{email}, $user->{email}, 'support sees');
	is($gateway->put($path, { name => 'Eve' }, token => $stranger->{token})->{status}, 404, 'a stranger changes nobody');
	is($gateway->put($path, { name => 'Eve' }, token => $support->{token})->{status}, 403, 'support neither');
	is(data($gateway->put($path, { name => 'Ada' }, token => $user->{token}))->{name}, 'Ada', 'oneself one does');
	is(data($gateway->put($path, { name => 'Ada L.' }, token => $admin->{token}))->{name}, 'Ada L.', 'an administrator too');
	is(fields($gateway->put($path, { newPassword => 'a whole new sentence' }, token => $admin->{token})), 'newPassword', 'but sets no password');
	is($gateway->put($path, { email => 'moved@example.com' }, token => $user->{token})->{status}, 400, 'by id the password is asked for too');
	is($gateway->delete($path, token => $stranger->{token})->{status}, 404, 'a stranger deletes nobody');
	my $gone = $gateway->delete($path, token => $user->{token});
	is($gone->{status}, 200, 'deleted') or diag $gone->{content};
	like(data($gone)->{erasureDueAt}, qr/Z$/, 'and when the rest goes');
	is($gateway->get('/api/auth/me', token => $user->{token})->{status}, 401, 'the token is dead at once');
	is($gateway->post('/api/auth/refresh', { refreshToken => $user->{refresh} })->{status}, 401, 'refreshing is over');
	my ($deleted, $unknown) = (login($user->{email}, $user->{password}), login('nobody@example.com', $user->{password}));
	delete $_->{json}{meta} for $deleted, $unknown;
	is_deeply($deleted->{json}, $unknown->{json}, 'a login is refused as for who never was');
	is(code($gateway->post('/api/auth/register', { email => $user->{email}, password => 'correct horse battery staple' })), 'EMAIL_TAKEN', 'the address stays taken');
	is($gateway->get($path, token => $support->{token})->{status}, 404, 'to others they are gone');
	is(data($gateway->get("/api/admin/users/$user->{id}", token => $support->{token}))->{status}, 'deleted', 'to administrators they are deleted');
	is($gateway->post("/api/admin/users/$user->{id}/unblock", {}, token => $admin->{token})->{status}, 409, 'unblocking does not bring them back');
	is(data($gateway->post("/api/admin/users/$user->{id}/restore", {}, token => $admin->{token}))->{status}, 'active', 'restoring does');
	is(login($user->{email}, $user->{password})->{status}, 200, 'they log in again');
};

subtest 'blocking and ending sessions' => sub {
	my ($user, $admin, $owner) = ($keelson->user($gateway), staff('admin'), staff('owner'));
	my $path = "/api/admin/users/$user->{id}";
	my %as = (token => $admin->{token});
	my $blocked = $gateway->post("$path/block", { reason => 'Spam' }, %as);
	is(data($blocked)->{status}, 'blocked', 'blocked') or diag $blocked->{content};
	is(data($blocked)->{blockReason}, 'Spam', 'and why');
	is($gateway->get('/api/auth/me', token => $user->{token})->{status}, 401, 'the very next request is refused');
	is(login($user->{email}, $user->{password})->{status}, 403, 'and the login');
	is($gateway->post("$path/block", {}, %as)->{status}, 200, 'again is no error');
	is(data($gateway->get($path, %as))->{blockReason}, 'Spam', 'and keeps the reason');
	$gateway->delete($path, %as);
	is(data($gateway->post("$path/restore", {}, %as))->{status}, 'blocked', 'who was blocked is restored so');
	is(data($gateway->post("$path/unblock", {}, %as))->{status}, 'active', 'unblocked');
	my $session = login($user->{email}, $user->{password});
	is($session->{status}, 200, 'they log in');
	is(data($gateway->post("$path/end-sessions", {}, %as))->{endedSessions}, 1, 'sessions ended');
	is($gateway->get('/api/auth/me', token => data($session)->{accessToken})->{status}, 401, 'at once');
	is($gateway->post("/api/admin/users/$admin->{id}/block", {}, %as)->{status}, 409, 'nobody blocks themselves');
	for my $try ([ 'POST', 'block' ], [ 'POST', 'end-sessions' ], [ 'DELETE', '' ], [ 'PUT', '' ])
	{
		my ($method, $what) = @$try;
		my $reply = $gateway->request($method, "/api/admin/users/$owner->{id}" . ($what ? "/$what" : ''),
			%as, $method eq 'DELETE' ? () : (json => $method eq 'PUT' ? { email => 'mine@example.com' } : {}));
		is($reply->{status}, 403, "an administrator does not $method $what an owner");
	}
	is($gateway->post('/api/admin/users/00000000-0000-7000-8000-000000000000/block', {}, %as)->{status}, 404, 'nobody is not there');
};

subtest 'roles' => sub {
	my ($user, $owner, $admin) = ($keelson->user($gateway), staff('owner'), staff('admin'));
	my %as = (token => $owner->{token});
	my $path = "/api/admin/users/$user->{id}/roles";
	is($gateway->get('/api/admin/users', token => $user->{token})->{status}, 403, 'a user lists nobody');
	is_deeply(data($gateway->put($path, { roles => ['support'] }, %as))->{roles}, [qw(user support)], 'given');
	is($gateway->get('/api/admin/users', token => $user->{token})->{status}, 200, 'with the next request');
	is_deeply(data($gateway->put($path, { roles => ['user'] }, %as))->{roles}, ['user'], 'taken');
	is($gateway->get('/api/admin/users', token => $user->{token})->{status}, 403, 'with the next request');
	is($gateway->put($path, { roles => ['support'] }, token => $admin->{token})->{status}, 403, 'only with the permission');
	is(fields($gateway->put($path, { roles => ['none'] }, %as)), 'roles', 'a role that is none');

	# Roles of one's own.
	my $made = $gateway->put('/api/admin/roles/granter', { description => 'Grants', permissions => [qw(roles.write users.read)] }, %as);
	is($made->{status}, 200, 'a role of one\'s own') or diag $made->{content};
	my $granter = staff('granter');
	my %granter = (token => $granter->{token});
	is($gateway->put($path, { roles => ['granter'] }, %granter)->{status}, 200, 'grants what they hold');
	is($gateway->put($path, { roles => ['granter', 'admin'] }, %granter)->{status}, 403, 'nothing else');
	is($gateway->put("/api/admin/users/$granter->{id}/roles", { roles => ['owner'] }, %granter)->{status}, 403, 'not to themselves either');
	is($gateway->put("/api/admin/users/$owner->{id}/roles", { roles => [] }, %granter)->{status}, 403, 'and takes no more');
	is($gateway->put('/api/admin/roles/granter', { description => 'Grants', permissions => [qw(roles.write users.read audit.read)] }, %granter)->{status}, 403, 'widens no role');
	is($gateway->put('/api/admin/roles/support', { description => 'Support', permissions => ['users.read'] }, %granter)->{status}, 403, 'narrows none that holds more');
	is(fields($gateway->put('/api/admin/roles/other', { description => 'x', permissions => ['no.such'] }, %as)), 'permissions', 'a permission that is none');
	is($gateway->put('/api/admin/roles/owner', { description => 'x', permissions => [] }, %as)->{status}, 409, 'owner stays what it is');
	is($gateway->delete('/api/admin/roles/support', %as)->{status}, 409, 'so do the core\'s');
	is($gateway->delete('/api/admin/roles/granter', %as)->{status}, 204, 'one\'s own go');
	is($gateway->put($path, { roles => [] }, %granter)->{status}, 403, 'and with them what they allowed');

	# Somebody stays owner.
	$keelson->sql("select keelson.role_revoke(user_id::text, 'owner') from keelson.user_roles where role = 'owner' and user_id <> '$owner->{id}'");
	is($gateway->put("/api/admin/users/$owner->{id}/roles", { roles => [] }, %as)->{status}, 409, 'the last owner stays one');
	is($gateway->delete("/api/users/$owner->{id}", %as)->{status}, 409, 'and stays');
	like(($keelson->try_sql("select keelson.role_revoke('$owner->{id}', 'owner')"))[2], qr/last owner/, 'for the database\'s administrator too');
	is($keelson->sql("select count(*) >= 3 from keelson.audit_events where user_id = '$user->{id}' and event_type in ('admin.role_grant', 'admin.role_revoke')"), 't', 'all of it is recorded');
};

subtest 'the list of users' => sub {
	my $admin = staff('admin');
	my %as = (token => $admin->{token});
	$keelson->sql("select keelson.user_create('list' || lpad(n::text, 3, '0') || '\@list.example.com', name => case n % 3 when 0 then null when 1 then 'Lista Name' || n else 'Given Zlast' || n end) from generate_series(1, 120) as n");
	for my $case ([ 'email=LIST', 120 ], [ 'q=list', 120 ], [ 'q=zlast', 40 ], [ 'name=zlast', 40 ], [ 'name=given', 40 ], [ 'email=list&sort=-createdAt', 120 ],
		[ 'email=list&name=lista', 40 ], [ 'q=lista', 40 ], [ 'email=list&sort=name', 120 ], [ 'email=list&sort=-email', 120 ], [ 'email=list&status=blocked', 0 ], [ 'email=none-such', 0 ])
	{
		my ($query, $wanted) = @$case;
		my (%seen, @order, $cursor);
		my $pages = 0;
		do
		{
			my $reply = $gateway->get("/api/admin/users?$query&limit=7" . ($cursor ? "&cursor=$cursor" : ''), %as);
			is($reply->{status}, 200, "$query: a page") or do { diag $reply->{content}; return };
			push @order, @{ data($reply) };
			$seen{ $_->{id} }++ for @{ data($reply) };
			$cursor = $reply->{json}{meta}{pagination}{nextCursor};
		} while ($cursor && ++$pages < 60);
		is(scalar(keys %seen), $wanted, "$query: finds all");
		is(scalar(grep { $_ > 1 } values %seen), 0, "$query: nobody twice");
		my @emails = map { lc $_->{email} } @order;
		is_deeply(\@emails, [ sort @emails ], "$query: in order") if $query eq 'email=LIST';
		is_deeply(\@emails, [ reverse sort @emails ], "$query: in order") if $query eq 'email=list&sort=-email';
	}
	is_deeply([ map { $_->{id} } @{ data($gateway->get("/api/admin/users?q=$admin->{id}", %as)) } ], [ $admin->{id} ], 'by id');
	is(fields($gateway->get('/api/admin/users?status=x', %as)), 'status', 'a status that is none');
	is(fields($gateway->get('/api/admin/users?tier=x', %as)), 'tier', 'a tier that is none');
	$keelson->sql("select keelson.user_tier_set(u.id::text, 'pro') from keelson.users as u where u.email like 'list10_\@%'");
	my $pro = $gateway->get('/api/admin/users?email=list&tier=pro&limit=100', %as)->{json}{data};
	is($keelson->sql("select count(*) from keelson.users as u where u.email like 'list10_\@%'"), scalar(@$pro), 'by tier: those that have it');
	cmp_ok(scalar(@$pro), '>', 1, 'some');
	is_deeply([ grep { $_ ne 'pro' } map { $_->{tier} } @$pro ], [], 'as each says');
	is(fields($gateway->get('/api/admin/users?sort=password', %as)), 'sort', 'an order that is none');
	is(fields($gateway->get('/api/admin/users?limit=101', %as)), 'limit', 'too many');
	my $cursor = $gateway->get('/api/admin/users?email=list&limit=1', %as)->{json}{meta}{pagination}{nextCursor};
	is(fields($gateway->get("/api/admin/users?email=other&cursor=$cursor", %as)), 'cursor', 'a cursor of another search');
	is(scalar @{ data($gateway->get('/api/admin/users?q=%25', %as)) }, 0, 'a percent sign is no pattern');
	is($gateway->get(q{/api/admin/users?q='%20or%201=1--}, %as)->{status}, 200, 'nor are quotes anything');
};

subtest 'few among more than a page looks at' => sub {
	my %as = (token => staff('admin')->{token});
	$keelson->sql(q{select keelson.user_tier_set(keelson.user_create('rare' || n || '@rare.example.com')::text, 'pro') from generate_series(1, 7) as n});
	my $pro = $keelson->sql(q{select count(*) from keelson.users as u where keelson._tier_of(u.id) = 'pro'});
	$keelson->sql(q{insert into keelson.users (id, email) select keelson.uuid7(), 'crowd' || n || '@crowd.example.com' from generate_series(1, 10050) as n});
	for my $case ([ 'tier=pro', $pro ], [ 'tier=pro&sort=name', $pro ], [ 'status=active&name=nobody&sort=-email', 0 ])
	{
		my ($query, $wanted) = @$case;
		my (@found, @sizes, $cursor);
		do
		{
			my $reply = $gateway->get("/api/admin/users?$query&limit=5" . ($cursor ? "&cursor=$cursor" : ''), %as);
			is($reply->{status}, 200, "$query: a page") or do { diag $reply->{content}; return };
			push @found, map { $_->{id} } @{ data($reply) };
			push @sizes, scalar @{ data($reply) };
			$cursor = $reply->{json}{meta}{pagination}{nextCursor};
		} while ($cursor && @sizes < 20);
		my %once = map { $_ => 1 } @found;
		is(scalar(@found), $wanted, "$query: all are found");
		is(scalar(keys %once), $wanted, "$query: nobody twice");
		pop @sizes;
		ok(scalar(grep { $_ < 5 } @sizes), "$query: a page ends early and says that there is more") or diag "@sizes";
	}
	$keelson->sql(q{delete from keelson.users where email like '%@crowd.example.com'});
};

subtest 'bulk operations' => sub {
	my ($admin, $other, $owner) = (staff('admin'), staff('admin'), staff('owner'));
	my %as = (token => $admin->{token});
	my @users = map { $keelson->user($gateway) } 1 .. 3;
	my @ids = map { $_->{id} } @users;
	my $nobody = '00000000-0000-7000-8000-000000000000';
	my $ask = { operation => 'block', userIds => [ $ids[0], $nobody, $owner->{id}, $ids[1] ], reason => 'Spam' };
	my %key = (headers => { 'Idempotency-Key' => 'bulk-1' });
	my $reply = $gateway->post('/api/admin/users/bulk', $ask, %as, %key);
	is($reply->{status}, 200, 'done') or diag $reply->{content};
	is_deeply([ map { [ $_->{userId}, $_->{outcome}, $_->{code} ] } @{ data($reply)->{results} } ],
		[ [ $ids[0], 'done', undef ], [ $nobody, 'failed', 'NOT_FOUND' ], [ $owner->{id}, 'failed', 'FORBIDDEN' ], [ $ids[1], 'done', undef ] ],
		'each by itself, in the order of the list');
	is(data($reply)->{failed}, 2, 'counted');
	my $again = $gateway->post('/api/admin/users/bulk', $ask, %as, %key);
	is_deeply(data($again), data($reply), 'the same again is the same reply');
	my $id = data($reply)->{id};
	is_deeply(data($gateway->get("/api/admin/bulk/$id", %as)), data($reply), 'it can be read later');
	is($gateway->get("/api/admin/bulk/$id", token => $other->{token})->{status}, 404, 'by who ordered it');
	is($gateway->get('/api/auth/me', token => $users[1]{token})->{status}, 401, 'they are blocked');
	is($gateway->get('/api/auth/me', token => $users[2]{token})->{status}, 200, 'who was not named is not');
	is_deeply([ map { $_->{outcome} } @{ data($gateway->post('/api/admin/users/bulk', { operation => 'block', userIds => [ @ids ] }, %as))->{results} } ],
		[qw(unchanged unchanged done)], 'who is so already stays so');
	is(data($gateway->post('/api/admin/users/bulk', { operation => $_, userIds => [ @ids ] }, %as))->{failed}, 0, $_) for qw(unblock end_sessions delete restore);
	is($gateway->post('/api/admin/users/bulk', { operation => 'grant_role', role => 'support', userIds => [ @ids ] }, %as)->{status}, 403, 'roles need their own permission');
	is(data($gateway->post('/api/admin/users/bulk', { operation => 'grant_role', role => 'support', userIds => [ @ids ] }, token => $owner->{token}))->{succeeded}, 3, 'and with it they go');
	my $before = state_of_users();
	is(fields($gateway->post('/api/admin/users/bulk', { operation => 'shoot', userIds => [ @ids ] }, %as)), 'operation', 'none such');
	is(fields($gateway->post('/api/admin/users/bulk', { operation => 'block', userIds => [] }, %as)), 'userIds', 'nobody');
	is(fields($gateway->post('/api/admin/users/bulk', { operation => 'block', userIds => [ @ids, $ids[0] ] }, %as)), 'userIds', 'somebody twice');
	is(fields($gateway->post('/api/admin/users/bulk', { operation => 'block', userIds => [ map { sprintf '00000000-0000-7000-8000-%012d', $_ } 1 .. 1001 ] }, %as)), 'userIds', 'too many');
	is(state_of_users(), $before, 'nothing has changed');
	my $many = $gateway->post('/api/admin/users/bulk', { operation => 'block', userIds => [ map { sprintf '00000000-0000-7000-8000-%012d', $_ } 1 .. 1000 ] }, %as);
	is(data($many)->{failed}, 1000, 'a thousand, none of whom is there') or diag substr $many->{content}, 0, 500;
};

# Every endpoint that needs a permission, asked by everybody: refused to who does not hold it, never to who does.
subtest 'permissions hold' => sub {
	my %who = (user => $keelson->user($gateway), map { $_ => staff($_) } qw(support admin owner));
	my %holds;
	$holds{ (split /\|/)[0] }{ (split /\|/)[1] } = 1 for split /\n/, $keelson->sql('select role, permission from keelson.role_permissions');
	my @wrong;
	my $asked = 0;
	for my $route (split /\n/, $keelson->sql("select method, template, permission from keelson.effective_routes where permission is not null and owner = 'keelson' and scope is null order by template, method"))
	{
		my ($method, $template, $permission) = split /\|/, $route;
		(my $path = $template) =~ s{:\w+}{00000000-0000-7000-8000-000000000000}g;
		$path = "/api/$path" unless $path =~ m{^/};
		push @wrong, "$method $path: nobody" if $gateway->request($method, $path, $method eq 'GET' ? () : (json => {}))->{status} != 401;
		for my $role (sort keys %who)
		{
			my $reply = $gateway->request($method, $path, token => $who{$role}{token}, $method eq 'GET' ? () : (json => {}));
			my $is_refused = $reply->{status} == 403 && ($reply->{json}{error} // '') eq "This needs the permission $permission" || 0;
			$asked++;
			push @wrong, "$method $path: $role $reply->{status}" if $is_refused == ($holds{$role}{$permission} || $holds{user}{$permission} ? 1 : 0) || $reply->{status} >= 500;
		}
	}
	is_deeply(\@wrong, [], "$asked requests, each answered as its role may");
};

# Whatever a profile takes it gives back.
subtest 'profiles come back as they went' => sub {
	my $user = $keelson->user($gateway);
	my %as = (token => $user->{token});
	my @letters = ('a' .. 'z', 'A' .. 'Z', ' ', '-', "'", '<', '&', '"', '\\', '/', "\x{e9}", "\x{df}", "\x{4e2d}", "\x{645}", "\x{1f600}", '{', '}', '%', '$');
	my ($bad, %notifications) = 0;
	for (1 .. 60)
	{
		my $name = join '', map { $letters[ rand @letters ] } 1 .. 1 + rand 60;
		$name =~ s/^ +| +$//g;
		$name = 'x' if $name eq '';
		# Merged: what was said before stays.
		$notifications{ 'n' . int rand 30 } = rand() < .5 ? JSON::PP::true : JSON::PP::false for 1 .. 1 + rand 5;
		my $preferences = { theme => (qw(light dark system))[ rand 3 ], language => (qw(en pt-BR zh-Hant-TW))[ rand 3 ], notifications => \%notifications };
		my $put = $gateway->put('/api/user/profile', { name => $name, preferences => $preferences }, %as);
		my $got = data($gateway->get('/api/user/profile', %as))->{user} || {};
		$bad++, diag json_encode($name) . ": $put->{status} $put->{content}"
			if $put->{status} != 200 || $got->{name} ne $name || json_encode($got->{preferences}) ne json_encode($preferences);
	}
	is($bad, 0, '60 of them');
};

# Whatever is refused leaves no trace.
subtest 'bad input changes nothing' => sub {
	my ($user, $owner) = ($keelson->user($gateway), staff('owner'));
	my @values = (undef, '', 'x' x 2000, 0, -1, 1e300, [], {}, [ [] ], JSON::PP::true, "\x{202e}evil", "a\nb", '../../etc/passwd', "' or 1=1 --", { '$ne' => 1 }, [ 'a', undef ]);
	my @places = (
		[ 'PUT', '/api/user/profile', [qw(name preferences email currentPassword newPassword nonsense)] ],
		[ 'PUT', "/api/users/$user->{id}", [qw(name preferences email currentPassword newPassword id)] ],
		[ 'PUT', "/api/admin/users/$user->{id}", [qw(name preferences email emailVerified status)] ],
		[ 'PUT', "/api/admin/users/$user->{id}/roles", [qw(roles)] ],
		[ 'POST', "/api/admin/users/$user->{id}/block", [qw(reason nonsense)] ],
		[ 'POST', '/api/admin/users/bulk', [qw(operation userIds reason role)] ],
		[ 'PUT', '/api/admin/roles/Not_A_Role', [qw(description permissions)] ]);
	my ($odd, $refused) = (0, 0);
	my $before = state_of_users();
	for (1 .. 100)
	{
		my ($method, $path, $names) = @{ $places[ rand @places ] };
		my %body = map { ($names->[ rand @$names ] => $values[ rand @values ]) } 1 .. 1 + rand 3;
		my $reply = $gateway->request($method, $path, json => \%body, token => $owner->{token});
		my $after = state_of_users();
		if ($reply->{status} >= 400)
		{
			$refused++;
			$odd++, diag "$method $path " . json_encode(\%body) . ": $reply->{status}, and something was written" if $after ne $before;
		}
		$before = $after;
		$odd++, diag "$method $path " . json_encode(\%body) . ": $reply->{content}" if $reply->{status} >= 500;
	}
	is($odd, 0, "$refused of 100 were refused, none of them half done");
};

# A role is taken while requests rain: once that is answered, none that begins later is let in.
subtest 'roles change under load' => sub {
	my ($user, $owner) = (staff('support'), staff('owner'));
	my $path = "/api/admin/users/$user->{id}/roles";
	my $work = $keelson->node->basedir;
	for my $round (1 .. 3)
	{
		is($gateway->put($path, { roles => ['support'] }, token => $owner->{token})->{status}, 200, 'given');
		unlink glob "$work/load.*";
		my @children = map {
			my $n = $_;
			my $pid = fork // die "fork: $!";
			if (!$pid)
			{
				my $after = 0;
				my $deadline = time + 60 * $KeelsonTest::slow;
				for (my $i = 1; time < $deadline; $i++)
				{
					my $is_taken = -e "$work/load.taken";
					my $status = $gateway->get('/api/admin/roles', token => $user->{token})->{status};
					$after++ if $is_taken;
					open my $bad, '>', "$work/load.bad.$n" if $is_taken ? $status != 403 : ($status != 200 && $status != 403);
					open my $begun, '>', "$work/load.begun.$n" if $i == 1;
					last if $after >= 10;
				}
				open my $done, '>', "$work/load.done.$n" if $after >= 10;
				POSIX::_exit(0);
			}
			$pid;
		} 1 .. 4;
		wait_until(sub { 4 == grep { -e "$work/load.begun.$_" } 1 .. 4 });
		is($gateway->put($path, { roles => [] }, token => $owner->{token})->{status}, 200, 'taken');
		open my $taken, '>', "$work/load.taken" or die $!;
		close $taken;
		waitpid $_, 0 for @children;
		is(scalar(grep { -e "$work/load.done.$_" } 1 .. 4), 4, 'all went on asking after that');
		is(scalar(grep { -e "$work/load.bad.$_" } 1 .. 4), 0, 'and none was let in');
	}
};

done_testing();
