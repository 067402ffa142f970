-- Rate limits and blocks, through the dispatcher.
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- Elsewhere limits are off, so that tests do not get in each other's way.
alter system set keelson.rate_limits = on;
select pg_reload_conf();
\c -
\set VERBOSITY terse
\set SHOW_CONTEXT never
show keelson.rate_limits;

-- A request as the gateway sends it; the tests of limits have addresses of their own.
create function pg_temp.request(
    endpoint text,
    body text default null,
    token text default null,
    ip text default '198.51.100.1',
    repeat integer default 1,
    arguments json default null
)
returns table (status integer, headers jsonb, answer jsonb)
language plpgsql
as $$
declare
    reply keelson.reply;
    state text;
    code text;
    shown text;
    message text;
begin
    for i in 1 .. repeat loop
        begin
            select d.* into reply
            from keelson.dispatch(
                (select r.id from keelson.routes as r where r.method || ' ' || r.template = endpoint), token, arguments,
                convert_to(body, 'UTF8'),
                (jsonb_build_object('ip', ip, 'contentType', 'application/json')
                    || case when token is not null then '{"via": "bearer"}'::jsonb else '{}' end)::json
            ) as d;
            status := reply.status;
            headers := reply.headers;
            answer := convert_from(reply.body, 'UTF8');
        exception when others then
            get stacked diagnostics
                state = returned_sqlstate, code = constraint_name, shown = pg_datatype_name, message = message_text;
            status := case when state like 'KS%' then substr(state, 3) else '500' end;
            headers := shown;
            answer := jsonb_build_object('code', code, 'error', message);
        end;
    end loop;
    return next;
end
$$;

-- Seconds that are left of the window by these headers, as a sign; others as they are.
create function pg_temp.left_over(seconds text, headers jsonb)
returns text
language sql
as $$
    select case
        when seconds::int between (headers ->> 'X-RateLimit-Reset')::bigint - extract(epoch from clock_timestamp()) - 1
            and substring(headers ->> 'RateLimit-Policy', 'w=(\d+)')::int
        then '…'
        else seconds
    end
$$;

-- What can be compared of the headers: no clock, no digest.
create function pg_temp.masked(headers jsonb)
returns table (name text, value text)
language sql
as $$
    select h.key,
        case h.key
            when 'X-RateLimit-Reset' then
                case when h.value::bigint - extract(epoch from clock_timestamp()) between 0 and 901 then 'soon' else h.value end
            when 'Retry-After' then pg_temp.left_over(h.value, headers)
            else regexp_replace(
                coalesce(replace(h.value, ';t=' || m.seconds, ';t=' || pg_temp.left_over(m.seconds, headers)), h.value),
                'pk=:[A-Za-z0-9+/]{16}:', 'pk=:…:', 'g')
        end
    from jsonb_each_text(headers) as h, substring(h.value, ';t=(\d+)') as m (seconds)
    order by h.key collate "C"
$$;

-- The limits of a new installation.
select name, rate_class, counted_by, max_requests, time_window, is_enabled, is_shadow, is_adaptive
from keelson.rate_limits order by rate_class, name;

-- Every reply says what is left; the hundred-and-first request in a minute is
-- refused, and another address is not.
select m.* from pg_temp.request('GET auth/status') as r, pg_temp.masked(r.headers) as m;
select r.status, r.headers ->> 'X-RateLimit-Remaining' as remaining from pg_temp.request('GET auth/status', repeat => 99) as r;
select r.status, r.answer - 'error' as body, r.answer ->> 'error' as error
from pg_temp.request('GET auth/status') as r;
select m.* from pg_temp.request('GET auth/status') as r, pg_temp.masked(r.headers) as m where m.name <> ':hold';
select r.status, r.headers ->> 'X-RateLimit-Remaining' as remaining from pg_temp.request('GET auth/status', ip => '198.51.100.2') as r;

-- An IPv6 address counts with its /64, an IPv4 address in IPv6's clothes as itself; without an address nothing counts.
select r.headers ->> 'X-RateLimit-Remaining' as remaining from pg_temp.request('GET auth/status', ip => '2001:db8:1:2::1') as r;
select r.headers ->> 'X-RateLimit-Remaining' as remaining from pg_temp.request('GET auth/status', ip => '2001:db8:1:2:ffff::9') as r;
select r.headers ->> 'X-RateLimit-Remaining' as remaining from pg_temp.request('GET auth/status', ip => '2001:db8:1:3::1') as r;
select r.headers ->> 'X-RateLimit-Remaining' as remaining from pg_temp.request('GET auth/status', ip => '::ffff:198.51.100.2') as r;
select r.headers from pg_temp.request('GET auth/status', ip => null) as r;

