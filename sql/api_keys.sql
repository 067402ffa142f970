-- The users' own API keys: storing, replacing, masking, removing, using, services, and what is refused.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

create role regress_trusted;
grant keelson_key_user to regress_trusted;
grant usage on schema keelson to regress_trusted;
select keelson.user_create('ada@keys.example.com', null, null) as ada,
    keelson.user_create('bob@keys.example.com', null, null) as bob \gset

-- What a statement says when it is refused: status, code, field, message.
create function pg_temp.refusal(statement text) returns text language plpgsql as $$
declare
    code text;
    field text;
begin
    execute statement;
    return 'done';
exception when others then
    get stacked diagnostics code = constraint_name, field = column_name;
    return concat_ws(' ', sqlstate, nullif(code, ''), nullif(field, '')) || ': ' || sqlerrm;
end
$$;
create function pg_temp.store(service text, api_key text) returns text language sql as $$
    select pg_temp.refusal(format('select keelson.user_api_key_store(%L, %L)', service, api_key))
$$;

-- Nobody is signed in.
select pg_temp.store('openai', 'sk-' || repeat('a', 40));
select count(*) as keys from keelson.user_api_keys where user_id in (:'ada', :'bob');

-- Stored, shown masked, replaced, and removed.
begin;
select keelson.act_as('ada@keys.example.com') = :'ada' as acts;
select count(*) as keys from keelson.user_api_keys();
select service, key_name, masked_key, created_at = updated_at as is_new, last_used_at
from keelson.user_api_key_store(service => 'openai', api_key => 'sk-proj-abcdefghijklmnopqrstuvwxyz0123', key_name => 'mine');
select service, key_name, masked_key from keelson.user_api_key_store('elevenlabs', repeat('0123456789abcdef', 2));
select service, key_name, masked_key from keelson.user_api_key_store('groq', 'gsk_' || repeat('b', 48), U&'cafe\0301');
commit;
begin;
select keelson.act_as('ada@keys.example.com') = :'ada' as acts;
select service, key_name, masked_key, length(key_name) as name_length, last_used_at from keelson.user_api_keys();
select service, key_name, masked_key, created_at < updated_at as is_replaced, last_used_at
from keelson.user_api_key_store('openai', 'sk-' || repeat('c', 40));
select service from keelson.user_api_keys();
commit;
select event_type, outcome, actor, data from keelson.audit_events where user_id = :'ada' and event_type like 'key.%' order by id;

-- Malformed for the service, or for any: nothing changes, and the key is not in the message.
begin;
select keelson.act_as('ada@keys.example.com') = :'ada' as acts;
select service, pg_temp.store(service, api_key) as said
from (values
    (1, 'openai', 'sk-short'), (2, 'openai', 'pk-' || repeat('a', 40)), (3, 'openai', 'sk-' || repeat('a', 300)),
    (4, 'openai', 'x sk-' || repeat('a', 40)), (5, 'openai', 'sk-' || repeat('a', 40) || E'\n'), (6, 'openai', E'sk-\x01' || repeat('a', 40)),
    (7, 'openai', 'sk-' || repeat('a', 40) || ' '), (8, 'openai', 'sk-' || repeat('ä', 40)), (9, 'openai', repeat('a', 8192)), (10, 'openai', ''),
    (11, 'openai', null), (12, null, 'sk-' || repeat('a', 40)), (13, 'gemini', 'AIza' || repeat('a', 34)), (14, 'gemini', 'AIza' || repeat('a', 36)),
    (15, 'groq', 'sk-' || repeat('a', 40)), (16, 'elevenlabs', 'sk_' || repeat('-', 40)), (17, 'nothing', 'sk-' || repeat('a', 40)),
    (18, 'OpenAI', 'sk-' || repeat('a', 40)), (19, 'openai'' or true --', 'sk-' || repeat('a', 40))
) as tried (n, service, api_key)
order by n;
select pg_temp.refusal(format('select keelson.user_api_key_store(%L, %L, %L)', 'openai', 'sk-' || repeat('a', 40), E'a\nname'));
select service, masked_key from keelson.user_api_keys();
select pg_temp.refusal($$select keelson.user_api_key_delete('gemini')$$), pg_temp.refusal($$select keelson.user_api_key_delete('nothing')$$),
    pg_temp.refusal('select keelson.user_api_key_delete(null)');
