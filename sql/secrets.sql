-- Sealing, users' keys, the server's secrets, tokens. The keyring's own tests
-- restart servers: regress/t/.
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- What opening says: the text, or the one refusal.
create function pg_temp.open(sealed bytea, context keelson.seal_context) returns text language plpgsql as $$
declare
    message text;
    code text;
begin
    return convert_from(keelson.unseal(sealed, context), 'UTF8');
exception when sqlstate 'KS500' then
    get stacked diagnostics message = message_text, code = constraint_name;
    return code || ': ' || message;
end
$$;
create function pg_temp.user_keys(wanted uuid) returns bigint language sql as $$
    select count(*) from keelson.user_keys where user_id = wanted
$$;
-- Each run has users of its own.
select keelson.uuid7() as ada, keelson.uuid7() as bob, keelson.uuid7() as eve, keelson.uuid7() as row_1, keelson.uuid7() as row_2 \gset

-- Round trips, of a user's values and the server's.
select size, keelson.unseal(sealed, context) = data as opens, length(sealed) - size as overhead, get_byte(sealed, 0) as version
from unnest(array[0, 1, 15, 16, 17, 64, 4096, 1000000]) as size,
    lateral (select convert_to(repeat('x', size), 'UTF8') as data, row('totp', :'ada', :'row_1')::keelson.seal_context as context) as given,
    lateral (select keelson.seal(data, context) as sealed) as made
order by size;
select pg_temp.open(keelson.seal('server', row('secret', null, :'row_1')), row('secret', null, :'row_1')) as server,
    pg_temp.open(keelson.seal('no row', row('secret', null, null)), row('secret', null, null)) as no_row;
select keelson.seal(null, row('secret', null, null)) is null as null_data, keelson.seal('x', null) is null as null_context,
    keelson.unseal(null, row('secret', null, null)) is null as null_sealed;
-- Two sealings of one value have nothing in common but the head.
select count(distinct substring(keelson.seal('same', row('totp', :'ada', null)) from 6)) as different,
    count(distinct substring(keelson.seal('same', row('totp', :'ada', null)) from 1 for 5)) as heads
from generate_series(1, 1000);
-- The value itself is not to be seen.
select position('plain text'::bytea in keelson.seal('plain text', row('totp', :'ada', null))) as seen_at;

-- Bound to purpose, user, row: elsewhere it does not open.
select keelson.seal('Ada''s', row('totp', :'ada', :'row_1')) as sealed \gset
select pg_temp.open(:'sealed', row('totp', :'ada', :'row_1')) as there,
    pg_temp.open(:'sealed', row('api-key', :'ada', :'row_1')) as purpose,
    pg_temp.open(:'sealed', row('totp', :'bob', :'row_1')) as user_without_key,
    pg_temp.open(:'sealed', row('totp', :'ada', :'row_2')) as other_row,
    pg_temp.open(:'sealed', row('totp', :'ada', null)) as no_row,
    pg_temp.open(:'sealed', row('secret', null, :'row_1')) as server;
select keelson.seal('Bob''s', row('totp', :'bob', :'row_1')) is not null as bob_has_a_key;
select pg_temp.open(:'sealed', row('totp', :'bob', :'row_1')) as other_user;

-- Any bit changed, any byte cut, anything added: one refusal for all.
select count(*) as tries, count(distinct answer) as answers, min(answer) as answer
from (
    select pg_temp.open(set_bit(:'sealed'::bytea, bit, 1 - get_bit(:'sealed'::bytea, bit)), row('totp', :'ada', :'row_1')) as answer
    from generate_series(0, length(:'sealed'::bytea) * 8 - 1) as bit
    union all
    select pg_temp.open(substring(:'sealed'::bytea from 1 for len), row('totp', :'ada', :'row_1'))
    from generate_series(0, length(:'sealed'::bytea) - 1) as len
    union all
    select pg_temp.open(:'sealed'::bytea || '\x00'::bytea, row('totp', :'ada', :'row_1'))
    union all
    select pg_temp.open(''::bytea, row('totp', :'eve', null))
    union all
    select pg_temp.open(decode(repeat('00', 64), 'hex'), row('secret', null, null))
    union all
    select pg_temp.open(set_byte(keelson.seal('x', row('secret', null, null)), 4, 99), row('secret', null, null))
) as opened;