-- Signing in: five in a quarter of an hour by address. What succeeds is given back, when it has committed.
create temp table people (name text, id uuid, token text);
insert into people
select n, (r.answer -> 'user' ->> 'id')::uuid, r.answer ->> 'accessToken'
from unnest(array['ada', 'bea', 'cleo']) with ordinality as given (n, i),
    pg_temp.request(
        'POST auth/register', format('{"email": "limits-%s@example.com", "password": "a long enough secret 1815"}', n),
        ip => '198.51.100.1' || i
    ) as r;
select count(*) from people where token is not null;
select $$select r.status, r.headers ->> 'X-RateLimit-Limit' as of, r.headers ->> 'X-RateLimit-Remaining' as remaining
from pg_temp.request('POST auth/login', '{"email": "limits-ada@example.com", "password": "a long enough secret 1815"}', ip => '198.51.100.20') as r$$
from generate_series(1, 7) \gexec
begin;
select r.status from pg_temp.request('POST auth/login', '{"email": "limits-ada@example.com", "password": "a long enough secret 1815"}', ip => '198.51.100.20') as r;
rollback;
select r.status, r.headers ->> 'X-RateLimit-Remaining' as remaining
from pg_temp.request('POST auth/login', '{"email": "limits-ada@example.com", "password": "not the right secret"}', ip => '198.51.100.20', repeat => 4) as r;
select r.status, r.answer -> 'code' as code, r.answer -> 'violated-policies' as policies, (r.headers ->> 'Retry-After')::int between 890 and 900 as retry
from pg_temp.request('POST auth/login', '{"email": "limits-ada@example.com", "password": "a long enough secret 1815"}', ip => '198.51.100.20', repeat => 2) as r;
-- Only the limits that refuse are told, so that Retry-After is not before any of their times.
select m.* from pg_temp.request('POST auth/login', '{}', ip => '198.51.100.20') as r, pg_temp.masked(r.headers) as m
where m.name in ('RateLimit', 'RateLimit-Policy', 'X-RateLimit-Limit', 'X-RateLimit-Remaining', 'X-RateLimit-Reset');

-- A product's endpoints: one by e-mail address, one that costs, one that fails.
create schema regress_limits;
grant usage on schema regress_limits to keelson_app;
create function regress_limits.mail(email text) returns text language sql as $$ select email $$;
create function regress_limits.report() returns text language sql as $$ select 'done' $$;
create function regress_limits.sms(phone text) returns text language plpgsql as $$
begin
    perform keelson.rate_limit_take('regress_sms', phone);
    return 'sent';
end $$;
create function regress_limits.fail(sqlstate text) returns text language plpgsql as $$
begin
    raise exception 'failed' using errcode = $1;
end $$;
comment on function regress_limits.mail(text) is 'Mails.';
comment on function regress_limits.report() is 'Reports.';
comment on function regress_limits.sms(text) is 'Sends.';
comment on function regress_limits.fail(text) is 'Fails.';
grant execute on all functions in schema regress_limits to keelson_app;
select count(*) from (
    values
        (keelson.route('POST regress/mail', 'regress_limits.mail', is_public => true, rate_class => 'reset')),
        (keelson.route('POST regress/report', 'regress_limits.report', rate_class => 'api', rate_cost => 12)),
        (keelson.route('POST regress/sms', 'regress_limits.sms', rate_class => 'api')),
        (keelson.route('POST regress/fail', 'regress_limits.fail')),
        (keelson.route('POST regress/patient', 'regress_limits.report', rate_class => 'api', rate_wait => '20 seconds', version => 'v2'))
) as made;
\set VERBOSITY sqlstate
select keelson.route('POST regress/report', 'regress_limits.report', rate_cost => 0);
select keelson.route('POST regress/report', 'regress_limits.report', rate_wait => '1 hour');
\set VERBOSITY terse

-- Three mails in ten minutes to an address, however it is written and wherever the requests come from; and from an address.
select i, r.status, r.answer -> 'violated-policies' as policies
from generate_series(1, 4) as i,
    pg_temp.request('POST regress/mail', '{"email": "Somebody@Example.com"}', ip => '198.51.100.3' || i) as r order by i;