commit;

-- Bob has none, sees none, removes none; a key of his is his.
begin;
select keelson.act_as('bob@keys.example.com') = :'bob' as acts;
select count(*) as keys from keelson.user_api_keys();
select count(*) as rows from (select user_id, masked_key from keelson.user_api_keys) as visible;
select pg_temp.refusal($$select keelson.user_api_key_delete('openai')$$);
select masked_key from keelson.user_api_key_store('openai', 'sk-' || repeat('d', 40));
select pg_temp.refusal('select sealed_key from keelson.user_api_keys') as sealed,
    pg_temp.refusal($$insert into keelson.user_api_keys (user_id, service, id, masked_key, sealed_key) values (keelson.current_user_id(), 'groq', keelson.uuid7(), 'x', 'x')$$) as inserted,
    pg_temp.refusal(format('select keelson.user_api_key_use(%L, %L)', :'bob', 'openai')) as used;
rollback;

-- Used by trusted SQL alone.
grant execute on function pg_temp.refusal(text) to regress_trusted;
set role regress_trusted;
select keelson.user_api_key_use(:'ada', 'openai') as opened;
select pg_temp.refusal(format('select keelson.user_api_key_use(%L, %L)', :'ada', 'gemini')) as no_key,
    pg_temp.refusal(format('select keelson.user_api_key_use(%L, %L)', :'bob', 'openai')) as no_keys,
    pg_temp.refusal(format('select keelson.user_api_key_use(%L, %L)', keelson.current_user_id(), 'openai')) as nobody,
    pg_temp.refusal(format('select keelson.user_api_key_use(%L, null)', :'ada')) as nothing,
    pg_temp.refusal('select * from keelson.user_api_keys') as rows,
    pg_temp.refusal('select keelson.unseal(''x'', row(''api-key'', null, null))') as unseal;
reset role;
select role, has_function_privilege(role, 'keelson.user_api_key_use(uuid, text)', 'execute') as may_use
from unnest(array['keelson_app', 'keelson_gateway', 'keelson_admin', 'keelson_jobs', 'keelson_key_user']) as role;
select service, last_used_at is not null as is_used from keelson.user_api_keys where user_id = :'ada' order by service;
select outcome, actor, data - 'rowId' - 'databaseRole' as data from keelson.audit_events where user_id = :'ada' and event_type = 'key.use' order by id;
-- Rolled back, nothing was used.
begin;
select length(keelson.user_api_key_use(:'ada', 'groq')) as length;
rollback;
select last_used_at from keelson.user_api_keys where user_id = :'ada' and service = 'groq';
-- A superuser who opens the value by hand is in the trail too.
select length(keelson.unseal(sealed_key, row('api-key', user_id, id))) as length from keelson.user_api_keys where user_id = :'ada' and service = 'groq';
select data - 'rowId' as data from keelson.audit_events where user_id = :'ada' and event_type = 'key.use' order by id;
-- A user who is blocked lends no key to anybody.
update keelson.users set status = 'blocked' where id = :'ada';
select pg_temp.refusal(format('select keelson.user_api_key_use(%L, %L)', :'ada', 'openai')) as blocked;
update keelson.users set status = 'active' where id = :'ada';

-- Moved to another row, service or user, changed, cut short: one refusal, told to metrics and trail.
select keelson._unseal_failures() as failures \gset
create temporary table saved as select * from keelson.user_api_keys where user_id = :'ada';
create function pg_temp.used(target uuid, wanted text) returns text language sql as $$
    select pg_temp.refusal(format('select keelson.user_api_key_use(%L, %L)', target, wanted))