-- Purposes are registered, and for one kind of value.
select keelson.seal('x', row('nothing', :'ada', null));
select keelson.seal('x', row(repeat('n', 100), :'ada', null));
select keelson.seal('x', row(null, :'ada', null));
select keelson.seal('x', row('totp', null, null));
select keelson.unseal('x', row('secret', :'ada', null));
select keelson.seal(decode(repeat('00', 16 * 1024 * 1024 + 1), 'hex'), row('secret', null, null));

-- A user's key is wrapped, one per user, made by the first sealing.
select pg_temp.user_keys(:'ada') as ada, pg_temp.user_keys(:'eve') as eve;
select count(*) as wrong from keelson.user_keys
where length(wrapped) <> 65 or get_byte(wrapped, 0) <> 1 or wrap_key_id <> ('x' || encode(substring(wrapped from 2 for 4), 'hex'))::bit(32)::integer;
-- A row moved to another user, or changed, does not open.
begin;
update keelson.user_keys set wrapped = (select wrapped from keelson.user_keys where user_id = :'ada') where user_id = :'bob';
select keelson._user_keys_erase(:'eve') as erased;
select pg_temp.open(keelson.seal('x', row('totp', :'ada', null)), row('totp', :'ada', null)) as hers;
select keelson.seal('x', row('totp', :'bob', null));
rollback;

-- What a rolled back transaction, or part of one, has made is not used afterwards.
begin;
select keelson.seal('lost', row('totp', :'eve', null)) as lost \gset
select pg_temp.open(:'lost', row('totp', :'eve', null)) as within;
rollback;
select pg_temp.user_keys(:'eve') as keys, pg_temp.open(:'lost', row('totp', :'eve', null)) as after_rollback;
begin;
savepoint a;
savepoint b;
select keelson.seal('lost', row('totp', :'eve', null)) as lost \gset
release b;
select pg_temp.open(:'lost', row('totp', :'eve', null)) as within;
rollback to a;
select keelson.seal('kept', row('totp', :'eve', null)) as kept \gset
savepoint c;
select pg_temp.open(:'kept', row('totp', :'eve', null)) as kept;
rollback to c;
select pg_temp.open(:'lost', row('totp', :'eve', null)) as lost;
commit;
select pg_temp.user_keys(:'eve') as keys, pg_temp.open(:'kept', row('totp', :'eve', null)) as kept, pg_temp.open(:'lost', row('totp', :'eve', null)) as lost;

-- More users in one statement than the cache has places for, twice in one.
create temporary table many as select keelson.uuid7() as user_id, n from generate_series(1, 600) as n;
alter table many add sealed bytea;
update many set sealed = keelson.seal(convert_to(n::text, 'UTF8'), row('totp', user_id, null));
select count(*) as opened from many where pg_temp.open(sealed, row('totp', user_id, null)) = n::text;
select count(*) as opened
from many, lateral (select keelson.seal(convert_to(n::text, 'UTF8'), row('totp', user_id, null)) as again) as made
where pg_temp.open(again, row('totp', user_id, null)) = n::text;
select count(*) as keys, count(distinct user_id) as users from keelson.user_keys where user_id in (select user_id from many);
select sum(keelson._user_keys_erase(user_id)) as erased from many;
-- New users within one statement, sealed for, thrown out of the cache and opened again.
with made as materialized (
    select user_id, n, keelson.seal(convert_to(n::text, 'UTF8'), row('totp', user_id, null)) as sealed
    from (select keelson.uuid7() as user_id, n from generate_series(1, 600) as n offset 0) as fresh
)
select count(*) as opened from made where pg_temp.open(sealed, row('totp', user_id, null)) = n::text;

-- Used enough, a key is followed by the next; the old one still opens.
select keelson.seal('old', row('totp', :'ada', null)) as old \gset
update keelson.user_keys set uses = 1073741824 where user_id = :'ada';
\c
\set VERBOSITY terse
\set SHOW_CONTEXT never
create function pg_temp.open(sealed bytea, context keelson.seal_context) returns text language plpgsql as $$
declare
    message text;
    code text;