select r.status, r.answer -> 'violated-policies' as policies, r.headers ? ':hold' as may_be_held
from pg_temp.request('POST regress/mail', '{"email": "somebody@example.com"}', ip => '198.51.100.39') as r;
select r.status from pg_temp.request('POST regress/mail', '{"email": "another@example.com"}', ip => '198.51.100.39', repeat => 3) as r;
select r.status, r.answer -> 'violated-policies' as policies, r.headers ? ':hold' as may_be_held
from pg_temp.request('POST regress/mail', '{"email": "third@example.com"}', ip => '198.51.100.39') as r;
-- Nor does it help to name it in the query, or in a body that has a lot of room around it.
select i, r.status, r.answer -> 'violated-policies' as policies
from generate_series(1, 4) as i,
    pg_temp.request('POST regress/mail', ip => '198.51.104.' || i, arguments => '{"query": {"email": "queried@example.com"}}') as r order by i;
select i, r.status, r.answer -> 'violated-policies' as policies
from generate_series(1, 4) as i,
    pg_temp.request('POST regress/mail', '{"email": "padded@example.com"' || repeat(' ', 1000000) || '}', ip => '198.51.105.' || i) as r order by i;

-- A user counts as a user, from whatever address; what costs twelve does so;
-- decided together: where one limit refuses, the other is not charged.
select r.status, r.headers ->> 'X-RateLimit-Limit' as of, r.headers ->> 'X-RateLimit-Remaining' as remaining
from people, pg_temp.request('POST regress/report', '{}', token, ip => '198.51.100.41') as r where name = 'ada';
select r.status, r.headers ->> 'X-RateLimit-Remaining' as remaining
from people, pg_temp.request('POST regress/report', '{}', token, ip => '198.51.100.42') as r where name = 'ada';
select r.status, r.answer -> 'violated-policies' as policies, r.headers ->> 'X-RateLimit-Remaining' as remaining
from people, pg_temp.request('POST regress/report', '{}', token, ip => '198.51.100.43', repeat => 3) as r where name = 'ada';
select r.headers ->> 'X-RateLimit-Limit' as of, r.headers ->> 'X-RateLimit-Remaining' as remaining
from people, pg_temp.request('GET auth/me', null, token) as r where name = 'ada';
-- A token that proves nothing counts by address.
select r.status, r.headers ->> 'X-RateLimit-Remaining' as remaining
from people, pg_temp.request('GET auth/me', null, token || 'x', ip => '198.51.100.44', repeat => 2) as r where name = 'ada';
select r.status from people, pg_temp.request('GET auth/me', null, token || 'x', ip => '198.51.100.44', repeat => 99) as r where name = 'ada';
select r.status from people, pg_temp.request('GET auth/me', null, token, ip => '198.51.100.44') as r where name = 'ada';

-- What the gateway tries again counts once; other failures count.
select r.status, r.headers ->> 'X-RateLimit-Remaining' as remaining
from people, pg_temp.request('POST regress/fail', '{"sqlstate": "KS409"}', token, repeat => 2) as r where name = 'bea';
select count(*) from people, pg_temp.request('POST regress/fail', '{"sqlstate": "40001"}', token, repeat => 5) as r where name = 'bea';
select r.headers ->> 'X-RateLimit-Remaining' as remaining from people, pg_temp.request('GET auth/me', null, token) as r where name = 'bea';

-- Where a route lets requests wait, the gateway is told how long.
select r.status, r.headers ? ':hold' as may_be_held, r.headers ->> ':wait' ~ '^[0-9]{1,5}/20000$' as may_wait
from people, pg_temp.request('POST regress/patient', '{}', token, repeat => 31) as r where name = 'cleo';
select keelson.rate_limit_set('api', 30, '10 seconds');
select r.status, r.headers ? ':hold' as may_be_held, r.headers ->> ':wait' ~ '^(9[0-9]{3}|10000|10001)/20000$' as may_wait
from people, pg_temp.request('POST regress/patient', '{}', token, repeat => 31) as r where name = 'cleo';
select keelson.rate_limit_set('api', 30, '1 minute');