$$;
update keelson.user_api_keys set sealed_key = (select sealed_key from saved where service = 'groq') where user_id = :'ada' and service = 'openai';
select pg_temp.used(:'ada', 'openai') as of_another_service;
update keelson.user_api_keys set sealed_key = set_bit((select sealed_key from saved where service = 'openai'), 200, 1 - get_bit((select sealed_key from saved where service = 'openai'), 200)) where user_id = :'ada' and service = 'openai';
select pg_temp.used(:'ada', 'openai') as flipped;
update keelson.user_api_keys set sealed_key = substring((select sealed_key from saved where service = 'openai') for 40) where user_id = :'ada' and service = 'openai';
select pg_temp.used(:'ada', 'openai') as truncated;
update keelson.user_api_keys set sealed_key = '' where user_id = :'ada' and service = 'openai';
select pg_temp.used(:'ada', 'openai') as empty;
update keelson.user_api_keys as k set sealed_key = s.sealed_key, id = keelson.uuid7() from saved as s where k.user_id = :'ada' and k.service = 'openai' and s.service = 'openai';
select pg_temp.used(:'ada', 'openai') as of_another_row;
insert into keelson.user_api_keys (user_id, service, id, masked_key, sealed_key) select :'bob', service, id, masked_key, sealed_key from saved where service = 'openai';
select pg_temp.used(:'bob', 'openai') as of_another_user;
update keelson.user_api_keys as k set sealed_key = set_byte(s.sealed_key, 4, 9), id = s.id from saved as s where k.user_id = :'ada' and k.service = 'openai' and s.service = 'openai';
select pg_temp.used(:'ada', 'openai') as under_a_key_that_is_not;
update keelson.user_api_keys as k set sealed_key = s.sealed_key from saved as s where k.user_id = :'ada' and k.service = 'openai' and s.service = 'openai';
select pg_temp.used(:'ada', 'openai') as put_back;
select keelson._unseal_failures() - :failures as failures;
select value >= 7 as is_metric from keelson.gateway_metrics() where name = 'keelson_unseal_failures_total';

