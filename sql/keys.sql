-- Access keys: their text, making, using, rotating and revoking them.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

\getenv tests PG_ABS_SRCDIR
\set request :tests '/sql/include/request.sql'
\set ECHO none
\i :request
\set ECHO all

create schema regress_keys;
grant usage on schema regress_keys to keelson_app;
create function regress_keys.whoami() returns jsonb language plpgsql stable as $$
begin
    return jsonb_build_object(
        'user', keelson.current_user_id(), 'actor', keelson.current_actor(), 'session', keelson.current_session_id(),
        'mayRead', keelson.has_permission('users.read'));
end $$;
comment on function regress_keys.whoami() is 'Who the caller is.';
select keelson.route('GET regress-keys/open', 'regress_keys.whoami', scope => 'usage.write') is not null as open,
    keelson.route('GET regress-keys/closed', 'regress_keys.whoami', scope => 'users.read') is not null as closed,
    keelson.route('GET regress-keys/both', 'regress_keys.whoami', scope => 'users.read', permission => 'users.read') is not null as both_of,
    keelson.route('GET regress-keys/permission', 'regress_keys.whoami', permission => 'users.read') is not null as permission,
    keelson.route('GET regress-keys/none', 'regress_keys.whoami') is not null as none,
    keelson.route('GET regress-keys/public', 'regress_keys.whoami', is_public => true) is not null as public,
    keelson.route('POST regress-keys/cron', 'regress_keys.whoami', scope => 'jobs.run') is not null as cron;