-- A product's own limit.
\set VERBOSITY default
select keelson.rate_limit_take('regress_sms', '+49 30 1234');
\set VERBOSITY terse
select keelson.rate_limit_set('regress_sms', 2, '1 hour', description => 'Short messages to a number');
select r.status, r.answer from people, pg_temp.request('POST regress/sms', '{"phone": "1"}', token, repeat => 2) as r where name = 'bea';
select r.status, r.answer ->> 'code' as code, r.headers ->> 'X-RateLimit-Limit' as of, (r.headers ->> 'Retry-After')::int between 3590 and 3600 as retry
from people, pg_temp.request('POST regress/sms', '{"phone": "1"}', token) as r where name = 'bea';
select r.status from people, pg_temp.request('POST regress/sms', '{"phone": "2"}', token) as r where name = 'bea';
select keelson.rate_limit_take('regress_sms', '3', 2);
select keelson.rate_limit_take('regress_sms', '3');
select keelson.rate_limit_take('regress_sms', '4', 0);
select keelson.rate_limit_take('general', '4');
select keelson.rate_limit_take('regress_sms', null);

-- A shadow counts, and refuses and shows nothing.
select keelson.rate_limit_set('regress_day', 1, '1 day', 'general', 'ip', is_shadow => true);
select r.status, r.headers ->> 'RateLimit' like '%regress_day%' as is_shown from pg_temp.request('GET auth/status', ip => '198.51.100.46', repeat => 3) as r;
select keelson.rate_limit_set('regress_day', is_enabled => false);

-- For some it is otherwise: a user with more, one with none, a key with its own.
select keelson.rate_limit_override('general', 5, who => 'limits-cleo@example.com', reason => 'slow down');
select r.status, r.headers ->> 'X-RateLimit-Limit' as of from people, pg_temp.request('GET auth/me', null, token) as r where name = 'cleo';
select keelson.rate_limit_override('general', who => id::text, is_exempt => true, reason => 'monitoring') from people where name = 'cleo';
select exempted as exempted_before from keelson._limits_status() \gset
select r.status, r.headers - ':user' as headers from people, pg_temp.request('GET auth/me', null, token, repeat => 200) as r where name = 'cleo';
select exempted - :exempted_before >= 200 as exemptions_are_counted from keelson._limits_status();
select keelson.rate_limit_override('general', 7000, who => id::text, expires_at => now() + interval '1 hour') from people where name = 'cleo';
select r.headers ->> 'X-RateLimit-Limit' as of from people, pg_temp.request('GET auth/me', null, token) as r where name = 'cleo';
update keelson.user_rate_limits set expires_at = now() - interval '1 second' where user_id = (select id from people where name = 'cleo');
select keelson._user_rate_limits_changed();
select r.headers ->> 'X-RateLimit-Limit' as of from people, pg_temp.request('GET auth/me', null, token) as r where name = 'cleo';
select keelson.rate_limit_override('general', 9, who => 'limits-cleo@example.com');
select keelson.rate_limit_override_remove('general', who => 'limits-cleo@example.com');
select keelson.rate_limit_override_remove('general', who => 'limits-cleo@example.com');
select keelson.rate_limit_override('api', 300, tier => 'regress_pro');
select keelson.rate_limit_override('auth', 300, '1 hour', tier => 'regress_pro');
select tier, name, max_requests, time_window from keelson.tier_rate_limits where tier = 'regress_pro' order by name;
select keelson.rate_limit_override_remove('auth', tier => 'regress_pro');

-- An exempt network, for good and for a while.
select keelson.network_exempt('198.51.100.64/28', 'an office');
select r.status, r.headers from pg_temp.request('GET auth/status', ip => '198.51.100.65', repeat => 150) as r;
select keelson.network_exempt('198.51.100.64/28', 'an office', now() + interval '1 hour');
update keelson.exempt_networks set expires_at = now() - interval '1 second' where network = '198.51.100.64/28';
select r.headers ->> 'X-RateLimit-Remaining' as remaining from pg_temp.request('GET auth/status', ip => '198.51.100.65') as r;
select keelson.network_exempt('198.51.100.64/28', 'an office again');
select keelson.network_exempt_remove('198.51.100.64/28');
select keelson.network_exempt_remove('198.51.100.64/28');

