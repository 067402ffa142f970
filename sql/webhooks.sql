-- Webhooks: signatures, matching, templates, endpoints and events, as far as nothing is sent.
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- Standard Webhooks' own vector.
select keelson._webhook_signature(
    'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, convert_to('{"test": 2432232314}', 'UTF8')
);
-- Without the prefix, and by the server's own HMAC.
select keelson._webhook_signature(
    'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, convert_to('{"test": 2432232314}', 'UTF8')
) = 'v1,' || encode(public.hmac(
    convert_to('msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}', 'UTF8'), decode('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'base64'), 'sha256'
), 'base64') as is_equal;
select keelson._webhook_signature('whsec_', 'a', 1, '');
select keelson._webhook_signature('whsec_c2hvcnQ=', 'a', 1, '');
select keelson._webhook_signature('whsec_!!!!', 'a', 1, '');

-- Globs.
select glob, name, keelson._webhook_glob_matches(glob, name)
from (values
    ('user.*', 'user.created'), ('user.*', 'user'), ('*', 'user.created'), ('*.created', 'user.created'), ('user.created', 'user.created'),
    ('user.create', 'user.created'), ('u*r.*d', 'user.created'), ('*a*a*a*b', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), ('', 'user'), ('**', 'x'), ('user.*.x', 'user.a.b.x')
) as given (glob, name);

-- Templates.
select keelson._webhook_render(template::jsonb, '{"type": "user.updated", "data": {"n": 5, "s": "a\"b", "list": [1, 2, 3], "o": {"k": true}}}')
from (values
    ('"{{ $.data.n }}"'), ('"n is {{ $.data.n }}, s is {{$.data.s}}"'), ('["{{ $.data.list[*] }}"]'), ('["{{ $.data.n }}", 1]'), ('{"a": {"b": "{{ $.data.o }}"}}'),
    ('"{{ $.data.none }}"'), ('"none: {{ $.data.none }}."'), ('5'), ('null'), ('{}'), ('[]'), ('"{{ $.data.list[*] ? (@ > 1) }}"'), ('"no places"'), ('"{{"')
) as given (template);

-- What is filled in is not looked at for places.
select keelson._webhook_render('"{{ $.a }} and {{ $.b }}"', '{"a": "{{ $.b }}", "b": "b"}');
-- One that would not end is stopped, and so is one that makes much of little.
create function pg_temp.endless(path text)
returns text
language sql
as $$ select repeat('exists(' || path || ' ? (', 14) || '@ == "none"' || repeat('))', 14) $$;
set statement_timeout = '1min';
select keelson._webhook_body(to_jsonb('{{ $.data ? (' || pg_temp.endless('$.data.list[*]') || ') }}'), '{"data": {"list": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}}');
select coalesce(b.body, b.fault) is not null as has_ended from keelson._webhook_body('"{{ $.data.text like_regex \"((a*)*)*b\\\\1\" }}"', jsonb_build_object('data', jsonb_build_object('text', repeat('a', 40)))) as b;
select keelson._webhook_body((select jsonb_agg('{{ $ }}'::text) from generate_series(1, 3)), jsonb_build_object('a', repeat('a', 360000)));
select keelson._webhook_body('"{{ $x }}"', '{}');
select keelson._webhook_filter_query(pg_temp.endless('$.list[*]'), '{"list": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}');
select keelson._webhook_filter_query(pg_temp.endless('$.list[*]'), '{}');
reset statement_timeout;

-- Somebody with endpoints.
set client_min_messages = warning;
create temporary table person (id uuid);
insert into person
select ((convert_from((d.reply).body, 'UTF8')::jsonb -> 'user') ->> 'id')::uuid
from (
    select keelson.dispatch(
        (select r.id from keelson.routes as r where r.method = 'POST' and r.template = 'auth/register'), null, null,
        convert_to('{"email": "hooks@example.com", "password": "a long enough secret 1815"}', 'UTF8'),
        '{"ip": "192.0.2.1", "contentType": "application/json"}'
    ) as reply
) as d;
grant select on person to public;
select keelson.webhook_event_type('invoice.paid', 'An invoice was paid.', '{"amount": 120.5, "currency": "EUR", "customer": {"name": "Ada"}}');
select keelson.webhook_event_type('invoice.paid', 'An invoice has been paid.', '{"amount": 120.5, "currency": "EUR", "customer": {"name": "Ada"}}');
select keelson.webhook_event_type('user.updated', 'Mine.', '{}');
select keelson.webhook_event_type('Invoice', 'Bad name.', '{}');
select keelson.webhook_event_type('invoice.bad', '', '{}');
select keelson.webhook_event_type('invoice.bad', 'No object.', '[]');

-- Each is refused, and nothing is stored.
create function pg_temp.try_create(arguments text)
returns text
language plpgsql
as $$
begin
    execute 'select keelson.webhook_create(' || arguments || ')';
    return 'made';
exception when others then
    return sqlstate || ' ' || sqlerrm;
end
$$;
begin;
set local statement_timeout = '1min';
select keelson.act_as('hooks@example.com') is not null as is_acting;
select arguments, pg_temp.try_create(arguments)
from (values
    ('null, null'), ('''https://example.com/'', null'), ('''https://example.com/'', ''{}'''), ('''https://example.com/'', ''{no.such}'''),
    ('''https://example.com/'', ''{"user.* "}'''), ('''ftp://example.com/'', ''{*}'''), ('''https://example.com/'', ''{*}'', filter => ''$.a =''' ),
    ('''https://example.com/'', ''{*}'', filter => ''$.a'''), ('''https://example.com/'', ''{*}'', filter => ''$.a == $b'''), ('''https://example.com/'', ''{*}'', filter => ''$.a ? (@ > 1)'''),
    ('''https://example.com/'', ''{*}'', filter => pg_temp.endless(''$[0,0,0,0,0,0,0,0,0,0]'')'), ('''https://example.com/'', ''{*}'', filter => ''exists($.a[*] ? (@ == $b))'''),
    ('''https://example.com/'', ''{*}'', transform => ''"{{ $.a[ }}"'''), ('''https://example.com/'', ''{*}'', transform => ''{"a": ["{{ $x }}"]}'''),
    ('''https://example.com/'', ''{*}'', headers => ''{"X-A": "a\r\nX-B: b"}'''), ('''https://example.com/'', ''{*}'', headers => ''{"X A": "a"}'''),
    ('''https://example.com/'', ''{*}'', headers => ''{"webhook-id": "a"}'''), ('''https://example.com/'', ''{*}'', headers => ''{"Host": "a"}'''),
    ('''https://example.com/'', ''{*}'', headers => ''{"X-A": 5}'''), ('''https://example.com/'', ''{*}'', headers => ''[]'''),
    ('''https://example.com/'', ''{*}'', rate_limit => 0'), ('''https://example.com/'', ''{*}'', retry_schedule => ''{}'''), ('''https://example.com/'', ''{*}'', retry_schedule => ''{5,0}'''),
    ('''https://example.com/'', ''{*}'', description => repeat(''x'', 201)')
) as given (arguments);
select count(*) as endpoints from keelson.webhook_endpoints;
select w.url, w.events, w.filter, w.transform, w.headers, w.rate_limit, w.retry_schedule, w.enabled, w.secret ~ '^whsec_[A-Za-z0-9+/]{43}=$' as has_secret
from keelson.webhook_create('https://Example.com/hooks', '{invoice.*}', filter => '$.amount > 100 && $.currency like_regex "^E.*R$"',
    transform => '{"text": "{{ $.data.customer.name }} paid {{ $.data.amount }}"}', headers => '{"Authorization": "Bearer x"}', rate_limit => 5, retry_schedule => '{1,2,3}', enabled => false) as w;
select w.matches, w.method, w.url, w.headers - '{webhook-id,webhook-timestamp,webhook-signature}'::text[] as headers, w.body
from keelson.webhook_endpoints as e cross join lateral keelson.webhook_dry_run(e.id, 'invoice.paid') as w;
select keelson.webhook_dry_run(e.id, 'no.such') from keelson.webhook_endpoints as e;
rollback;

-- Nobody's filter holds up who emits: what it does not decide in time is sent. A dry run says so.
begin;
set local statement_timeout = '1min';
select keelson.act_as('hooks@example.com') is not null as is_acting;
select w.enabled from keelson.webhook_create('https://example.com/endless', '{invoice.*}', filter => pg_temp.endless('$.list[*]')) as w;
select w.enabled from keelson.webhook_create('https://example.com/never', '{invoice.*}', filter => '$.amount > 1000') as w;
select keelson.webhook_emit('invoice.paid', '{"list": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}') is not null as is_wanted;
select keelson.webhook_emit('invoice.paid', '{"list": []}') is not null as is_wanted;
savepoint s;
select keelson.webhook_dry_run(e.id, 'invoice.paid', '{"list": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}') from keelson.webhook_endpoints as e where e.url like '%endless';
rollback to s;
select keelson.webhook_dry_run(e.id, 'invoice.paid', jsonb_build_object('x', repeat('x', 300000))) from keelson.webhook_endpoints as e where e.url like '%endless';
rollback;

-- Nor does one fail whoever emits: what it cannot be evaluated for is not sent, and the others are. A dry run says so.
begin;
select keelson.act_as('hooks@example.com') is not null as is_acting;
select w.enabled from keelson.webhook_create('https://example.com/broken', '{invoice.*}', filter => '$.at.datetime("HH_MM") == "x"') as w;
select keelson.webhook_emit('invoice.paid', '{"at": "12:30"}') is null as is_unwanted;
select w.enabled from keelson.webhook_create('https://example.com/whole', '{invoice.*}') as w;
select keelson.webhook_emit('invoice.paid', '{"at": "12:30"}') is not null as is_wanted;
select e.url from keelson.deliveries as d join keelson.webhook_endpoints as e on e.user_id = d.user_id and e.id = d.lane;
select keelson.webhook_dry_run(e.id, 'invoice.paid', '{"at": "12:30"}') from keelson.webhook_endpoints as e where e.url like '%broken';
rollback;

-- Events: who may emit what for whom, and what is recorded.
begin;
select keelson.act_as('hooks@example.com') is not null as is_acting;
select w.enabled from keelson.webhook_create('https://example.com/one', '{invoice.*}', filter => '$.amount > 100') as w;
select w.enabled from keelson.webhook_create('https://example.com/two', '{*}') as w;
select w.enabled from keelson.webhook_create('https://example.com/three', '{*}', enabled => false) as w;
commit;
-- Nothing is to go out of here.
select count(keelson.courier_breaker_set(e.id, 'forced_open')) from keelson.webhook_endpoints as e join person as p on p.id = e.user_id;
begin;
select keelson.act_as('hooks@example.com') is not null as is_acting;
select keelson.webhook_emit('invoice.paid', '{"amount": 150, "currency": "EUR"}') is not null as is_wanted;
select keelson.webhook_emit('invoice.paid', '{"amount": 50, "currency": "EUR"}') is not null as is_wanted;
select keelson.webhook_emit('invoice.paid', '{"amount": "text"}', ordering_key => 'k') is not null as is_wanted;
savepoint s;
select keelson.webhook_emit('user.updated', '{}');
rollback to s;
select keelson.webhook_emit('invoice.paid', '{}', gen_random_uuid());
rollback to s;
select keelson.webhook_emit('invoice.lost', '{}');
rollback to s;
select keelson.webhook_emit('invoice.paid', '[]');
rollback to s;
select keelson.webhook_emit('invoice.paid', jsonb_build_object('x', repeat('x', 300000)));
rollback to s;
commit;
select e.body::jsonb -> 'data' as data, e.body::jsonb ->> 'type' as type, cardinality(e.endpoint_ids) as endpoints, count(d.id) as deliveries, max(d.ordering_key) as ordering_key
from keelson.webhook_events as e
join person as p on p.id = e.user_id
left join keelson.deliveries as d on d.user_id = e.user_id and d.ref = e.id
group by e.id, e.body, e.endpoint_ids
order by e.id;
-- What rolls back leaves nothing.
begin;
select keelson.webhook_emit('invoice.paid', '{"amount": 150}', (select id from person)) is not null as is_wanted;
rollback;
select count(*) from keelson.deliveries as d join person as p on p.id = d.user_id;
-- Somebody without endpoints costs nothing.
select keelson.webhook_emit('invoice.paid', '{"amount": 150}', gen_random_uuid()) is null as is_unwanted;
select (keelson.webhook_accounting()).missing, (keelson.webhook_accounting()).doubled;

-- Quarantine, by hand.
select keelson._deliveries_quarantine(false) as quarantined_of_this_start;
update keelson.deliveries as d set is_quarantined = true, due_at = 'infinity' from person as p where p.id = d.user_id;
begin;
select keelson.act_as('hooks@example.com') is not null as is_acting;
select w.state, count(*) from keelson.webhook_endpoints as e cross join lateral keelson.webhook_deliveries(e.id) as w group by 1;
select keelson.webhook_delivery_replay(e.id, w.id)
from keelson.webhook_endpoints as e cross join lateral keelson.webhook_deliveries(e.id) as w;
rollback;
-- One that came since waits behind them, in its key's order, until they are gone.
select keelson.webhook_emit('invoice.paid', '{"amount": "later"}', id, 'k') is not null as is_wanted from person;
update keelson.deliveries as d set due_at = 'infinity' from person as p where p.id = d.user_id and not d.is_quarantined;
select keelson.deliveries_discard(created_until => now() - interval '1 day') as discarded_of_older;
select keelson.deliveries_release(created_until => now() - interval '1 day') as released_of_older;
select keelson.deliveries_discard() as discarded;
select d.due_at < 'infinity' as is_due from keelson.deliveries as d join person as p on p.id = d.user_id;
select l.state, l.error, count(*) from keelson.deliveries_log as l join person as p on p.id = l.user_id group by 1, 2;
select (keelson.webhook_accounting()).missing, (keelson.webhook_accounting()).doubled;

-- What was delivered is not read to find what was not, however much of it there is.
-- The least of three: one of them may have to plan anew, since the table has just been analysed.
create function pg_temp.blocks(statement text) returns bigint language plpgsql as $$
declare
    plan json;
    least_so_far bigint;
begin
    for i in 1 .. 3 loop
        execute 'explain (analyze, buffers, timing off, format json) ' || statement into plan;
        least_so_far := least(
            least_so_far, (plan #>> '{0,Plan,Shared Hit Blocks}')::bigint + (plan #>> '{0,Plan,Shared Read Blocks}')::bigint
        );
    end loop;
    return least_so_far;
end
$$;
begin;
select keelson.act_as('hooks@example.com') is not null as is_acting;
select e.id as endpoint from keelson.webhook_endpoints as e where e.url like '%/two' \gset
select format('select keelson.webhook_replay(%L, now() - interval ''1 hour'', state => ''cancelled'')', :'endpoint') as replay \gset
select replayed > 0 as is_replayed from keelson.webhook_replay(:'endpoint', now() - interval '1 hour', state => 'cancelled');
select pg_temp.blocks(:'replay') > 0 as is_warm;
select pg_temp.blocks(:'replay') as before \gset
rollback;
insert into keelson.deliveries_log (user_id, id, lane, kind, ref, state, attempts, finished_at)
select p.id, keelson.uuid7(), :'endpoint', 'webhook', p.id, 'delivered', 1, now() from person as p, generate_series(1, 20000);
analyze keelson.deliveries_log;
begin;
select keelson.act_as('hooks@example.com') is not null as is_acting;
select replayed > 0 as is_replayed from keelson.webhook_replay(:'endpoint', now() - interval '1 hour', state => 'cancelled');
select pg_temp.blocks(:'replay') - :before < 50 as costs_the_same;
rollback;

-- Nobody but their user sees them.
set role keelson_app;
select count(*) from keelson.webhook_endpoints;
select count(*) from keelson.webhook_events;
select secret from keelson.webhook_endpoints;
select keelson.webhook_list();
reset role;

delete from keelson.deliveries as d using person as p where p.id = d.user_id;
delete from keelson.deliveries_log as l using person as p where p.id = l.user_id;
delete from keelson.webhook_events as e using person as p where p.id = e.user_id;
delete from keelson.courier_lanes as l using person as p where p.id = l.user_id;
delete from keelson.webhook_endpoints as e using person as p where p.id = e.user_id;
