-- Incoming webhooks: signatures, sources, taking events in, handlers, failures.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

-- What a preset's schemes say of a signature, in their order.
create function pg_temp.verify(preset text, secrets text[], headers jsonb, body text, moment bigint)
returns text
language plpgsql
as $$
declare
    verdicts text[] := '{}';
    scheme jsonb;
    id uuid := keelson.uuid7();
begin
    for scheme in select s from keelson.webhook_presets as p cross join lateral jsonb_array_elements(p.settings -> 'schemes') as s where p.name = preset loop
        verdicts := verdicts || coalesce(keelson._webhook_verify(
            scheme, array(select keelson.seal(convert_to(s, 'UTF8'), row('webhook-secret', null, id)::keelson.seal_context) from unnest(secrets) as s),
            array_fill(id, array[cardinality(secrets)]), array_fill('webhook-secret'::text, array[cardinality(secrets)]),
            headers, convert_to(body, 'UTF8'), to_timestamp(moment)
        ), 'good');
    end loop;
    return array_to_string(verdicts, ' ');
end
$$;

-- The providers' own examples.
select name, pg_temp.verify(preset, secrets, headers, body, moment)
from (values
    ('stripe', 'stripe', '{whsec_test_secret}'::text[],
        '{"stripe-signature": "t=1614265330,v1=3c5817089d739023dd6190f70a3757e04f7a2fd8b5dab12c2e000f51970dccff"}'::jsonb,
        '{"id":"evt_test_webhook","object":"event"}', 1614265330),
    ('stripe, lines', 'stripe', '{whsec_test_secret}',
        '{"stripe-signature": "t=1614265330,v1=af4ead0627a34a8cca29808e8de9ada8e41a92e6237c63cef6eacf51d36cca34"}',
        E'{\n  "id": "evt_test_webhook",\n  "object": "event"\n}', 1614265330),
    ('github', 'github', '{It''s a Secret to Everybody}',
        '{"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}', 'Hello, World!', 0),
    ('shopify', 'shopify', '{hush}', '{"x-shopify-hmac-sha256": "VnKUjZsLuN5iZWjn5EntcBVCF9kMN43LglzCE1/GSeY="}', '{"id":1}', 0),
    ('standard v1', 'standard', '{whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw}',
        '{"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330", "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}',
        '{"test": 2432232314}', 1614265330),
    ('standard v1a', 'standard', '{whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=}',
        '{"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330", "webhook-signature": "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="}',
        '{"test": 2432232314}', 1614265330),
    ('standard v1a, its key in PEM', 'standard', array[E'-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=\n-----END PUBLIC KEY-----\n'],
        '{"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330", "webhook-signature": "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="}',
        '{"test": 2432232314}', 1614265330),
    ('standard v1a, PEM without its end', 'standard', array[E'-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=\n'],
        '{"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330", "webhook-signature": "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="}',
        '{"test": 2432232314}', 1614265330),
    ('standard, wrong end', 'standard', '{whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw}',
        '{"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330", "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA="}',
        '{"test": 2432232314}', 1614265330)
) as vectors (name, preset, secrets, headers, body, moment);
-- Time and body with a comma between them, as another provider has it.
select keelson._webhook_verify(
    '{"algorithm": "hmac-sha256", "header": "x-s", "format": "pairs", "content": "{timestamp},{body}"}',
    array[keelson.seal('convoy-webhook-secret', row('webhook-secret', null, '00000000-0000-0000-0000-000000000000')::keelson.seal_context)],
    '{00000000-0000-0000-0000-000000000000}', '{webhook-secret}',
    '{"x-s": "t=1700000000,v1=77b8b9269f25a199846a55a2bd25b3fba151c70fdae60bb1dcd87fbbc943c55c"}',
    '{"event":"charge.success","amount":1000,"currency":"NGN"}', to_timestamp(1700000000)
) is null as is_good;