-- Blocks: refused before anything else, credentials too.
select network, reason, is_automatic, created_by, expires_at from keelson.block_add('198.51.100.80/29', 'scrapers');
select r.status, r.headers, r.answer from pg_temp.request('GET auth/status', ip => '198.51.100.83') as r;
select r.status from people, pg_temp.request('GET auth/me', null, token, ip => '::ffff:198.51.100.87') as r where name = 'ada';
select r.status from pg_temp.request('GET auth/status', ip => '198.51.100.88') as r;
select network from keelson.block_add('2001:db8:bad::/48', 'scrapers', now() + interval '1 hour');
select r.status, r.headers - 'Retry-After' as headers, (r.headers ->> 'Retry-After')::int between 3590 and 3600 as retry
from pg_temp.request('GET auth/status', ip => '2001:db8:bad:1::1') as r;
select r.status from pg_temp.request('GET auth/status', ip => '2001:db8:bae::1') as r;
select network from keelson.block_add('198.51.100.90', 'for a moment', now() + interval '1 hour');
select r.status from pg_temp.request('GET auth/status', ip => '198.51.100.90') as r;
update keelson.blocks set created_at = now() - interval '2 hours', expires_at = now() - interval '1 second' where network = '198.51.100.90';
select r.status from pg_temp.request('GET auth/status', ip => '198.51.100.90') as r;
-- An expired block is no obstacle to a new one; one that holds is.
select network from keelson.block_add('198.51.100.90/31', 'again');
select keelson.block_add('198.51.100.91', 'overlaps');
select keelson.block_add('198.51.100.0/24', 'overlaps');
select keelson.block_add('198.51.100.1/24', 'bits');
select keelson.block_add('nonsense', 'malformed');
select keelson.block_add('198.51.100.300', 'malformed');
select keelson.block_add('0.0.0.0/0', 'too wide');
select keelson.block_add('::/0', 'too wide');
select keelson.block_add('::/16', 'too wide');
select keelson.block_add('198.51.100.92', ' ');
select keelson.block_add('198.51.100.92', 'late', now() - interval '1 hour');
select keelson.block_add(null, 'nothing');
select keelson.block_remove('198.51.100.90/31');
select keelson.block_remove('198.51.100.90/31');
select keelson.block_remove('198.51.100.91/31');
select r.status from pg_temp.request('GET auth/status', ip => '198.51.100.90') as r;
-- Nothing that was refused has changed anything.
select network, reason from keelson.blocks where network <<= '198.51.100.0/24' order by network;

-- An address that goes on although it is refused is blocked; so is one that tries many accounts.
select keelson.block_rule_set('refusals', 20, '1 minute', '10 minutes');
select r.status from pg_temp.request('GET auth/status', ip => '198.51.100.101', repeat => 121) as r;
do $$
begin
    for i in 1 .. 100 loop
        perform keelson._limits_write_down();
        exit when exists (select from keelson.blocks where network = '198.51.100.101');
        commit;
        perform pg_sleep(0.05);
    end loop;
end
$$;
select network, reason, is_automatic, round(extract(epoch from expires_at - created_at)) as seconds
from keelson.blocks where is_automatic and network <<= '198.51.100.0/24';
select r.status, r.answer ->> 'code' as code from pg_temp.request('GET auth/status', ip => '198.51.100.101') as r;
select keelson.rate_limit_set('auth', 1000);
select keelson.block_rule_set('accounts', 3, '1 minute', '10 minutes');
select i, r.status
from generate_series(1, 5) as i,
    pg_temp.request('POST auth/login', format('{"email": "nobody-%s@example.com", "password": "%s"}', least(i, 3), i), ip => '2001:db8:5:5::' || i) as r
order by i;
select count(*) from keelson.blocks where network = '2001:db8:5:5::/64';
select r.status from pg_temp.request('POST auth/login', '{"email": "nobody-4@example.com", "password": "x"}', ip => '2001:db8:5:5::6') as r;
do $$
begin
    for i in 1 .. 100 loop
        perform keelson._limits_write_down();
        exit when exists (select from keelson.blocks where network = '2001:db8:5:5::/64');
        commit;
        perform pg_sleep(0.05);
    end loop;
end
$$;
select network, reason, is_automatic from keelson.blocks where network = '2001:db8:5:5::/64';
-- Not the loopback, which may be a proxy's, and not who is exempt.
select keelson.network_exempt('198.51.100.112/29', 'monitoring');
select keelson._block_automatic('198.51.100.113', 'refusals');
select r.status from pg_temp.request('GET auth/status', ip => '127.0.0.77', repeat => 150) as r;
select keelson._limits_write_down();
select count(*) from keelson.blocks where network <<= '127.0.0.0/8' or network <<= '198.51.100.112/29';
select keelson.rate_limit_set('auth', 5);
select keelson.block_rule_set('accounts', 100, '1 hour', '1 hour'), keelson.block_rule_set('refusals', 300, '1 minute', '15 minutes');

