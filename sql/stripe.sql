-- Stripe: the same events make the same subscription, in any order, however often.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

create temporary table person (id uuid, email text);
insert into person select keelson.user_create(email, 'a long enough secret 1815'), email from (values ('pays@example.com')) as given (email);
select keelson.stripe_price_set('price_pro', 'pro'), keelson.stripe_price_set('price_studio', 'studio');

-- An event, in the shape of before 2025 or of since.
create function pg_temp.event(type text, at timestamptz, object jsonb, is_new boolean, id text default null)
returns keelson.incoming_event
language plpgsql
as $$
declare
    o jsonb := object - '{period,price}'::text[];
    period jsonb := jsonb_build_object('start', extract(epoch from (object #>> '{period,start}')::timestamptz)::bigint, 'end', extract(epoch from (object #>> '{period,end}')::timestamptz)::bigint);
begin
    if type like 'customer.subscription.%' then
        o := jsonb_build_object('object', 'subscription', 'customer', 'cus_1', 'items', jsonb_build_object('data', jsonb_build_array(
            jsonb_build_object('price', jsonb_build_object('id', object ->> 'price'), 'quantity', 1)
            || case when is_new then jsonb_build_object('current_period_start', period -> 'start', 'current_period_end', period -> 'end') else '{}' end
        ))) || case when is_new then '{}' else jsonb_build_object('current_period_start', period -> 'start', 'current_period_end', period -> 'end') end || o;
    elsif type like 'invoice.%' then
        o := o - 'subscription' || jsonb_build_object('object', 'invoice', 'currency', 'eur', 'amount_due', 900, 'amount_paid', 900)
            || jsonb_build_object('customer', coalesce(object ->> 'customer', 'cus_1'))
            || case when is_new
                then jsonb_build_object('parent', jsonb_build_object('type', 'subscription_details', 'subscription_details', jsonb_build_object('subscription', object ->> 'subscription')))
                else jsonb_build_object('subscription', object ->> 'subscription') end
            || jsonb_build_object('lines', jsonb_build_object('data', jsonb_build_array(
                jsonb_build_object('id', 'il_1', 'period', period)
                || case when is_new then jsonb_build_object('pricing', jsonb_build_object('price_details', jsonb_build_object('price', object ->> 'price')))
                    else jsonb_build_object('price', jsonb_build_object('id', object ->> 'price')) end
            )));
    end if;
    return row(keelson.uuid7(), 'stripe', coalesce(id, 'evt_' || md5(type || at || object)), type, at, at, '{}',
        jsonb_build_object('type', type, 'data', jsonb_build_object('object', o)))::keelson.incoming_event;
end
$$;
create function pg_temp.handle(event keelson.incoming_event)
returns void
language plpgsql
as $$
declare
    handler text;
begin
    for handler in select h.function from keelson.webhook_handlers as h where h.source = 'stripe' and h.event_type = event.type order by 1 loop
        perform keelson._webhook_handler_call(handler, null, event);
    end loop;
end
$$;
-- The user's subscription, and what is known of Stripe's; in days after the beginning.
create function pg_temp.state(person uuid, base timestamptz)
returns text
language sql
as $$
select concat_ws(' ', s.tier_id, s.status, 'period', (extract(epoch from s.period_start - base) / 86400)::integer, (extract(epoch from s.period_end - base) / 86400)::integer, s.period_months,
    'next ' || s.next_tier_id || ' ' || (extract(epoch from s.next_tier_at - base) / 86400)::integer, 'trial ' || (extract(epoch from s.trial_ends_at - base) / 86400)::integer,
    '| ' || (select md5(string_agg((to_jsonb(k) - 'updated_at')::text, ' ' order by k.id)) from keelson.stripe_subscriptions as k))
from keelson.subscriptions as s where s.user_id = person
$$;

create function pg_temp.life(lifecycle text, base timestamptz, user_id uuid)
returns table (place integer, type text, at timestamptz, object jsonb)
language sql
as $$
select e.place, e.type, base + e.after, jsonb_build_object('id', 'sub_1', 'subscription', 'sub_1', 'customer', 'cus_1',
    'period', jsonb_build_object('start', base + e.period_start, 'end', base + e.period_end)) || e.object || case when e.place = 1 then jsonb_build_object('client_reference_id', keelson._stripe_reference(user_id, keelson._token_key_id())) else '{}' end
    || case when e.type like 'invoice%' then jsonb_build_object('id', 'in_' || e.place) else '{}' end
from (values
    ('cancelled', 1, 'checkout.session.completed', interval '0', interval '0', interval '30 days', '{"mode": "subscription", "id": "cs_1"}'::jsonb),
    ('cancelled', 2, 'invoice.payment_succeeded', '1 second', '0', '30 days', '{"price": "price_pro"}'),
    ('cancelled', 3, 'customer.subscription.updated', '2 seconds', '0', '30 days', '{"status": "active", "price": "price_pro"}'),
    ('cancelled', 4, 'customer.subscription.updated', '6 days', '0', '30 days', '{"status": "past_due", "price": "price_studio"}'),
    ('cancelled', 5, 'invoice.payment_failed', '6 days', '0', '30 days', '{"price": "price_studio"}'),
    ('cancelled', 6, 'customer.subscription.deleted', '8 days', '0', '30 days', '{"status": "canceled", "price": "price_studio"}'),
    ('recovered', 1, 'checkout.session.completed', '0', '0', '30 days', '{"mode": "subscription", "id": "cs_1"}'),
    ('recovered', 2, 'invoice.payment_succeeded', '1 second', '0', '30 days', '{"price": "price_pro"}'),
    ('recovered', 3, 'customer.subscription.updated', '3 days', '0', '30 days', '{"status": "active", "price": "price_studio"}'),
    ('recovered', 4, 'invoice.payment_failed', '5 days', '5 days', '35 days', '{"price": "price_studio"}'),
    ('recovered', 5, 'customer.subscription.updated', '5 days', '5 days', '35 days', '{"status": "past_due", "price": "price_studio"}'),
    ('recovered', 6, 'invoice.payment_succeeded', '6 days', '5 days', '35 days', '{"price": "price_studio"}')
) as e (lifecycle, place, type, after, period_start, period_end, object)
where e.lifecycle = life.lifecycle
$$;
-- Handles these of its events in this order, each in one of both shapes, some of them twice; undone in the end.
create function pg_temp.live(lifecycle text, places integer[], seed integer)
returns text
language plpgsql
as $$
declare
    base timestamptz := date_trunc('hour', now()) - interval '10 days';
    person uuid := (select id from person limit 1);
    e record;
begin
    for e in
        select l.*, w.nth from unnest(places || places[1 : seed % 4]) with ordinality as w (place, nth)
        join pg_temp.life(lifecycle, base, person) as l on l.place = w.place
        order by w.nth
    loop
        perform pg_temp.handle(pg_temp.event(e.type, e.at, e.object, (e.place + seed) % 2 = 0));
    end loop;
    raise exception using errcode = 'P0098', message = pg_temp.state(person, base);
exception when sqlstate 'P0098' then
    return sqlerrm;
end
$$;
create function pg_temp.permutations(items integer[])
returns setof integer[]
language sql
as $$
with recursive p (done, rest) as (
    select '{}'::integer[], items
    union all
    select p.done || i, array_remove(p.rest, i) from p cross join lateral unnest(p.rest) as i
)
select done from p where cardinality(rest) = 0
$$;
-- All 720 orders of the six, and all 120 of any five of them: one state for each.
create temporary table lived as
select l.lifecycle, d.dropped, pg_temp.live(l.lifecycle, p.places, (row_number() over ())::integer) as state
from (values ('cancelled'), ('recovered')) as l (lifecycle)
cross join generate_series(0, 6) as d (dropped)
cross join lateral pg_temp.permutations(array_remove('{1,2,3,4,5,6}', d.dropped)) as p (places)
-- Of the other life every second.
where l.lifecycle = 'cancelled' or p.places[1] % 2 = 0;
select lifecycle, dropped, count(*) as orders, count(distinct state) as states, min(split_part(state, ' |', 1)) as state
from lived group by 1, 2 order by 1, 2;

-- One thing after the other.
create function pg_temp.says(type text, object jsonb, after interval default '0', is_new boolean default true)
returns text
language plpgsql
as $$
declare
    base timestamptz := date_trunc('hour', now()) - interval '10 days';
begin
    perform pg_temp.handle(pg_temp.event(type, base + after, jsonb_build_object('customer', 'cus_1', 'id', 'sub_1', 'subscription', 'sub_1',
        'period', jsonb_build_object('start', base, 'end', base + interval '30 days'), 'price', 'price_pro') || object, is_new));
    return split_part(pg_temp.state((select id from person limit 1), base), ' |', 1);
exception when sqlstate 'KS400' then
    return sqlerrm;
end
$$;
create function pg_temp.me() returns jsonb language sql as $$ select jsonb_build_object('userId', id) from person limit 1 $$;
begin;
-- Whose it is is told by metadata, by the session, or before by the customer; until then it waits.
select pg_temp.says('customer.subscription.updated', '{"status": "active"}') ~ '^free active' as is_untouched;
select pg_temp.says('checkout.session.completed', '{"mode": "subscription", "client_reference_id": "somebody"}');
select pg_temp.says('checkout.session.completed', '{"mode": "subscription", "client_reference_id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e"}');
select pg_temp.says('checkout.session.completed', jsonb_build_object('mode', 'payment', 'metadata', pg_temp.me())) ~ '^free' as is_untouched;
select pg_temp.says('checkout.session.completed', jsonb_build_object('mode', 'subscription', 'subscription', null, 'metadata', pg_temp.me()));
select pg_temp.says('checkout.session.completed', jsonb_build_object('mode', 'subscription', 'metadata', pg_temp.me()));
-- To be cancelled, and not.
select pg_temp.says('customer.subscription.updated', '{"status": "active", "cancel_at_period_end": true}', '1 day');
select pg_temp.says('customer.subscription.updated', '{"status": "active", "cancel_at_period_end": false}', '2 days');
-- Another for the same customer, which is named by nothing else: the better one counts.
select pg_temp.says('customer.subscription.created', '{"id": "sub_2", "status": "active", "price": "price_studio"}', '3 days');
select pg_temp.says('customer.subscription.deleted', '{"id": "sub_2", "status": "canceled", "price": "price_studio"}', '4 days');
select pg_temp.says('customer.subscription.updated', '{"status": "unpaid"}', '5 days');
-- Of one second, the later in a subscription's life.
select pg_temp.says('customer.subscription.updated', '{"status": "active"}', '5 days');
select pg_temp.says('customer.subscription.updated', '{"status": "active"}', '6 days');
-- A trial.
select pg_temp.says('customer.subscription.updated', jsonb_build_object('status', 'trialing', 'trial_end', extract(epoch from date_trunc('hour', now()) + interval '4 days')::bigint), '7 days');
select pg_temp.says('invoice.payment_succeeded', '{"id": "in_1"}', '7 days 1 second');
-- A price that buys nothing is an error, and nothing of it stays.
select pg_temp.says('customer.subscription.updated', '{"status": "active", "price": "price_odd"}', '8 days');
select price_id from keelson.stripe_subscriptions where id = 'sub_1';
select keelson.stripe_price_set('price_odd', 'studio');
select pg_temp.says('customer.subscription.updated', '{"status": "active", "price": "price_odd"}', '8 days');
-- A change in between costs something else until some other time.
select pg_temp.says('invoice.paid', '{"id": "in_2", "price": "price_odd"}', '9 days', false);
select pg_temp.says('customer.subscription.deleted', '{"price": "price_odd"}', '9 days');
select pg_temp.says('customer.subscription.updated', '{"status": "active", "price": "price_odd"}', '10 days');
select pg_temp.says('customer.subscription.updated', '{"id": null, "status": "active"}'), pg_temp.says('customer.subscription.updated', '{}');
-- What was told: the audit trail, and the user's webhooks.
select event_type, outcome, data - 'endsAt' as data, count(*) from keelson.audit_events as e join person as p on p.id = e.user_id
where event_type in ('payment.receive', 'subscription.change') group by 1, 2, 3 order by 1, 2, (e.data - 'endsAt')::text;
rollback;
-- One that never began takes nothing away; nor does an invoice for something else.
begin;
select keelson.user_tier_set('pays@example.com', 'studio');
select pg_temp.says('customer.subscription.created', jsonb_build_object('status', 'incomplete', 'metadata', pg_temp.me())) ~ '^studio active' as is_untouched;
select pg_temp.says('invoice.payment_failed', '{"id": "in_3"}', '1 second') ~ '^studio active' as is_untouched;
select pg_temp.says('customer.subscription.updated', '{"status": "incomplete_expired"}', '1 day') ~ '^studio active' as is_untouched;
select pg_temp.says('invoice.payment_succeeded', '{"id": "in_4", "subscription": null}', '1 day') ~ '^studio active' as is_untouched;
rollback;
-- What a checkout names its user by is made for who is acting, and by nobody else.
select keelson.stripe_reference();
begin;
select keelson.act_as('pays@example.com') is not null as is_acting;
select keelson.stripe_reference() as reference \gset
commit;
select :'reference' ~ '^kss_[A-Za-z0-9_-]{70}$' as is_for_stripe, keelson._stripe_reference_open(:'reference') = (select id from person) as is_theirs;
select forged from unnest(array['', 'kss_', left(:'reference', 73), :'reference' || 'A', 'ksd_' || substr(:'reference', 5), overlay(:'reference' placing case substr(:'reference', 10, 1) when 'A' then 'B' else 'A' end from 10)])
    as f (forged) where keelson._stripe_reference_open(forged) is not null;
-- A stranger who pays by a link and writes somebody's id into it touches nothing of theirs.
begin;
select keelson.user_tier_set('pays@example.com', 'studio');
select pg_temp.says('checkout.session.completed', '{"mode": "subscription", "customer": "cus_7", "subscription": "sub_7"}' || jsonb_build_object('client_reference_id', id)) from person;
select pg_temp.says('customer.subscription.updated', '{"id": "sub_7", "customer": "cus_7", "status": "active"}', '1 second') ~ '^studio active' as is_untouched;
select pg_temp.says('customer.subscription.deleted', '{"id": "sub_7", "customer": "cus_7"}', '1 day') ~ '^studio active' as is_untouched;
rollback;
-- By hand; and an endpoint that is told.
begin;
select keelson.act_as('pays@example.com') is not null as is_acting;
select w.enabled from keelson.webhook_create('https://example.com/hooks', '{subscription.*}') as w;
commit;
select count(keelson.courier_breaker_set(e.id, 'forced_open')) from keelson.webhook_endpoints as e join person as p on p.id = e.user_id;
select pg_temp.says('customer.subscription.updated', '{"status": "active", "customer": "cus_9", "id": "sub_9"}') ~ '^free' as is_untouched;
select keelson.stripe_link('odd', 'pays@example.com');
select keelson.stripe_link('cus_9', 'pays@example.com');
select pg_temp.says('customer.subscription.updated', '{"status": "past_due", "customer": "cus_9", "id": "sub_9"}', '1 day');
select pg_temp.says('customer.subscription.deleted', '{"customer": "cus_9", "id": "sub_9"}', '2 days');
select e.event_type, e.body::jsonb -> 'data' ->> 'tier' as tier, e.body::jsonb -> 'data' ->> 'status' as status, e.body::jsonb -> 'data' ->> 'to' as to_tier
from keelson.webhook_events as e join person as p on p.id = e.user_id order by e.id;
-- Erased with their user; what Stripe said of nobody goes in time.
update keelson.stripe_subscriptions set updated_at = now() - interval '91 days';
select keelson._stripe_subscriptions_purge(10);
delete from keelson.stripe_links as l using person as p where p.id = l.user_id;
select keelson._stripe_subscriptions_purge(10);
select keelson.stripe_price_set('price_pro', null), keelson.stripe_price_set('price_studio', null), keelson.stripe_price_set('price_odd', null);