create temporary table people (name text primary key, id uuid, token text);
insert into people
select name, (data #>> '{user,id}')::uuid, data ->> 'accessToken'
from (values ('ada'), ('bob')) as given (name),
    pg_temp.request('POST auth/register', format('{"email": "%s@keys.example.com", "password": "a long enough secret 1815"}', name)::jsonb);
select id as ada, token as ada_token from people where name = 'ada' \gset
select id as bob, token as bob_token from people where name = 'bob' \gset

-- The text: prefix, environment, ids, secret, checksum.
select (made).key ~ '^ks_test_[0-9A-Za-z]{94}$' as is_key, left((made).key, 19) = (made).prefix as is_prefix,
    (made).secret_hash = sha256(convert_to((made).key, 'UTF8')) as is_hash, (made).environment,
    (select r.environment = 'test' and r.user_id = :'ada' and r.id = :'bob' from keelson.access_key_read((made).key) as r) as reads
from (select keelson._access_key_make(:'ada', :'bob') as made) as m;
select bool_and(r.id = i.id and r.user_id = i.user_id) as all_read
from (select gen_random_uuid() as id, gen_random_uuid() as user_id from generate_series(1, 1000)) as i,
    keelson._access_key_make(i.user_id, i.id) as m, keelson.access_key_read(m.key) as r;
-- Any other text is none: cut, padded, in another case, a digit changed at any place, and such as is no number.
select count(*) > 390 as changed, count(r.id) as taken
from keelson._access_key_make(:'ada', :'bob') as m, generate_series(1, 102) as place, (values ('0'), ('z'), ('-'), (' ')) as other (digit),
    keelson.access_key_read(overlay(m.key placing other.digit from place for 1)) as r
where substr(m.key, place, 1) <> other.digit;
select name, r.id is not null as taken
from keelson._access_key_make(:'ada', :'bob') as m,
    lateral (values ('whole', m.key), ('cut', left(m.key, -1)), ('padded', m.key || '='), ('blank before', ' ' || m.key), ('line end', m.key || E'\n'),
        ('lower case', lower(m.key)), ('the other environment', replace(m.key, 'ks_test_', 'ks_live_')), ('nothing', ''), ('prefix', 'ks_test_'),
        ('too high a number', 'ks_test_' || repeat('z', 94)), ('zeros', 'ks_test_' || repeat('0', 94)), ('another kind', 'ksr_' || substr(m.key, 5)),
        ('letters beyond', 'ks_test_' || repeat('é', 94))) as t (name, key),
    keelson.access_key_read(t.key) as r;

-- Make one: the key is shown, and nothing of it kept but its hash.
select status, data - '{id,key,prefix,createdAt}'::text[] as data, data ->> 'key' as key, data ->> 'id' as key_id
from pg_temp.request('POST user/access-keys', '{"name": "Nightly import", "scopes": ["usage.write", "usage.write"]}', :'ada_token') \gset made_
select :made_status as status, :'made_data'::jsonb as data;
select name, prefix = left(:'made_key', 19) as prefix, secret_hash = sha256(convert_to(:'made_key', 'UTF8')) as hash,
    scopes, environment, last_used_at, position(substr(:'made_key', 20) in k::text) as leaks
from keelson.access_keys as k where user_id = :'ada';
select status, data -> 0 ->> 'name' as name, (select string_agg(m, ' ' order by m) from jsonb_object_keys(data -> 0) as m) as members
from pg_temp.request('GET user/access-keys', null, :'ada_token');

-- Use it: in its user's name, within its scope, nowhere else.
select endpoint, status, data -> 'user' = to_jsonb(:'ada'::text) as is_ada, data ->> 'actor' as actor, data -> 'session' as session, data ->> 'code' as code
from unnest(array['open', 'closed', 'both', 'permission', 'none', 'public']) with ordinality as t (name, n),
    concat('GET regress-keys/', name) as endpoint, pg_temp.request(endpoint, null, :'made_key')
order by n;
select endpoint, status, data ->> 'code' as code
from unnest(array['GET auth/me', 'GET user/profile', 'GET user/access-keys', 'POST user/access-keys', 'POST auth/logout', 'POST regress-keys/cron']) with ordinality as t (endpoint, n),
    pg_temp.request(endpoint, '{}', :'made_key')
order by n;
select status, data from pg_temp.request('GET auth/status', null, :'made_key');
select status from pg_temp.request('GET regress-keys/open', null, :'made_key', caller => '{"via": "api_key"}');
select status, data from pg_temp.request('GET regress-keys/open', null, :'made_key', caller => '{"via": "cookie"}');

-- A key of a user whom the key does not name, of another id, of the other environment, wrong in its secret.
select name, status, data
from (values ('unknown id', (keelson._access_key_make(:'ada', gen_random_uuid())).key),
        ('another user''s', (keelson._access_key_make(:'bob', :'made_key_id')).key),
        ('another secret', (keelson._access_key_make(:'ada', :'made_key_id')).key),
        ('cut', left(:'made_key', -1)), ('padded', :'made_key' || '0'), ('live', replace(:'made_key', 'test', 'live')), ('short', 'ks_test_'), ('prefix', 'ks_')) as t (name, key),
    pg_temp.request('GET regress-keys/open', null, t.key);

-- Bad input is named and changes nothing.
select body, status, data
from (values ('{}'), ('{"name": "", "scopes": []}'), ('{"name": "x", "scopes": []}'), ('{"name": "x", "scopes": null}'), ('{"name": null, "scopes": ["usage.write"]}'),
    ('{"name": "x", "scopes": ["no.such"]}'), ('{"name": "x", "scopes": ["jobs.run"]}'), ('{"name": "x", "scopes": ["users.read"]}'), ('{"name": "x", "scopes": [null]}'),
    ('{"name": "x", "scopes": "usage.write"}'), ('{"name": "x", "scopes": ["usage.write"], "expiresAt": "2020-01-01T00:00:00Z"}'),
    ('{"name": "x", "scopes": ["usage.write"], "expiresAt": "soon"}'), ('{"name": "x", "scopes": ["usage.write"], "allowedNetworks": []}'),
    ('{"name": "x", "scopes": ["usage.write"], "allowedNetworks": ["192.0.2.1/24"]}'), ('{"name": "x", "scopes": ["usage.write"], "allowedNetworks": ["localhost"]}'),
    ('{"name": "x", "scopes": ["usage.write"], "allowedNetworks": [null]}'), ('{"name": "x", "scopes": ["usage.write"], "key": "mine"}')) as t (body),
    pg_temp.request('POST user/access-keys', body::jsonb, :'ada_token');
select status, data ->> 'code' as code from pg_temp.request('POST user/access-keys', jsonb_build_object('name', 'x', 'scopes', array_fill('usage.write'::text, array[65])), :'ada_token');
select count(*) from keelson.access_keys where user_id = :'ada';

-- Scopes that are permissions: only for who holds them, and only as long.
select keelson.role_grant('ada@keys.example.com', 'support') as granted;
select status, data -> 'scopes' as scopes, data ->> 'key' as key
from pg_temp.request('POST user/access-keys', '{"name": "Reader", "scopes": ["users.read", "usage.write"]}', :'ada_token') \gset reader_
select :reader_status as status, :'reader_scopes' as scopes;
select name, status, data ->> 'mayRead' as may_read
from unnest(array['open', 'closed', 'both', 'permission', 'none']) with ordinality as t (name, n), pg_temp.request('GET regress-keys/' || name, null, :'reader_key')
order by n;
select status, data ->> 'mayRead' as may_read from pg_temp.request('GET regress-keys/open', null, :'made_key');
select keelson.role_revoke('ada@keys.example.com', 'support') as revoked;
select name, status, data ->> 'mayRead' as may_read
from unnest(array['open', 'closed', 'both', 'permission']) with ordinality as t (name, n), pg_temp.request('GET regress-keys/' || name, null, :'reader_key')
order by n;
-- A scope that a product opens to all is good at once.
insert into keelson.scopes (name, description) values ('regress.read', 'Read what the tests have');
select keelson.route('GET regress-keys/product', 'regress_keys.whoami', scope => 'regress.read') is not null as product;
select data ->> 'key' as product_key from pg_temp.request('POST user/access-keys', '{"name": "Product", "scopes": ["regress.read"]}', :'ada_token') \gset
select status from pg_temp.request('GET regress-keys/product', null, :'product_key');
delete from keelson.scopes where name = 'regress.read';
select status from pg_temp.request('GET regress-keys/product', null, :'product_key');

-- Networks.
select data -> 'allowedNetworks' as networks, data ->> 'key' as key
from pg_temp.request('POST user/access-keys', '{"name": "Office", "scopes": ["usage.write"], "allowedNetworks": ["198.51.100.0/24", "2001:db8::/32", "203.0.113.9"]}', :'ada_token') \gset office_
select :'office_networks' as networks;
select ip, status, data ->> 'code' as code
from unnest(array['192.0.2.7', '198.51.100.200', '198.51.101.1', '203.0.113.9', '203.0.113.8', '2001:db8:1::1', '2001:db9::1', null]) with ordinality as t (ip, n),
    pg_temp.request('GET regress-keys/open', null, :'office_key', caller => jsonb_build_object('ip', ip))
order by n;

-- Expiry: the holder is told, nobody else.
select data ->> 'key' as short_key, data ->> 'id' as short_id
from pg_temp.request('POST user/access-keys', jsonb_build_object('name', 'Short', 'scopes', array['usage.write'], 'expiresAt', to_char(now() at time zone 'UTC' + interval '1 hour', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')), :'ada_token') \gset
select status from pg_temp.request('GET regress-keys/open', null, :'short_key');
update keelson.access_keys set expires_at = now() - interval '1 second' where id = :'short_id';
select status, data from pg_temp.request('GET regress-keys/open', null, :'short_key');
select status, data ->> 'code' as code from pg_temp.request('GET regress-keys/open', null, (keelson._access_key_make(:'ada', :'short_id')).key);
select status, data ->> 'code' as code from pg_temp.request('POST user/access-keys/:id/rotate', '{}', :'ada_token', jsonb_build_object('path', jsonb_build_object('id', :'short_id')));

-- Last used: no write with the request, one by the keeper, none that takes time back.
select keelson._access_keys_write_down();
select place from keelson._access_keys_used(array[:'ada', :'ada', :'bob']::uuid[], array[:'made_key_id', :'short_id', :'made_key_id']::uuid[],
    array['2100-01-02 00:00Z', '2100-01-02 00:00Z', '2100-01-02 00:00Z']::timestamptz[]) as place;
select place from keelson._access_keys_used(array[:'ada']::uuid[], array[:'made_key_id']::uuid[], array['2100-01-01 00:00Z']::timestamptz[]) as place;
select name, last_used_at from keelson.access_keys where user_id = :'ada' and last_used_at > '2099-01-01 00:00Z' order by name;

-- Rotation: the old key stays good for the overlap, the limits of its own come along.
select keelson.rate_limit_override('api', 7, who => :'ada', access_key_id => :'made_key_id');
select status, data - '{id,key,prefix,createdAt}'::text[] as data, data ->> 'key' as key, data ->> 'id' as key_id
from pg_temp.request('POST user/access-keys/:id/rotate', '{"overlapSeconds": 3600}', :'ada_token', jsonb_build_object('path', jsonb_build_object('id', :'made_key_id'))) \gset next_
select :next_status as status, :'next_data'::jsonb as data, :'next_key' <> :'made_key' as is_new;
select status from unnest(array[:'made_key', :'next_key']) as k (key), pg_temp.request('GET regress-keys/open', null, k.key);
select replaced_by = :'next_key_id' as replaced, expires_at > now() + interval '59 minutes' and expires_at < now() + interval '61 minutes' as overlaps
from keelson.access_keys where id = :'made_key_id';
select access_key_id = :'next_key_id' as is_next, max_requests from keelson.user_rate_limits where user_id = :'ada' order by 1;
select status, data ->> 'code' as code from pg_temp.request('POST user/access-keys/:id/rotate', '{}', :'ada_token', jsonb_build_object('path', jsonb_build_object('id', :'made_key_id')));
select body, status, data
from (values ('{"overlapSeconds": -1}'), ('{"overlapSeconds": 2592001}'), ('{"overlapSeconds": null}'), ('{"overlapSeconds": "1 day"}')) as t (body),
    pg_temp.request('POST user/access-keys/:id/rotate', body::jsonb, :'ada_token', jsonb_build_object('path', jsonb_build_object('id', :'next_key_id')));
select data ->> 'key' as last_key, data ->> 'id' as last_id
from pg_temp.request('POST user/access-keys/:id/rotate', '{"overlapSeconds": 0}', :'ada_token', jsonb_build_object('path', jsonb_build_object('id', :'next_key_id'))) \gset
select status, data ->> 'code' as code from unnest(array[:'next_key', :'last_key']) as k (key), pg_temp.request('GET regress-keys/open', null, k.key);

-- Revocation holds for the very next statement; what is another's is not there.
select status, data ->> 'code' as code from pg_temp.request('DELETE user/access-keys/:id', null, :'bob_token', jsonb_build_object('path', jsonb_build_object('id', :'last_id')));
select status, data ->> 'code' as code from pg_temp.request('POST user/access-keys/:id/rotate', '{}', :'bob_token', jsonb_build_object('path', jsonb_build_object('id', :'last_id')));
select status, data ->> 'code' as code from pg_temp.request('DELETE user/access-keys/:id', null, :'ada_token', '{"path": {"id": "x"}}');
select status from pg_temp.request('GET regress-keys/open', null, :'last_key');
select status from pg_temp.request('DELETE user/access-keys/:id', null, :'ada_token', jsonb_build_object('path', jsonb_build_object('id', :'last_id')));
select status, data from pg_temp.request('GET regress-keys/open', null, :'last_key');
select status from pg_temp.request('DELETE user/access-keys/:id', null, :'ada_token', jsonb_build_object('path', jsonb_build_object('id', :'last_id')));
select string_agg(k ->> 'name', ', ' order by n) as listed
from pg_temp.request('GET user/access-keys', null, :'ada_token'), jsonb_array_elements(data) with ordinality as a (k, n);

-- Whoever is blocked or deleted has no keys; they come back with the user.
update keelson.users set status = 'blocked' where id = :'ada';
select status, data from pg_temp.request('GET regress-keys/open', null, :'reader_key');
update keelson.users set status = 'active' where id = :'ada';
select status from pg_temp.request('GET regress-keys/open', null, :'reader_key');
begin;
update keelson.users set status = 'deleted', deleted_at = now() where id = :'ada';
select status, data from pg_temp.request('GET regress-keys/open', null, :'reader_key');
rollback;
select status from pg_temp.request('GET regress-keys/open', null, :'reader_key');

-- A user has so many keys, and no more.
insert into keelson.access_keys (user_id, id, name, prefix, secret_hash, environment, scopes)
select :'bob', keelson.uuid7(), 'Many', 'ks_test_00000000000', sha256(n::text::bytea), 'test', '{usage.write}' from generate_series(1, 49) as n;
select status, data ->> 'code' as code from generate_series(1, 2) as n, pg_temp.request('POST user/access-keys', jsonb_build_object('name', 'Number ' || n, 'scopes', array['usage.write']), :'bob_token');
select jsonb_array_length(data) as first_page from pg_temp.request('GET user/access-keys', null, :'bob_token', '{"query": {"limit": "30"}}');
select status, data from unnest(array['0', '101', 'x']) as n, pg_temp.request('GET user/access-keys', null, :'bob_token', jsonb_build_object('query', jsonb_build_object('limit', n)));

-- From psql: as the user by act_as(), and as an administrator.
begin;
select keelson.act_as('ada@keys.example.com') = :'ada' as is_ada;
select (made).name, (made).scopes, (made).key ~ '^ks_test_' as has_key from (select keelson.user_access_key_create('From psql', '{usage.write}') as made) as m;
select count(*) > 3 as lists from keelson.user_access_keys(100);
select count(*) as others from keelson.access_keys where user_id <> keelson.current_user_id();
select secret_hash from keelson.access_keys;
rollback;
select (made).name, (made).scopes, (made).key as key, (made).id as id
from (select keelson.access_key_create('ada@keys.example.com', 'By an administrator', '{usage.write}', now() + interval '1 day', '{192.0.2.0/24}') as made) as m \gset admin_
select :'admin_name' as name, :'admin_scopes' as scopes;
select status from pg_temp.request('GET regress-keys/open', null, :'admin_key');
select keelson.access_key_create('ada@keys.example.com', 'Too wide', '{users.write}');
select keelson.access_key_create('nobody@keys.example.com', 'Nobody''s', '{usage.write}');
select keelson.access_key_rotate('ada@keys.example.com', :'admin_id', '31 days');
select (keelson.access_key_rotate('ada@keys.example.com', :'admin_id', '0')).key as admin_next \gset
select status from unnest(array[:'admin_key', :'admin_next']) as k (key), pg_temp.request('GET regress-keys/open', null, k.key);
select keelson.access_key_revoke('ada@keys.example.com', id) as revoked from keelson.access_key_read(:'admin_next');
select keelson.access_key_revoke('ada@keys.example.com', id) as again from keelson.access_key_read(:'admin_next');
select status from pg_temp.request('GET regress-keys/open', null, :'admin_next');
select keelson.user_access_keys();

-- What the trail has of it.
select event_type, outcome, actor, data ->> 'kind' as kind, data ? 'databaseRole' as by_admin, count(*)
from keelson.audit_events
where user_id = :'ada' and event_type like 'key.%'
group by 1, 2, 3, 4, 5
order by 1, 2, 3, 4, 5;

-- What ended a month ago goes, with its limits.
update keelson.access_keys set revoked_at = now() - interval '31 days' where id = :'made_key_id';
select keelson._access_keys_purge(0) as none, keelson._access_keys_purge(1) as one, keelson._access_keys_purge(10) as no_more;
select count(*) from keelson.user_rate_limits where access_key_id = :'made_key_id';
-- By the index of those that have ended, however many have not.
discard plans;
begin;
set local enable_seqscan = off;
select keelson._access_keys_purge(1) as none;
select pg_stat_get_xact_numscans('keelson.access_keys_ended_idx'::regclass) > 0 as by_index;
commit;

-- Away with them.
select keelson.route_remove('GET regress-keys/' || name) from unnest(array['open', 'closed', 'both', 'permission', 'none', 'public', 'product']) as name;
select keelson.route_remove('POST regress-keys/cron');
drop schema regress_keys cascade;
delete from keelson.user_rate_limits where user_id in (select id from people);
delete from keelson.user_emails where user_id in (select id from people);
delete from keelson.user_roles where user_id in (select id from people);
delete from keelson.users where id in (select id from people);