-- Who was refused, in aggregate.
do $$
begin
    -- The keeper may be at it, too.
    for i in 1 .. 100 loop
        perform keelson._limits_write_down();
        exit when (select sum(refusals) from keelson.rate_limit_violations where ip_address = '198.51.100.101') = 22;
        commit;
        perform pg_sleep(0.05);
    end loop;
end
$$;
select user_id = '00000000-0000-0000-0000-000000000000' as nobody, ip_address, endpoint, name, is_shadow, sum(refusals) as refusals
from keelson.rate_limit_violations
where ip_address <<= '198.51.100.0/24' and ip_address in ('198.51.100.1', '198.51.100.20', '198.51.100.46', '198.51.100.83', '198.51.100.101')
group by 1, 2, 3, 4, 5
order by 1, 2, 3, 4, 5;
select p.name, v.endpoint, v.name as limit_name, sum(v.refusals) as refusals
from keelson.rate_limit_violations as v join people as p on p.id = v.user_id
group by 1, 2, 3 order by 1, 2, 3;

-- Administration: who may, and what they see.
select r.status, r.answer ->> 'code' as code from people, pg_temp.request('GET admin/rate-limits', null, token) as r where name = 'ada';
select keelson.role_grant('limits-ada@example.com', 'admin'), keelson.role_grant('limits-bea@example.com', 'support');
select keelson.rate_limit_override(l, 100000, who => 'limits-' || p || '@example.com') from unnest(array['general', 'api']) as l, unnest(array['ada', 'bea']) as p;
select r.status, (select array_agg(k order by k) from jsonb_object_keys(r.answer) as k) as members, l
from people, pg_temp.request('GET admin/rate-limits', null, token) as r, jsonb_array_elements(r.answer -> 'limits') as l
where name = 'bea' and l ->> 'name' = 'api';
select (select array_agg(k order by k) from jsonb_object_keys(r.answer -> 'counters') as k) as members, r.answer -> 'exemptNetworks' ? '198.51.100.112/29' as is_exempt
from people, pg_temp.request('GET admin/rate-limits', null, token) as r where name = 'bea';
create function pg_temp.get(endpoint text, query jsonb, who text)
returns table (status integer, answer jsonb, page jsonb)
language sql
as $$
    select d.status, convert_from(d.body, 'UTF8')::jsonb, d.headers -> ':pagination'
    from people, keelson.dispatch(
        (select r.id from keelson.routes as r where r.method || ' ' || r.template = endpoint), token,
        jsonb_build_object('query', query)::json, null, '{"ip": "198.51.100.99", "via": "bearer"}'
    ) as d
    where name = who
$$;
select v ->> 'endpoint' as endpoint, v ->> 'name' as name, v ->> 'ipAddress' as ip_address, v -> 'userId' as user_id
from pg_temp.get('GET admin/rate-limits/violations', '{"ipAddress": "198.51.100.20"}', 'bea') as r, jsonb_array_elements(r.answer) as v;
select v ->> 'endpoint' as endpoint, v ->> 'name' as name, (v ->> 'userId')::uuid = p.id as is_his
from people as p, pg_temp.get('GET admin/rate-limits/violations', jsonb_build_object('userId', p.id), 'bea') as r, jsonb_array_elements(r.answer) as v
where p.name = 'bea';
-- Page by page, everything once.
create function pg_temp.pages()
returns table (pages integer, rows integer, distinct_rows integer)
language plpgsql
as $$
declare
    seen text[] := '{}';
    next_cursor text;
    fetched record;
begin
    pages := 0;
    loop
        select * into fetched from pg_temp.get('GET admin/rate-limits/violations',
            '{"limit": "3"}'::jsonb || case when next_cursor is not null then jsonb_build_object('cursor', next_cursor) else '{}' end, 'bea');
        pages := pages + 1;
        seen := seen || array(select v::text from jsonb_array_elements(fetched.answer) as v);
        next_cursor := fetched.page ->> 'nextCursor';
        exit when next_cursor is null or pages > 1000;
    end loop;
    rows := cardinality(seen);
    distinct_rows := (select count(distinct s) from unnest(seen) as s);
    return next;