begin
    return convert_from(keelson.unseal(sealed, context), 'UTF8');
exception when sqlstate 'KS500' then
    get stacked diagnostics message = message_text, code = constraint_name;
    return code || ': ' || message;
end
$$;
select keelson.seal('new', row('totp', :'ada', null)) as new \gset
select key_no, uses from keelson.user_keys where user_id = :'ada' order by key_no;
select get_byte(:'old'::bytea, 4) as old_key, get_byte(:'new'::bytea, 4) as new_key,
    pg_temp.open(:'old', row('totp', :'ada', null)) as old, pg_temp.open(:'new', row('totp', :'ada', null)) as new;
-- A value under one key that claims to be under the other does not open.
select pg_temp.open(set_byte(:'old'::bytea, 4, 2), row('totp', :'ada', null)) as claimed;
-- Uses are counted, by sampling: a million leave no doubt.
select count(keelson.seal('x', row('totp', :'ada', null))) from generate_series(1, 1000000);
select uses > 0 as counted, uses between 65536 and 5000000 as about, uses % 65536 = 0 as by_samples from keelson.user_keys where user_id = :'ada' and key_no = 2;
-- In a read-only transaction a known user's values are sealed and opened, no key is made.
begin read only;
select pg_temp.open(keelson.seal('x', row('totp', :'ada', null)), row('totp', :'ada', null)) as known_user;
select keelson.seal('x', row('totp', '00000000-0000-0000-0000-000000000000', null));
rollback;

-- Erasing a user's keys erases what they sealed; rolled back, it does not.
select keelson.seal('Eve''s', row('totp', :'eve', null)) as eves \gset
begin;
select keelson._user_keys_erase(:'eve') as erased;
select pg_temp.open(:'eves', row('totp', :'eve', null)) as erased;
rollback;
select pg_temp.open(:'eves', row('totp', :'eve', null)) as not_erased;
begin;
savepoint a;
select keelson._user_keys_erase(:'eve') as erased;
rollback to a;
select pg_temp.open(:'eves', row('totp', :'eve', null)) as not_erased;
commit;
select keelson._user_keys_erase(:'eve') as erased;
select pg_temp.open(:'eves', row('totp', :'eve', null)) as erased;
select keelson.seal('new', row('totp', :'eve', null)) is not null as sealed_anew, pg_temp.open(:'eves', row('totp', :'eve', null)) as old;
select keelson._user_keys_erase(:'eve') as erased, keelson._user_keys_erase(null) is null as null_is_null;

-- The server's own secrets: hashed ones compare, sealed ones open.
begin;
select keelson.secret_set('cron_secret', 'a cron secret'), keelson.secret_set('smtp_url', 'smtp://user:pass@mail.example');
select name, is_hashed, changed_at is not null as is_set, length(value), position('secret'::bytea in value) + position('pass'::bytea in value) as seen_at
from keelson.secrets where name in ('cron_secret', 'smtp_url') order by name;
select candidate, keelson._secret_matches('cron_secret', candidate) as matches
from unnest(array['a cron secret', 'a cron secreT', 'a cron secret ', '', null]) as candidate order by candidate collate "C";
select keelson._secret_get('smtp_url') as opened, keelson._secret_matches('smtp_url', 'smtp://user:pass@mail.example') as matches,
    keelson._secret_matches('smtp_url', 'smtp://') as other;
savepoint a;
select keelson._secret_get('cron_secret');
rollback to a;
-- A sealed one does not open in another's place.
update keelson.secrets set value = (select value from keelson.secrets where name = 'smtp_url'), changed_at = now() where name = 'captcha_secret';
savepoint a;
select keelson._secret_get('captcha_secret');
rollback to a;
-- Two settings of one value are stored differently.
create temporary table once as select value from keelson.secrets where name = 'cron_secret';
select keelson.secret_set('cron_secret', 'a cron secret');
select secrets.value <> once.value as salted from keelson.secrets, once where name = 'cron_secret';
-- Null removes.
select keelson.secret_set('cron_secret', null), keelson.secret_set('smtp_url', null);
select keelson._secret_matches('cron_secret', 'a cron secret') as matches, keelson._secret_matches('cron_secret', null) as null_matches,
    keelson._secret_get('smtp_url') is null as is_gone;