-- Services are data.
begin;
select keelson.api_key_service_set('acme', 'Acme', 'ac_[0-9]+', 'begins with ac_ and has digits after that', prefix => 'ac_', min_length => 19);
select keelson.act_as('bob@keys.example.com') = :'bob' as acts;
select pg_temp.store('acme', 'ac_12345');
select masked_key from keelson.user_api_key_store('acme', 'ac_1234567890123456');
rollback;
select pg_temp.refusal(statement) as said
from (values
    (1, $$select keelson.api_key_service_set('Acme', 'Acme', '.*', 'x')$$), (2, $$select keelson.api_key_service_set('acme', '', '.*', 'x')$$),
    (3, $$select keelson.api_key_service_set('acme', 'Acme', '(', 'x')$$), (4, $$select keelson.api_key_service_set('acme', 'Acme', '.*', '')$$),
    (5, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', prefix => 'a b')$$),
    (6, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', prefix => 'ac_', min_length => 18)$$),
    (7, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', max_length => 5000)$$),
    (8, $$select keelson.api_key_service_set(null, null, null, null)$$), (9, $$select keelson.api_key_service_remove('acme')$$),
    (10, $$select keelson.api_key_service_remove('openai')$$)
) as tried (n, statement)
order by n;
-- What is called with a key: below the service's URL, and nothing but that.
select path, keelson._call_path_fault(path) is null as is_good
from unnest(array['/', '/v1/models', '/v1/models?limit=1&q=%2F', '/a.b/..c', '', 'v1', '/v1 /x', E'/v1\n', '/../x', '/x/..', '/x/../y', '/x/%2E%2e/y', '/./x', '/x/.?y', '/x/..%2fy', '/x#y', '/x\y', '/ü', null]) with ordinality as given (path, n)
order by n;
begin;
select keelson.api_key_service_set('acme', 'Acme', 'ac_[0-9]+', 'begins with ac_', prefix => 'ac_', min_length => 19, base_url => 'https://API.acme.example/v2', verify_path => '/me');
select base_url, key_header, key_prefix, verify_path, accepted_statuses, refused_statuses from keelson.api_key_services where service = 'acme';
select keelson.api_key_service_set('acme', 'Acme', 'ac_[0-9]+', 'begins with ac_', prefix => 'ac_', min_length => 19, key_header => 'X-Key', key_prefix => '', refused_statuses => '{400}', is_enabled => false);
select base_url, key_header, key_prefix, verify_path, accepted_statuses, refused_statuses, is_enabled from keelson.api_key_services where service = 'acme';
select keelson.api_key_service_set('acme', 'Acme', 'ac_[0-9]+', 'begins with ac_', prefix => 'ac_', min_length => 19, base_url => '', verify_path => '');
select base_url, verify_path from keelson.api_key_services where service = 'acme';
select keelson.act_as('ada@keys.example.com') = :'ada' as acts;
select service, title, can_verify, is_stored from keelson.user_api_key_services();
select n, pg_temp.refusal(format('select keelson.call_with_key(%s)', arguments)) as said
from (values
    (1, $$'acme', '/x'$$), (2, $$'nothing', '/x'$$), (3, $$'gemini', '/x'$$), (4, $$'openai', 'x'$$), (5, $$'openai', '/x', 'TRACE'$$), (6, $$'openai', '/x', null$$),
    (7, $$'openai', '/x', 'GET', '{}'$$), (8, $$'openai', '/x', 'POST', '{}', body => 'x'$$), (9, $$'openai', '/x', headers => '{"authorization": "x"}'$$),
    (10, $$'openai', '/x', headers => '[]'$$), (11, $$'openai', '/x', 'POST', body => convert_to(repeat('x', 1048577), 'UTF8')$$), (12, $$null, '/x'$$), (13, $$'openai', null$$)
) as tried (n, arguments)
order by n;
select pg_temp.refusal($$select keelson.user_api_key_verify('gemini')$$) as no_key, pg_temp.refusal('select keelson.user_api_key_verify(null)') as none,
    pg_temp.refusal($$select keelson._upstream_call('x', 'http://127.0.0.1:1/', 'GET', '{}', null, 100, true)$$) as inner_one;
rollback;
select pg_temp.refusal($$select keelson.call_with_key('openai', '/v1/models')$$) as nobody;
select pg_temp.refusal(statement) as said
from (values
    (1, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', base_url => 'ftp://acme.example')$$), (2, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', base_url => 'https://acme.example/')$$),
    (3, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', base_url => 'https://acme.example/?x')$$), (4, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', base_url => 'https://u:p@acme.example')$$),
    (5, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', verify_path => '/me')$$), (6, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', base_url => 'https://acme.example', verify_path => '/../me')$$),
    (7, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', key_header => 'X Key')$$), (8, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', key_prefix => E'Bearer\n')$$),
    (9, $$select keelson.api_key_service_set('acme', 'Acme', '.*', 'x', accepted_statuses => '{}')$$), (10, $$select keelson.upstream_reset('nobody')$$)
) as tried (n, statement)
order by n;
-- The use is noted for a key of either kind, and written down at once here.
select keelson._key_used(user_id, id) from keelson.user_api_keys where user_id = :'ada' and service = 'groq';
select keelson._access_keys_write_down();
select last_used_at is not null as is_noted from keelson.user_api_keys where user_id = :'ada' and service = 'groq';

-- One that takes no new keys still lends and removes the old ones.
begin;
select keelson.api_key_service_set('groq', 'Groq', 'gsk_[A-Za-z0-9]+', 'begins with gsk_', 'gsk_', 24, 128, is_enabled => false);
select length(keelson.user_api_key_use(:'ada', 'groq')) as length;
select keelson.act_as('ada@keys.example.com') = :'ada' as acts;
select pg_temp.store('groq', 'gsk_' || repeat('b', 48));
select keelson.user_api_key_delete('groq');
rollback;
-- Migrating again leaves what an administrator has changed.
begin;
select keelson.api_key_service_set('groq', 'Groq Inc.', 'gsk_[A-Za-z0-9]+', 'begins with gsk_', 'gsk_', 24, 128);
select count(*) as migrations from keelson.migrate(anew => true);
select title from keelson.api_key_services where service = 'groq';
rollback;

-- Who goes takes the keys along.
delete from keelson.users where id in (:'ada', :'bob');
select count(*) as keys from keelson.user_api_keys where user_id in (:'ada', :'bob');
delete from keelson.user_emails where user_id in (:'ada', :'bob');
select sum(keelson._user_keys_erase(user_id)) > 0 as erased from unnest(array[:'ada', :'bob']::uuid[]) as user_id;
revoke usage on schema keelson from regress_trusted;
drop owned by regress_trusted;
drop role regress_trusted;