end
$$;
select rows = (select count(*) from keelson.rate_limit_violations) as all_rows, rows = distinct_rows as once, pages = (rows + 2) / 3 as full_pages
from pg_temp.pages();
select v ->> 'subject' as subject, (v ->> 'refusals')::int > 0 as counted
from pg_temp.get('GET admin/rate-limits/top', '{"by": "name", "hours": "2"}', 'bea') as r, jsonb_array_elements(r.answer) as v
where v ->> 'subject' in ('auth', 'api', 'block', 'regress_day') order by 1;
select count(*) > 0 as some from pg_temp.get('GET admin/rate-limits/top', '{}', 'bea') as r, jsonb_array_elements(r.answer) as v
where (v ->> 'subject')::inet <<= '198.51.100.0/24';
select r.status, r.answer from pg_temp.get('GET admin/rate-limits/top', '{"by": "colour"}', 'bea') as r;
select r.status, r.answer from pg_temp.get('GET admin/rate-limits/top', '{"hours": "25"}', 'bea') as r;
select r.status, r.answer from pg_temp.get('GET admin/rate-limits/violations', '{"limit": "101"}', 'bea') as r;
select r.status, r.answer from pg_temp.get('GET admin/rate-limits/violations', '{"ipAddress": "1.2.3"}', 'bea') as r;
select r.status from people, pg_temp.request('POST admin/blocks', '{"network": "198.51.100.120", "reason": "trouble"}', token) as r where name = 'bea';
select r.status, r.answer - 'createdAt' - 'createdBy' as body, (r.answer ->> 'createdBy')::uuid = id as by_her
from people, pg_temp.request('POST admin/blocks', '{"network": "198.51.100.120", "reason": "trouble"}', token) as r where name = 'ada';
select r.status, r.answer from people, pg_temp.request('POST admin/blocks', '{"network": "198.51.100.120/31", "reason": "trouble"}', token) as r where name = 'ada';
select r.status, r.answer from people, pg_temp.request('POST admin/blocks', '{"network": "198.51.100.1", "reason": "myself"}', token) as r where name = 'ada';
select r.status, r.answer from people, pg_temp.request('POST admin/blocks', '{"network": "198.51.100", "reason": "malformed"}', token) as r where name = 'ada';
select b ->> 'network' as network, b -> 'isAutomatic' as is_automatic
from pg_temp.get('GET admin/blocks', '{"limit": "1"}', 'bea') as r, jsonb_array_elements(r.answer) as b;
select r.status, r.answer from pg_temp.get('DELETE admin/blocks', '{"network": "198.51.100.120"}', 'ada') as r;
select r.status, r.answer ->> 'code' as code from people, pg_temp.request('DELETE admin/blocks', '{"network": "198.51.100.120"}', token) as r where name = 'ada';

-- Faulty settings: a clear error, and nothing has changed.
select keelson.rate_limit_set('api', 0);
select keelson.rate_limit_set('api', -1);
select keelson.rate_limit_set('api', time_window => '0 seconds');
select keelson.rate_limit_set('api', time_window => '2 years');
select keelson.rate_limit_set('api', time_window => '1.5 seconds');
select keelson.rate_limit_set('regress_new');
\set VERBOSITY sqlstate
select keelson.rate_limit_set('Regress', 1, '1 minute');
select keelson.rate_limit_set('regress_new', 1, '1 minute', 'general', 'key');
select keelson.rate_limit_set('regress_new', 1, '1 minute', 'colour', 'ip');
\set VERBOSITY terse
select keelson.rate_limit_override('regress_none', 1, tier => 'regress_pro');
select keelson.rate_limit_override('api', 1);
select keelson.rate_limit_override('api', 1, tier => 'regress_pro', who => 'limits-ada@example.com');
select keelson.rate_limit_override('api', tier => 'regress_pro');
select keelson.rate_limit_override('api', 1, tier => 'regress_pro', is_exempt => true);
select keelson.rate_limit_override('api', -5, tier => 'regress_pro');
select keelson.rate_limit_override('api', 5, who => 'nobody@example.com');
select keelson.block_rule_set('colour', 1);
select keelson.block_rule_set('refusals', 0);
select keelson.load_signal_set('colour', 1);
\set VERBOSITY sqlstate
select keelson.load_signal_set('latency', 10, 5);
\set VERBOSITY terse
select keelson.tier_rank_set('regress_pro', 16);
select max_requests, time_window from keelson.rate_limits where name in ('api', 'regress_new');
-- A request may meet so many limits and no more.
begin;
select count(keelson.rate_limit_set('regress_' || n, 1000, '1 minute', 'general', 'ip')) from generate_series(1, 20) as n;
rollback;