rollback;
select keelson.secret_set('no_such_secret', 'x');
select keelson.secret_set(null, 'x');
select keelson.secret_set('cron_secret', '');
select keelson._secret_get('no_such_secret');
select keelson._secret_matches('no_such_secret', 'x');

-- Tokens.
select bool_and(token ~ '^[A-Za-z0-9_-]{43}$') as form, count(distinct token) as different
from (select keelson.token_new() as token from generate_series(1, 1000)) as tokens;
select keelson.token_hash('abc') = sha256('abc') as is_sha256, keelson.token_hash('') = sha256('') as of_nothing, keelson.token_hash(null) is null as of_null;
select count(*) as different from generate_series(0, 300) as n where keelson.token_hash(repeat('ä', n)) <> sha256(convert_to(repeat('ä', n), 'UTF8'));
select keelson._bytes_equal('abc', 'abc') as same, keelson._bytes_equal('abc', 'abd') as other, keelson._bytes_equal('abc', 'ab') as shorter, keelson._bytes_equal('', '') as empty;
select length(keelson._random_bytes(1024)) as bytes, keelson._random_bytes(16) = keelson._random_bytes(16) as same;
select keelson._random_bytes(0);
select keelson._random_bytes(1025);

-- The keyring, as seen from inside.
select key_id = 1 as key_1, is_primary, state, recorded_at is not null as recorded, retired_at, problem from keelson.keyring_status();
select * from keelson._keyring_ready();
select generation >= 1 as generation, loaded_at <= now() as loaded, is_locked is not null as knows_whether_locked, problem from keelson._keyring_state();
-- A check value that is not the key's shows.
begin;
update keelson.keyring_keys set check_value = sha256('another key');
select state, problem from keelson.keyring_status();
rollback;

-- What was written while it waited is looked at, or nothing is retired.
begin isolation level repeatable read;
select keelson.keyring_retire(1);
rollback;

-- Who may: nobody but the owner roles seals, opens, or reads these tables.
create role regress_nobody;
create function pg_temp.may(role name, statement text) returns text language plpgsql as $$
begin
    execute format('set local role %I', role);
    execute statement;
    reset role;
    return 'may';
exception when insufficient_privilege then
    return 'may not';
end
$$;
select statement, pg_temp.may('regress_nobody', statement) as nobody, pg_temp.may('keelson_app', statement) as app,
    pg_temp.may('keelson_gateway', statement) as gateway, pg_temp.may('keelson_admin', statement) as admin
from unnest(array[
    'select keelson.seal(''x'', row(''secret'', null, null))',
    'select keelson.unseal(''x'', row(''secret'', null, null))',
    'select keelson._user_keys_erase(keelson.uuid7())',
    'select keelson.secret_set(''cron_secret'', null)',
    'select keelson._secret_get(''smtp_url'')',
    'select keelson._secret_matches(''smtp_url'', ''x'')',
    'select * from keelson.keyring_status()',
    'select * from keelson._keyring_loaded()',
    'select * from keelson._keyring_state()',
    'select keelson.token_new()',
    'select keelson.token_hash(''x'')',
    'select keelson._random_bytes(1)',
    'select * from keelson.user_keys',
    'select * from keelson.keyring_keys',
    'select value from keelson.secrets',
    'select name, changed_at from keelson.secrets',
    'select private_key from keelson.signing_keys',
    'select current_setting(''keelson.keyring_file'')',
    'select current_setting(''keelson.keyring_command'')'
]) with ordinality as statements (statement, place)
order by place;
drop role regress_nobody;
-- Nor may a superuser's session change where keys come from.
set keelson.keyring_file = '/tmp/x';
set keelson.keyring_command = 'x';
select sum(keelson._user_keys_erase(user_id)) as erased from unnest(array[:'ada', :'bob', :'eve']::uuid[]) as user_id;