-- The older hash and the longer one.
select algorithm, right_one, keelson._webhook_verify(
    jsonb_build_object('algorithm', 'hmac-' || algorithm, 'header', 'x-s'),
    array[keelson.seal('a secret of the forge', row('webhook-secret', null, '00000000-0000-0000-0000-000000000000')::keelson.seal_context)],
    '{00000000-0000-0000-0000-000000000000}', '{webhook-secret}',
    jsonb_build_object('x-s', encode(public.hmac(case when right_one then '{}' else '[]' end, 'a secret of the forge', algorithm), 'hex')), '{}', now()
) as fault
from unnest('{sha1,sha512}'::text[]) as algorithm, unnest('{t,f}'::boolean[]) as right_one
order by 1, 2;

-- Stripe's header, in every way that is wrong or nearly so.
\set good 3c5817089d739023dd6190f70a3757e04f7a2fd8b5dab12c2e000f51970dccff
\set bad 4c5817089d739023dd6190f70a3757e04f7a2fd8b5dab12c2e000f51970dccff
select header, pg_temp.verify('stripe', '{whsec_other,whsec_test_secret}', jsonb_build_object('stripe-signature', header), '{"id":"evt_test_webhook","object":"event"}', 1614265330) as verdict
from (values
    (format('t=1614265330,v1=%s', :'good')), (format('t=1614265330,v1=%s,v1=%s', :'bad', :'good')), (format('v1=%s,t=1614265330', :'good')),
    (format('t=1614265330,v0=%s,v1=%s', :'bad', :'good')), (format('t=1614265330, v1=%s', :'good')), (format('t=1614265330,v1=%s', upper(:'good'))),
    (format('t=1614265330,v1=%s', :'bad')), (format('t=1614265331,v1=%s', :'good')), (format('t=1614265330,v0=%s', :'good')),
    (format('t=1614265330,v1=%s', left(:'good', 62))), (format('t=1614265330,v1=%sz', left(:'good', 63))), (format('t=1614265330,v1=%s00', :'good')),
    (format('v1=%s', :'good')), (format('t=,v1=%s', :'good')), (format('t=now,v1=%s', :'good')), (format('t=-1,v1=%s', :'good')),
    (format('t=1614265330,t=1614265330,v1=%s', :'good')), (format('t=16142653301614265330,v1=%s', :'good')), ('t=1614265330'), ('t=1614265330,v1='), ('v1'), (''), (','), ('=')
) as headers (header);
select pg_temp.verify('stripe', '{whsec_test_secret}', jsonb_build_object('stripe-signature', format('t=1614265330,%s,v1=%s', repeat(format('v1=%s,', :'bad'), count), :'good')), '{"id":"evt_test_webhook","object":"event"}', 1614265330)
from unnest('{9,10,60}'::int[]) as count;
select moment - 1614265330 as later, pg_temp.verify('stripe', '{whsec_test_secret}', jsonb_build_object('stripe-signature', format('t=1614265330,v1=%s', :'good')), '{"id":"evt_test_webhook","object":"event"}', moment)
from unnest('{1614265630,1614265631,1614265030,1614265029}'::bigint[]) as moment;
select pg_temp.verify('stripe', '{whsec_test_secret}', '{}', 'x', 0), pg_temp.verify('stripe', '{}', jsonb_build_object('stripe-signature', format('t=1614265330,v1=%s', :'good')), 'x', 1614265330);
-- The body as it came, and not as it reads.
select pg_temp.verify('stripe', '{whsec_test_secret}', jsonb_build_object('stripe-signature', format('t=1614265330,v1=%s', :'good')), '{"id": "evt_test_webhook","object":"event"}', 1614265330);
-- An id with a dot in it could be cut elsewhere; a token alone signs nothing, and must be whole.
select pg_temp.verify('standard', '{whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw}',
    jsonb_build_object('webhook-id', id, 'webhook-timestamp', '1614265330', 'webhook-signature', 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='), '{"test": 2432232314}', 1614265330)
from (values ('msg.1'), (''), (repeat('x', 256)), ('msg_p5jXN8AQM9LWM0D4loKWxJe')) as ids (id);
select token, pg_temp.verify('gohighlevel', '{a shared secret}', jsonb_build_object('x-webhook-secret', token), '{}', 0)
from (values ('a shared secret'), ('a shared secre'), ('a shared secret '), ('A shared secret'), ('')) as tokens (token);
-- A public key is no secret: who knows it has signed nothing with it, neither as a token nor as the key of a MAC.
\set public MCowBQYDK2VwAyEAi2HR1srL4o18O8BRa7gVJY7G7bupbN3H9AwJrHCDiOg=
select pg_temp.verify('gohighlevel', array[:'public'], jsonb_build_object('x-webhook-secret', :'public'), '{}', 0);
select pg_temp.verify('hmac', array[key], jsonb_build_object('x-signature', encode(public.hmac('{}', key, 'sha256'), 'hex')), '{}', 0)
from (values (:'public'), (E'-----BEGIN PUBLIC KEY-----\n' || :'public' || E'\n-----END PUBLIC KEY-----'), (E'\n -----BEGIN CERTIFICATE-----'), ('whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=')) as keys (key);
-- A newer kind of signature that is bad is not made good by an older one.
select pg_temp.verify('gohighlevel', '{}', '{"x-ghl-signature": "QUJD", "x-wh-signature": "QUJD"}', '{}', 0), pg_temp.verify('gohighlevel', '{}', '{"x-wh-signature": "QUJD"}', '{}', 0);

-- Sources.
select s.name, s.preset, s.settings, s.enabled, s.secrets from keelson.webhook_source_set('forge', 'github') as s;
select keelson.webhook_secret_add('forge', 'a secret of the forge') is not null as is_added;
create function pg_temp.refusal(statement text)
returns text
language plpgsql
as $$
begin
    execute statement;
    return 'done';
exception when others then
    return sqlstate || ' ' || sqlerrm;
end
$$;
select settings, pg_temp.refusal(format('select keelson.webhook_source_set(''odd'', ''hmac'', %L)', settings)) as refusal
from (values
    ('[]'), ('{"scheme": []}'), ('{"schemes": []}'), ('{"schemes": [1]}'), ('{"schemes": [{}]}'), ('{"schemes": [{"algorithm": "md5"}]}'),
    ('{"schemes": [{"algorithm": "hmac-sha256"}]}'), ('{"schemes": [{"algorithm": "hmac-sha256", "header": "X-Signature"}]}'),
    ('{"schemes": [{"algorithm": "hmac-sha256", "header": "authorization"}]}'), ('{"schemes": [{"algorithm": "hmac-sha256", "header": "x-s", "format": "odd"}]}'),
    ('{"schemes": [{"algorithm": "hmac-sha256", "header": "x-s", "encoding": "odd"}]}'), ('{"schemes": [{"algorithm": "hmac-sha256", "header": "x-s", "key": "odd"}]}'),
    ('{"schemes": [{"algorithm": "hmac-sha256", "header": "x-s", "tolerance": -1}]}'), ('{"schemes": [{"algorithm": "hmac-sha256", "header": "x-s", "keys": "x"}]}'),
    ('{"schemes": [{"algorithm": "hmac-sha256", "header": "x-s", "content": "{timestamp}"}]}'), ('{"schemes": [{"algorithm": "hmac-sha256", "header": "x-s", "content": "{body}{odd}"}]}'),
    ('{"schemes": [{"algorithm": "hmac-sha256", "header": "x-s", "content": "{id}{body}"}]}'), ('{"schemes": [{"algorithm": "hmac-sha256", "header": "x-s", "content": "{timestamp}{body}"}]}'),
    ('{"schemes": [{"algorithm": "token", "header": "x-s", "content": "{body}"}]}'), ('{"schemes": [{"algorithm": "hmac-sha256", "header": "x-s", "until": "soon"}]}'),
    ('{"schemes": [{"algorithm": "hmac-sha256", "header": "x-s"}], "headers": ["x-s"]}'), ('{"id": []}'), ('{"id": ["odd"]}'), ('{"id": ["body:a b"]}'), ('{"type": "body"}'),
    ('{"tolerance": "x"}'), ('{"headers": ["X"]}'), ('{"headers": "x"}'), ('{"id": ["body:data.id"], "type": "header:x-type", "tolerance": 60}')
) as given (settings);
select name, pg_temp.refusal(format('select keelson.webhook_source_set(%L, ''hmac'')', name)) as refusal
from (values ('health'), ('Odd'), ('odd.name'), ('')) as given (name);
select pg_temp.refusal('select keelson.webhook_source_set(''new'')'), pg_temp.refusal('select keelson.webhook_source_set(''new'', ''none'')');
select pg_temp.refusal('select keelson.webhook_secret_add(''none'', ''long enough'')'), pg_temp.refusal('select keelson.webhook_secret_add(''forge'', ''short'')'),
    pg_temp.refusal('select keelson.webhook_secret_remove(''forge'', gen_random_uuid())'), pg_temp.refusal('select keelson.webhook_source_remove(''none'')'),
    pg_temp.refusal('select keelson.webhook_source_remove(''stripe'')');
select keelson.webhook_source_remove('odd');
-- Secrets: several, replaced with an overlap; sealed, and counted by the keyring.
select keelson.webhook_secret_add('forge', 'another secret of the forge', interval '1 hour') is not null as is_added;
select count(*), count(expires_at), bool_or(position('forge' in encode(secret, 'escape')) > 0) as is_readable from keelson.webhook_source_secrets where source = 'forge';
update keelson.webhook_source_secrets set expires_at = now() - interval '1 second' where expires_at is not null;
select (keelson._webhook_source_shown('forge')).secrets;
select keelson.webhook_secret_add('forge', 'a secret of the forge', interval '0') is not null as is_added;
select count(*) from keelson.webhook_source_secrets where source = 'forge';
select count(*) from keelson.keyring_uses where relation = 'keelson.webhook_source_secrets';
select e.data - 'databaseRole' - 'secretId' as data, count(*) from keelson.audit_events as e
where e.event_type = 'config.change' and e.data ->> 'source' = 'forge' group by 1 order by 1;

-- Taking in, through the dispatcher. A body signed as the forge does.
create function pg_temp.send(source text, body bytea, headers jsonb)
returns table (status integer, code text, message text, duplicate boolean)
language plpgsql
as $$
declare
    reply keelson.reply;
    said jsonb;
begin
    select d.* into reply
    from keelson.dispatch(
        (select r.id from keelson.routes as r where r.method = 'POST' and r.template = 'webhooks/:id'), null,
        json_build_object('path', json_build_object('id', source)), body,
        json_build_object('ip', '192.0.2.7', 'userAgent', 'regress', 'contentType', 'application/json', 'headers', headers)
    ) as d;
    said := convert_from(reply.body, 'UTF8');
    return query select reply.status, said ->> 'code', said ->> 'error', (said ->> 'duplicate')::boolean;
exception when others then
    get stacked diagnostics code = constraint_name;
    return query select substr(sqlstate, 3)::integer, code, sqlerrm, null::boolean;
end
$$;
create function pg_temp.forge(id text, type text, body text)
returns table (status integer, code text, message text, duplicate boolean)
language sql
as $$
select * from pg_temp.send('forge', convert_to(body, 'UTF8'), jsonb_build_object(
    'x-hub-signature-256', 'sha256=' || encode(public.hmac(convert_to(body, 'UTF8'), 'a secret of the forge', 'sha256'), 'hex'),
    'x-github-delivery', id, 'x-github-event', type, 'x-other', 'left out'
))
$$;
-- Until nothing waits for the worker.
create procedure pg_temp.settle()
language plpgsql
as $$
begin
    for i in 1 .. 3000 loop
        if not exists (select from keelson.incoming_events as e where e.due_at <= clock_timestamp()) then
            return;
        end if;
        commit;
        perform pg_sleep(0.01);
    end loop;
    raise exception 'the worker does nothing';
end
$$;
select * from pg_temp.forge('one', 'push', '{"ref": "main"}');
select * from pg_temp.forge('one', 'push', '{"ref": "main"}');
select * from pg_temp.forge('one', 'push', '{"ref": "other"}');
call pg_temp.settle();
select source, external_id, event_type, headers, convert_from(body, 'UTF8') as body, handlers, processed_at is not null as is_processed, tries
from keelson.incoming_events where source = 'forge';
-- Refused, and nothing is stored.
select * from pg_temp.send('none', '{}', '{}');
select * from pg_temp.send('ghl', '{}', '{}');
select * from pg_temp.send('stripe', '{}', '{}');
select * from pg_temp.send('forge', '{}', '{}');
select * from pg_temp.send('forge', null, '{}');
select * from pg_temp.send('forge', '{}', '{"x-hub-signature-256": "sha256=00"}');
select * from pg_temp.send('forge', '{}', '{"x-hub-signature-256": "md5=00"}');
select * from pg_temp.forge(null, 'push', '{"ref": "main"}');
select * from pg_temp.forge(repeat('x', 256), 'push', '{"ref": "main"}');
select body, f.*
from (values ('[]'), ('"text"'), ('{'), (''), ('{"a": "\u0000"}'), ('{"a": 1e200000}')) as given (body)
cross join lateral pg_temp.forge('odd', 'push', body) as f;
select (pg_temp.forge('odd', 'push', repeat('[', 100000))).code;
select count(*) as events, (select count(*) from keelson.webhook_receipts) as receipts from keelson.incoming_events where source in ('forge', 'ghl');
-- They are counted.
create procedure pg_temp.await_rejections(wanted integer)
language plpgsql
as $$
begin
    for i in 1 .. 3000 loop
        exit when (select coalesce(sum(rejections), 0) from keelson.webhook_rejections where source in ('', 'forge', 'stripe')) >= wanted;
        commit;
        perform pg_sleep(0.01);
    end loop;
end
$$;
call pg_temp.await_rejections(16);
select source, fault, rejections, last_address, last_user_agent, last_at >= first_at as is_sound from keelson.webhook_rejections where source in ('', 'forge', 'stripe') order by 1, 2;

-- Of what is kept of them no character is cut in two.
do $$
begin
    perform keelson.dispatch(
        (select r.id from keelson.routes as r where r.method = 'POST' and r.template = 'webhooks/:id'), null, '{"path": {"id": "none"}}', '{}',
        json_build_object('ip', '192.0.2.7', 'userAgent', repeat('é', 100), 'contentType', 'application/json', 'headers', '{}'::json)
    );
exception when sqlstate 'KS404' then
    null;
end
$$;
call pg_temp.await_rejections(17);
select char_length(last_user_agent), octet_length(last_user_agent) from keelson.webhook_rejections where source = '';

-- Handlers: who may register what, and as whom it runs.
create schema hooks;
grant usage on schema hooks to keelson_app;
create table hooks.seen (id uuid, what text, as_whom name);
grant insert, select on hooks.seen to keelson_app;
create function hooks.take(event keelson.incoming_event)
returns void
language plpgsql
as $$
begin
    insert into hooks.seen (id, what, as_whom) values (event.id, event.type || ' ' || (event.payload ->> 'ref'), current_user);
    if event.payload ->> 'ref' = 'bad' then
        raise exception 'no such branch, says whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw' using errcode = 'KS404';
    elsif event.payload ->> 'ref' = 'path' then
        perform set_config('search_path', 'hooks', false);
    end if;
end
$$;
create function hooks.other(event keelson.incoming_event) returns text language plpgsql as $$ begin return null; end $$;
-- The last in order: what those before have set is not there any more.
create function hooks.zeal(event keelson.incoming_event)
returns void
language plpgsql
as $$
begin
    insert into hooks.seen (id, what, as_whom) values (event.id, 'finds ' || current_setting('search_path'), current_user);
end
$$;
create function hooks.unfit(event jsonb) returns void language plpgsql as $$ begin end $$;
grant execute on function hooks.take(keelson.incoming_event), hooks.other(keelson.incoming_event), hooks.zeal(keelson.incoming_event) to keelson_app;
create role regress_hooks;
grant usage on schema hooks to regress_hooks;
select statement, pg_temp.refusal('select keelson.webhook_handler(' || statement || ')') as refusal
from (values
    ($$'none', 'push', 'hooks.take'$$), ($$'forge', '', 'hooks.take'$$), ($$'forge', 'push', 'hooks.none'$$), ($$'forge', 'push', 'take'$$),
    ($$'forge', 'push', 'hooks.unfit'$$), ($$'forge', 'push', 'hooks.take', 'keelson_system'$$), ($$'forge', 'push', 'hooks.take', 'none'$$)
) as given (statement);
set session authorization keelson_admin;
select keelson.webhook_handler('forge', 'push', 'keelson._stripe_checkout');
reset session authorization;
revoke execute on function hooks.other(keelson.incoming_event) from public;
select pg_temp.refusal($$select keelson.webhook_handler('forge', 'pull', 'hooks.other', 'regress_hooks')$$);
select keelson.webhook_handler('forge', 'push', 'hooks.take');
select keelson.webhook_handler('forge', 'pu*', 'hooks.other');
select keelson.webhook_handler('forge', 'pu*', 'hooks.zeal');
select source, event_type, function, owner, role from keelson.webhook_handlers where source = 'forge' order by 2, 3;
select * from pg_temp.forge('two', 'push', '{"ref": "main"}');
select * from pg_temp.forge('three', 'pull', '{"ref": "main"}');
select * from pg_temp.forge('four', 'star', '{"ref": "main"}');
select * from pg_temp.forge('five', 'push', '{"ref": "path"}');
call pg_temp.settle();
select external_id, event_type, handlers, processed_at is not null as is_processed from keelson.incoming_events where source = 'forge' order by id;
select what, as_whom, count(*) from hooks.seen group by 1, 2 order by 1;

-- What would run at the commit, when the worker is somebody else, is refused; in the worker's session a handler is no administrator.
create function hooks.try(statement text) returns text language plpgsql as $$
begin
    execute statement;
    return 'went through';
exception when others then
    return sqlerrm;
end
$$;
create function hooks.late() returns trigger language plpgsql as $$
begin
    insert into hooks.seen (what, as_whom) values ('late: ' || hooks.try('set constraints all deferred'), current_user);
    return null;
end
$$;
create function hooks.leave(event keelson.incoming_event) returns void language plpgsql as $$
begin
    create temp table late (id integer);
    create constraint trigger late after insert on late deferrable initially deferred for each row execute function hooks.late();
    insert into late values (1);
    insert into hooks.seen (what, as_whom)
    select what || ': ' || hooks.try(statement), current_user
    from (values
        ('held', 'declare held cursor with hold for select 1'), ('prepared', 'prepare x as select 1'),
        ('admin', 'select keelson.role_set(''regress_hooks'', ''A handler''''s'', ''{users.read}'')')
    ) as given (what, statement);
end
$$;
select keelson.webhook_handler('forge', 'leave', 'hooks.leave');
select * from pg_temp.forge('leaving', 'leave', '{"ref": "main"}');
call pg_temp.settle();
select what, as_whom from hooks.seen where id is null order by 1;
select keelson.webhook_handler_remove('forge', 'leave', 'hooks.leave');

-- Failures: nothing of it stays but the record; again after 15, 30, 60 minutes, then by hand.
select * from pg_temp.forge('six', 'push', '{"ref": "bad"}');
call pg_temp.settle();
create view pg_temp.failed as
select f.id, f.external_id, f.state, f.failures, f.error_code, f.error, f.handler,
    round(extract(epoch from f.next_retry_at - clock_timestamp()) / 60) as minutes, f.resolved_at is not null as is_resolved, e.due_at is not distinct from f.next_retry_at as is_due_then
from keelson.failed_webhook_events as f join keelson.incoming_events as e on e.id = f.id where f.source = 'forge';
select external_id, state, failures, error_code, error, handler, minutes, is_resolved, is_due_then from pg_temp.failed;
select count(*) as of_bad from hooks.seen where what = 'push bad';
select count(*) from keelson.incoming_events as e where e.due_at <= clock_timestamp();
do $$
begin
    for i in 1 .. 3 loop
        update keelson.incoming_events set due_at = '2999-01-01' where external_id = 'six';
        perform keelson._incoming_run(id) from keelson.incoming_events where external_id = 'six';
        perform set_config('regress.waits', coalesce(current_setting('regress.waits', true), '') || ' '
            || coalesce((select state || ':' || coalesce(minutes::text, 'none') from pg_temp.failed where external_id = 'six'), ''), false);
    end loop;
end
$$;
select current_setting('regress.waits') as waits;
select pg_temp.refusal('select keelson.webhook_retry(gen_random_uuid())');
select (keelson.webhook_retry(id)).state from pg_temp.failed where external_id = 'six';
call pg_temp.settle();
select external_id, state, failures, minutes from pg_temp.failed;
-- Mended, it is handled.
create or replace function hooks.take(event keelson.incoming_event)
returns void
language plpgsql
as $$
begin
    insert into hooks.seen (id, what, as_whom) values (event.id, event.type || ' ' || (event.payload ->> 'ref'), current_user);
end
$$;
select (keelson.webhook_retry(id)).state from pg_temp.failed where external_id = 'six';
call pg_temp.settle();
select external_id, state, failures, minutes, is_resolved from pg_temp.failed;
select count(*) as of_bad from hooks.seen where what = 'push bad';
select pg_temp.refusal(format('select keelson.webhook_retry(%L)', id)), pg_temp.refusal(format('select keelson.webhook_dismiss(%L)', id)) from pg_temp.failed where external_id = 'six';
select e.data - 'eventId' - 'databaseRole' as data, count(*) from keelson.audit_events as e where e.event_type = 'webhook.failed' group by 1 order by 1;

-- What takes the server down each time is given up; the sixth of a day is told.
insert into keelson.incoming_events (id, source, external_id, event_type, headers, body, due_at, tries)
select keelson.uuid7(), 'forge', 'crash ' || n, 'star', '{}', '{}', now(), 3 from generate_series(1, 7) as n;
select count(c.id) as claimed from generate_series(1, 8) cross join lateral keelson._incoming_claim('-infinity') as c;
call pg_temp.settle();
select error_code, error, state, count(*) from pg_temp.failed where external_id like 'crash%' group by 1, 2, 3;
select exhausted >= 7 as is_counted from keelson.webhook_exhaustions where day = (now() at time zone 'UTC')::date;
select outcome, data ->> 'exhaustedToday' as exhausted from keelson.audit_events where event_type = 'webhook.exhausted';
select keelson._alert_incoming_exhausted(6, now()) ~ '^[0-9]+ incoming' as is_alert, keelson._alert_incoming_exhausted(60, now()) is null as is_none;
select (keelson.webhook_health()).status, (keelson.webhook_health()).exhausted;
select name, labels, value > 0 as is_counted from keelson._incoming_metrics() where labels ->> 'state' = 'exhausted' or name like '%today' order by 1;
select (keelson.webhook_dismiss(id)).state, count(*) from pg_temp.failed where external_id like 'crash%' group by 1;
select (keelson.webhook_health()).exhausted;

-- A canceled handler has failed; the time that it may take is not the others'.
create or replace function hooks.take(event keelson.incoming_event)
returns void
language plpgsql
as $$
begin
    raise exception 'it takes too long' using errcode = 'query_canceled';
end
$$;
select * from pg_temp.forge('seven', 'push', '{"ref": "slow"}');
call pg_temp.settle();
select state, error_code from pg_temp.failed where external_id = 'seven';

-- So has one whose assertion does not hold; what a handler has left in the session is nobody else's.
create or replace function hooks.take(event keelson.incoming_event)
returns void
language plpgsql
as $$
begin
    perform pg_advisory_lock(1815);
    create temporary table left_here ();
    assert event.payload ->> 'ref' <> 'untrue', 'it is not so';
end
$$;
select * from pg_temp.forge('eight', 'push', '{"ref": "untrue"}');
select * from pg_temp.forge('nine', 'push', '{"ref": "true"}');
select * from pg_temp.forge('ten', 'push', '{"ref": "true"}');
call pg_temp.settle();
select external_id, state, error_code, error from pg_temp.failed where external_id in ('eight', 'nine', 'ten');
select count(*) as locks from pg_locks where locktype = 'advisory' and objid = 1815;

-- Each look begins where the last has found something: what a held snapshot keeps in the index is not read again and again.
begin;
insert into keelson.incoming_events (id, source, external_id, event_type, headers, body, due_at)
select keelson.uuid7(), 'forge', 'flat ' || n, 'star', '{}', '{}', now() - make_interval(secs => 400 - n) from generate_series(1, 300) as n;
select keelson._failed_webhooks_retry(300) as handled;
select pg_stat_get_xact_tuples_returned('keelson.incoming_events_due_at_idx'::regclass) < 1500 as is_flat;
rollback;

-- Older never wins.
select keelson.webhook_is_newer('forge', 'branch main', moment::timestamptz, rank)
from (values (1, '2025-01-02 00:00Z', 0), (2, '2025-01-01 00:00Z', 5), (3, '2025-01-02 00:00Z', 0), (4, '2025-01-02 00:00Z', 1), (5, '2025-01-03 00:00Z', 0), (6, '2025-01-02 00:00Z', 9)) as given (place, moment, rank)
order by place;
select pg_temp.refusal('select keelson.webhook_is_newer(''forge'', null, now())');
select keelson.webhook_is_newer('forge', 'branch new', now()), keelson._webhook_versions_purge(1), keelson._webhook_versions_purge(10), count(*) from keelson.webhook_versions;

-- Clean-up: what was handled a week ago, what was resolved a month ago; that it came is known for ever.
update keelson.incoming_events set processed_at = now() - interval '8 days' where source = 'forge' and external_id in ('one', 'two');
update keelson.failed_webhook_events set resolved_at = now() - interval '31 days' where external_id = 'six';
select keelson._processed_webhooks_purge(1), keelson._processed_webhooks_purge(10), keelson._processed_webhooks_purge(10), keelson._resolved_webhooks_purge(10), keelson._resolved_webhooks_purge(10);
select * from pg_temp.forge('one', 'push', '{"ref": "main"}');
-- Of those that nobody handles or dismisses: what has failed last 90 days ago.
insert into keelson.incoming_events (id, source, external_id, event_type, headers, body)
select keelson._uuid7_floor(now() - make_interval(days => age)), 'forge', 'left ' || age, 'push', '{}', '{}' from unnest('{89,91,92,93,94}'::integer[]) as age;
insert into keelson.failed_webhook_events (id, source, external_id, event_type, state, failures, error_code, error, last_failed_at, next_retry_at)
select e.id, e.source, e.external_id, e.event_type, case when e.external_id = 'left 94' then 'failed' else 'exhausted' end, 4, 'P0001', 'no',
    case when e.external_id = 'left 93' then now() - interval '1 day' else now() - make_interval(days => substr(e.external_id, 6)::integer) end,
    case when e.external_id = 'left 94' then now() + interval '1 day' end
from keelson.incoming_events as e where e.external_id like 'left %';
select keelson._exhausted_webhooks_purge(1), keelson._exhausted_webhooks_purge(10), keelson._exhausted_webhooks_purge(10);
select e.external_id, f.state from keelson.incoming_events as e full join keelson.failed_webhook_events as f on f.id = e.id
where coalesce(e.external_id, f.external_id) like 'left %' order by e.external_id;

-- Administration is for who may.
begin;
select keelson.user_create('plain@example.com', 'a long enough secret 1815') is not null as is_made;
select keelson.act_as('plain@example.com') is not null as is_acting;
select pg_temp.refusal(statement) from (values
    ('select keelson.admin_webhooks_failed()'), ('select keelson.admin_webhook_retry(keelson.current_user_id())'), ('select keelson.admin_webhook_dismiss(keelson.current_user_id())'),
    ('select keelson.admin_webhook_sources()'), ('select keelson.admin_webhook_source_set(''x'')'), ('select keelson.admin_webhook_source_remove(''x'')'),
    ('select keelson.admin_webhook_secrets(''x'')'), ('select keelson.admin_webhook_secret_add(''x'', ''y'')'), ('select keelson.admin_webhook_secret_remove(''x'', keelson.current_user_id())'),
    ('select keelson.webhook_retry(keelson.current_user_id())'), ('select keelson.webhook_handler(''forge'', ''push'', ''hooks.take'')'), ('select * from keelson.incoming_events'),
    ('select keelson.stripe_price_set(''a'', ''pro'')')
) as given (statement);
rollback;

delete from keelson.incoming_events where source = 'forge';
delete from keelson.failed_webhook_events where source = 'forge';
delete from keelson.webhook_handlers where source = 'forge';
delete from keelson.webhook_rejections;
delete from keelson.webhook_exhaustions;
select keelson.webhook_source_remove('forge');
drop schema hooks cascade;
drop role regress_hooks;