-- Under load the lowest tiers lose first. Shown with a server that counts as pressed whatever it does.
select keelson.load_signal_set('latency', 0, 0.000001, true);
select keelson.tier_rank_set('regress_pro', 1);
do $$
begin
    -- Each measurement needs calls since the one before; the keeper measures too.
    for i in 1 .. 60 loop
        perform pg_temp.request('GET auth/status', ip => '198.51.100.14' || i % 10);
        perform keelson._limits_measure();
    end loop;
end
$$;
select pressure > 0.5 as is_pressed from keelson._limits_status();
-- The metrics show it.
select labels ->> 'limit' as name, labels ->> 'rank' as rank,
    value < case labels ->> 'limit' when 'api' then 30 else 100 end as has_shrunk,
    value >= lag(value) over (partition by labels ->> 'limit' order by labels ->> 'rank') as loses_no_more_than_lower
from keelson._limits_metrics() where name = 'keelson_limits_allowed' order by 1, 2;
select (r.headers ->> 'X-RateLimit-Limit')::int between 10 and 60 as shrunk from pg_temp.request('GET auth/status', ip => '198.51.100.150') as r;
-- Who is refused for that alone is told that the service is busy.
select r.status, r.answer, (r.headers ->> ':hold')::int <= 1000 as is_brief from pg_temp.request('GET auth/status', ip => '198.51.100.150', repeat => 80) as r;
select keelson.load_signal_set('latency', 50, 500, false);
do $$
begin
    for i in 1 .. 60 loop
        perform keelson._limits_measure();
    end loop;
end
$$;
select r.headers ->> 'X-RateLimit-Limit' as of from pg_temp.request('GET auth/status', ip => '198.51.100.151') as r;

-- Metrics, and who may do what.
select name, labels, type, value >= 0 as is_number from keelson.gateway_metrics()
where name like 'keelson\_limits%' and coalesce(labels ->> 'automatic', 'true') = 'true' order by name, labels::text;
set role keelson_app;
select keelson._rate_limit_refund('auth');
select keelson.block_add('198.51.100.200', 'x');
select keelson.rate_limit_set('api', 1);
select * from keelson.rate_limits;
select * from keelson.blocks;
select count(*) from keelson.rate_limit_violations;
reset role;

-- Changes are in the audit trail.
select distinct e.event_type, e.data ->> 'what' as what, e.data ->> 'isAutomatic' as is_automatic
from keelson.audit_events as e
where e.event_type in ('admin.block', 'admin.unblock') and e.data ? 'network'
    or e.event_type = 'config.change' and (e.data ->> 'what' ~ 'rate limit|network' or e.data ->> 'what' in ('automatic blocks', 'load signal', 'rank of a tier'))
order by 1, 2, 3;

-- What has expired goes.
insert into keelson.rate_limit_violations (user_id, hour_at, ip_address, endpoint, name, is_shadow, refusals, first_at, last_at)
values ('00000000-0000-0000-0000-000000000000', now() - interval '31 days', '198.51.100.1', 'GET old', 'api', false, 1, now(), now());
select keelson._limits_cleanup() > 0 as removed;
select count(*) from keelson.rate_limit_violations where endpoint = 'GET old';

-- As it was.
delete from keelson.rate_limits where name like 'regress%';
delete from keelson.tier_rate_limits where tier like 'regress%';
delete from keelson.tier_ranks where tier like 'regress%';
delete from keelson.blocks;
select keelson.network_exempt_remove('198.51.100.112/29');
select keelson.rate_limit_override_remove(l, who => 'limits-' || p || '@example.com') from unnest(array['general', 'api']) as l, unnest(array['ada', 'bea']) as p;
select count(keelson.route_remove(e)) from unnest(array['POST regress/mail', 'POST regress/report', 'POST regress/sms', 'POST regress/fail']) as e;
select keelson.route_remove('POST regress/patient', 'v2');
drop schema regress_limits cascade;
alter system reset keelson.rate_limits;
select pg_reload_conf();
