-- Stripe: from its events to the user's subscription.
--
-- Stripe promises no order, and may send an event twice. What an event says is
-- joined with what was known of the subscription, so that of two statements
-- about one thing the newer stands; the user's subscription is then worked out
-- from all that is known. The same events make the same subscription, in any
-- order, however often.

create or replace function keelson._stripe_id(object jsonb)
returns text
language sql
immutable
as $$
select case pg_catalog.jsonb_typeof(object) when 'string' then object #>> '{}' when 'object' then object ->> 'id' end
$$;
comment on function keelson._stripe_id(jsonb) is
    'The id of an object of Stripe, which stands there by its id or whole; null for none.';

create or replace function keelson._stripe_time(value jsonb)
returns timestamptz
language sql
immutable
as $$
select case when pg_catalog.jsonb_typeof(value) = 'number' then pg_catalog.to_timestamp((value #>> '{}')::double precision) end
$$;
comment on function keelson._stripe_time(jsonb) is
    'The moment that Stripe writes as Unix seconds; null for none.';

create or replace function keelson._stripe_user(named text)
returns uuid
language plpgsql
stable
as $$
begin
    -- Only what is written as an id is one.
    if named ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' and keelson._user_exists(named::uuid) then
        return named::uuid;
    end if;
    return null;
end
$$;
comment on function keelson._stripe_user(text) is
    'The user with this id; null when there is none.';

create or replace function keelson._stripe_lock(customer_id text, subscription_id text)
returns void
language plpgsql
volatile
as $$
begin
    perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('keelson.stripe.' || coalesce(customer_id, subscription_id), 0));
    insert into keelson.stripe_subscriptions as s (id, customer_id)
    values (subscription_id, _stripe_lock.customer_id)
    on conflict on constraint stripe_subscriptions_pkey do update
    set customer_id = coalesce(s.customer_id, excluded.customer_id), updated_at = pg_catalog.now();
end
$$;
comment on function keelson._stripe_lock(text, text) is
    'Handle events of one customer one after the other; makes sure that there is a row of the subscription.';

create or replace function keelson._stripe_link_first(object_id text, user_id uuid)
returns void
language plpgsql
volatile
as $$
begin
    if object_id is not null and user_id is not null then
        insert into keelson.stripe_links (object_id, user_id)
        values (_stripe_link_first.object_id, _stripe_link_first.user_id)
        on conflict do nothing;
    end if;
end
$$;
comment on function keelson._stripe_link_first(text, uuid) is
    'Say whose a customer or subscription is, unless that is known.';

create or replace function keelson._stripe_metadata_user(metadata jsonb)
returns uuid
language plpgsql
stable
as $$
begin
    return keelson._stripe_user(coalesce(metadata ->> 'userId', metadata ->> 'user_id'));
end
$$;
comment on function keelson._stripe_metadata_user(jsonb) is
    'The user whom metadata of Stripe name as userId or user_id.';

create or replace function keelson._stripe_reference(user_id uuid, key_id integer)
returns text
language c
stable
strict
as 'MODULE_PATHNAME', 'ks__stripe_reference';
comment on function keelson._stripe_reference(uuid, integer) is
    'The user in a form that nobody else can make, under this key of the keyring.';

create or replace function keelson._stripe_reference_open(reference text)
returns uuid
language c
stable
strict
as 'MODULE_PATHNAME', 'ks__stripe_reference_open';
comment on function keelson._stripe_reference_open(text) is
    'The id of the user whom the reference names; null for what is no reference of ours.';

create or replace function keelson.stripe_reference()
returns text
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._stripe_reference(keelson.acting_user_id(), keelson._token_key_id());
end
$$;
comment on function keelson.stripe_reference() is
    'What to give Stripe as client_reference_id, so that a checkout is the acting user''s. A payer can read it, and cannot make one that names somebody else.';
grant execute on function keelson.stripe_reference() to keelson_app;

-- The handlers.

create or replace function keelson._stripe_checkout(event keelson.incoming_event)
returns void
language plpgsql
volatile
as $$
declare
    session jsonb := event.payload #> '{data,object}';
    customer text := keelson._stripe_id(session -> 'customer');
    subscription text := keelson._stripe_id(session -> 'subscription');
    -- The payer of a payment link writes its reference; metadata are the product's.
    named uuid := coalesce(
        keelson._stripe_user(keelson._stripe_reference_open(session ->> 'client_reference_id')::text),
        keelson._stripe_metadata_user(session -> 'metadata')
    );
begin
    if session ->> 'mode' is distinct from 'subscription' then
        return;
    elsif subscription is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the checkout session names no subscription');
    end if;
    perform keelson._stripe_lock(customer, subscription);
    if named is null and not exists (select from keelson.stripe_links as l where l.object_id in (customer, subscription)) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the checkout session names no user that there is',
            'Give keelson.stripe_reference() as client_reference_id, or use keelson.stripe_link() and retry.');
    end if;
    perform keelson._stripe_link_first(subscription, named);
    perform keelson._stripe_link_first(customer, named);
    perform keelson._stripe_apply_of(subscription);
end
$$;
comment on function keelson._stripe_checkout(keelson.incoming_event) is
    'Handle checkout.session.completed: the session tells which user the subscription and the customer belong to.';

create or replace function keelson._stripe_subscription(event keelson.incoming_event)
returns void
language plpgsql
volatile
as $$
declare
    object jsonb := event.payload #> '{data,object}';
    subscription text := keelson._stripe_id(object);
    status text := case when event.type like '%.deleted' then 'canceled' else object ->> 'status' end;
    item jsonb;
begin
    if subscription is null or status is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the event holds no subscription');
    end if;
    -- Of several things that are paid for, one that buys a tier.
    select i.item into item
    from pg_catalog.jsonb_array_elements(object #> '{items,data}') with ordinality as i (item, place)
    order by exists (
        select from keelson.stripe_prices as p where p.price_id = coalesce(i.item #>> '{price,id}', i.item #>> '{plan,id}')
    ) desc, i.place
    limit 1;
    perform keelson._stripe_lock(keelson._stripe_id(object -> 'customer'), subscription);
    perform keelson._stripe_link_first(subscription, keelson._stripe_metadata_user(object -> 'metadata'));
    -- The period stands with the item since 2025, before that with the subscription.
    perform keelson._stripe_join_state(
        subscription, status, coalesce(item #>> '{price,id}', item #>> '{plan,id}', object #>> '{plan,id}'),
        coalesce(keelson._stripe_time(item -> 'current_period_start'), keelson._stripe_time(object -> 'current_period_start')),
        coalesce(keelson._stripe_time(item -> 'current_period_end'), keelson._stripe_time(object -> 'current_period_end')),
        object, coalesce(event.occurred_at, event.received_at), event.external_id
    );
    perform keelson._stripe_apply_of(subscription);
end
$$;
comment on function keelson._stripe_subscription(keelson.incoming_event) is
    'Handle customer.subscription.created, .updated and .deleted: status, price, period and end.';

create or replace function keelson._stripe_invoice(event keelson.incoming_event)
returns void
language plpgsql
volatile
as $$
declare
    invoice jsonb := event.payload #> '{data,object}';
    -- Since 2025 below parent, before that beside it.
    details jsonb := coalesce(invoice #> '{parent,subscription_details}', invoice -> 'subscription_details');
    subscription text := keelson._stripe_id(coalesce(details -> 'subscription', invoice -> 'subscription'));
    customer text := keelson._stripe_id(invoice -> 'customer');
    has_failed boolean := event.type = 'invoice.payment_failed';
    payer uuid;
begin
    if subscription is not null then
        perform keelson._stripe_lock(customer, subscription);
        perform keelson._stripe_link_first(subscription, keelson._stripe_metadata_user(details -> 'metadata'));
        perform keelson._stripe_join_payment(
            subscription, case when has_failed then 'failed' else 'succeeded' end, invoice,
            coalesce(event.occurred_at, event.received_at), event.external_id
        );
        payer := keelson._stripe_apply_of(subscription);
    end if;
    -- invoice.paid tells of the same payment once more.
    if event.type <> 'invoice.paid' then
        payer := coalesce(payer, (select l.user_id from keelson.stripe_links as l where l.object_id = customer));
        perform keelson.audit('payment.receive', pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
            'invoice', keelson._stripe_id(invoice), 'amount', coalesce(case when not has_failed then invoice -> 'amount_paid' end, invoice -> 'amount_due'),
            'currency', invoice ->> 'currency', 'provider', 'stripe'
        )), case when has_failed then 'failure' else 'success' end, payer);
    end if;
end
$$;
comment on function keelson._stripe_invoice(keelson.incoming_event) is
    'Handle invoice.payment_failed, invoice.payment_succeeded and invoice.paid: whether the subscription is paid for, and until when.';

-- Joining what is known. Each of these makes the same row whatever the order.

create or replace function keelson._stripe_rank(status text)
returns integer
language sql
immutable
as $$
select coalesce(('{"incomplete": 0, "trialing": 10, "active": 20, "paused": 25, "past_due": 30, "unpaid": 40, "incomplete_expired": 100, "canceled": 110}'
    ::pg_catalog.jsonb ->> status)::integer, 5)
$$;
comment on function keelson._stripe_rank(text) is
    'Which of two states of one second wins: the later in a subscription''s life. 100 and above is the end.';

create or replace function keelson._stripe_join_state(
    id text,
    status text,
    price_id text,
    period_start timestamptz,
    period_end timestamptz,
    object jsonb,
    moment timestamptz,
    key text
)
returns void
language plpgsql
volatile
as $$
declare
    rank integer := keelson._stripe_rank(status);
    end_at timestamptz := case
        when rank >= 100 then coalesce(keelson._stripe_time(object -> 'ended_at'), keelson._stripe_time(object -> 'canceled_at'), moment)
        when keelson._stripe_time(object -> 'cancel_at') is not null then keelson._stripe_time(object -> 'cancel_at')
        when object -> 'cancel_at_period_end' = 'true' then period_end
    end;
begin
    update keelson.stripe_subscriptions as s
    set has_begun = true
    where s.id = _stripe_join_state.id and not s.has_begun and _stripe_join_state.status in ('active', 'trialing', 'past_due', 'unpaid', 'paused', 'canceled');
    update keelson.stripe_subscriptions as s
    set status = _stripe_join_state.status, price_id = _stripe_join_state.price_id,
        period_start = _stripe_join_state.period_start, period_end = _stripe_join_state.period_end,
        trial_end = keelson._stripe_time(object -> 'trial_end'), ends_at = end_at, state_at = moment, state_rank = rank, state_key = key
    where s.id = _stripe_join_state.id
        and (s.state_at is null or (s.state_rank >= 100, s.state_at, s.state_rank, s.state_key) < (rank >= 100, moment, rank, key));
end
$$;
comment on function keelson._stripe_join_state(text, text, text, timestamptz, timestamptz, jsonb, timestamptz, text) is
    'Join a state of the subscription with what is known of it: the newest stands, and the end is final.';

create or replace function keelson._stripe_join_payment(id text, payment text, invoice jsonb, moment timestamptz, key text)
returns void
language plpgsql
volatile
as $$
declare
    line jsonb;
begin
    update keelson.stripe_subscriptions as s
    set payment = _stripe_join_payment.payment, payment_at = moment, payment_key = key
    where s.id = _stripe_join_payment.id
        and (s.payment_at is null or (s.payment_at, s.payment, s.payment_key) < (moment, _stripe_join_payment.payment, key));
    if payment = 'failed' then
        return;
    end if;
    -- What the subscription costs until when, not what a change cost in between.
    select l.line into line
    from pg_catalog.jsonb_array_elements(invoice #> '{lines,data}') as l (line)
    where coalesce(l.line #> '{parent,subscription_item_details,proration}', l.line -> 'proration', 'false') <> 'true'
    order by keelson._stripe_time(l.line #> '{period,end}') desc nulls last, l.line ->> 'id'
    limit 1;
    update keelson.stripe_subscriptions as s
    set has_begun = true
    where s.id = _stripe_join_payment.id and not s.has_begun;
    update keelson.stripe_subscriptions as s
    set paid_price_id = coalesce(line #>> '{pricing,price_details,price}', line #>> '{price,id}', line #>> '{plan,id}'),
        paid_start = keelson._stripe_time(line #> '{period,start}'), paid_end = keelson._stripe_time(line #> '{period,end}'),
        paid_at = moment, paid_key = key
    where s.id = _stripe_join_payment.id and (s.paid_at is null or (s.paid_at, s.paid_key) < (moment, key));
end
$$;
comment on function keelson._stripe_join_payment(text, text, jsonb, timestamptz, text) is
    'Join a payment of the subscription, or one that failed, with what is known of it: the newest stands.';

-- Working out the user's subscription.

create or replace function keelson._stripe_status(known record)
returns text
language plpgsql
immutable
as $$
declare
    s keelson.stripe_subscriptions := known;
    status text := coalesce(s.status, case when s.has_begun then 'active' when s.payment is not null then 'incomplete' end);
begin
    -- A state tells of payments until then; only a later one changes it.
    if s.state_rank >= 100 or s.payment is null or s.payment_at <= s.state_at then
        return status;
    elsif s.payment = 'failed' then
        return case when status in ('active', 'trialing') then 'past_due' else status end;
    end if;
    return case when status in ('past_due', 'unpaid', 'incomplete') then 'active' else status end;
end
$$;
comment on function keelson._stripe_status(record) is
    'The status of a subscription (a row of keelson.stripe_subscriptions) by all that is known, in Stripe''s words; null when nothing is.';

create or replace function keelson._stripe_owner(subscription_id text)
returns uuid
language plpgsql
stable
as $$
begin
    return (
        select coalesce(
            (select l.user_id from keelson.stripe_links as l where l.object_id = s.id),
            (select l.user_id from keelson.stripe_links as l where l.object_id = s.customer_id)
        )
        from keelson.stripe_subscriptions as s
        where s.id = subscription_id
    );
end
$$;
comment on function keelson._stripe_owner(text) is
    'Whose the subscription is, by itself or by its customer; null while that is not known.';

create or replace function keelson._stripe_apply_of(subscription_id text)
returns uuid
language plpgsql
volatile
as $$
declare
    subscriber uuid := keelson._stripe_owner(subscription_id);
begin
    if subscriber is not null and keelson._user_exists(subscriber) then
        perform keelson._stripe_apply(subscriber);
    end if;
    return subscriber;
end
$$;
comment on function keelson._stripe_apply_of(text) is
    'Bring the subscription of the user whose this one is in line with what Stripe has said; returns the user, null while nobody knows.';

create or replace function keelson._stripe_period(period_start timestamptz, period_end timestamptz)
returns tstzrange
language sql
immutable
as $$
select case when period_start < period_end then pg_catalog.tstzrange(period_start, period_end) end
$$;
comment on function keelson._stripe_period(timestamptz, timestamptz) is
    'The period; null when it is none.';

create or replace function keelson._stripe_apply(user_id uuid)
returns void
language plpgsql
volatile
as $$
declare
    best record;
    tier text;
begin
    perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('keelson.stripe.' || user_id, 0));
    -- Of several subscriptions the one that gives most; what has ended comes last.
    select s.*, known.status as real_status, t.id as tier_id, coalesce(s.price_id, s.paid_price_id) as real_price,
        case when s.paid_end > s.period_end or s.period_end is null then s.paid_start else s.period_start end as real_start,
        greatest(s.paid_end, s.period_end) as real_end
    into best
    from keelson.stripe_subscriptions as s
    cross join lateral (select keelson._stripe_status(s) as status) as known
    left join keelson.stripe_prices as p on p.price_id = coalesce(s.price_id, s.paid_price_id)
    left join keelson.tiers as t on t.id = p.tier_id
    where s.id in (
        select l.object_id from keelson.stripe_links as l where l.user_id = _stripe_apply.user_id
        union
        select c.id from keelson.stripe_links as l
        join keelson.stripe_subscriptions as c on c.customer_id = l.object_id
        where l.user_id = _stripe_apply.user_id and keelson._stripe_owner(c.id) = _stripe_apply.user_id
    )
    order by known.status in ('active', 'trialing', 'past_due') desc nulls last, s.has_begun desc, known.status in ('unpaid', 'paused') desc nulls last, t.rank desc nulls last,
        greatest(s.paid_end, s.period_end) desc nulls last, s.id
    limit 1;
    if best.real_status in ('active', 'trialing', 'past_due') then
        if best.real_price is null then
            return;
        elsif best.tier_id is null then
            perform keelson.raise(400, 'VALIDATION_FAILED', pg_catalog.format('price "%s" buys no tier', best.real_price),
                'Say which with keelson.stripe_price_set(), and retry.');
        end if;
        perform keelson._subscription_sync(
            user_id, best.tier_id,
            case
                when best.real_status = 'trialing' and best.trial_end is null then 'active'
                when best.real_status <> 'active' then best.real_status
                when best.ends_at is not null then 'canceled'
                else 'active'
            end,
            keelson._stripe_period(best.real_start, best.real_end), best.ends_at, best.trial_end
        );
    -- It never began: nothing is taken away.
    elsif best.has_begun then
        tier := (select t.id from keelson.tiers as t where t.is_default);
        perform keelson._subscription_sync(
            user_id, tier, case when best.real_status = 'unpaid' then 'past_due' else 'canceled' end,
            keelson._stripe_period(best.real_start, best.real_end)
        );
    end if;
end
$$;
comment on function keelson._stripe_apply(uuid) is
    'Make the user''s subscription what Stripe has said of theirs. An error when a price buys no tier.';

-- Administration.

create or replace function keelson.stripe_price_set(price_id text, tier text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if price_id is null or char_length(price_id) not between 1 and 255 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a price is named by Stripe''s id of it, such as price_1ABC', field => 'price_id');
    elsif tier is not null and not exists (select from keelson.tiers as t where t.id = tier) then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('tier "%s" does not exist', tier), field => 'tier');
    end if;
    if tier is null then
        delete from keelson.stripe_prices as p where p.price_id = stripe_price_set.price_id;
    else
        insert into keelson.stripe_prices as p (price_id, tier_id)
        values (stripe_price_set.price_id, tier)
        on conflict on constraint stripe_prices_pkey do update set tier_id = excluded.tier_id, updated_at = now();
    end if;
    perform keelson._webhook_source_audit('price', 'stripe', jsonb_build_object('price', price_id, 'tier', tier));
end
$$;
comment on function keelson.stripe_price_set(text, text) is
    'Say which tier a price of Stripe buys; null: none any more. Holds for events from now on.';
grant execute on function keelson.stripe_price_set(text, text) to keelson_admin;

create or replace function keelson.stripe_link(object_id text, who text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    owner_id uuid := keelson._user_find(who);
begin
    if object_id is null or object_id !~ '^(cus|sub)_[A-Za-z0-9_]{1,200}$' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a customer or a subscription is named by Stripe''s id, such as cus_1ABC', field => 'object_id');
    end if;
    insert into keelson.stripe_links as l (object_id, user_id)
    values (stripe_link.object_id, owner_id)
    on conflict on constraint stripe_links_pkey do update set user_id = excluded.user_id, linked_at = now();
    perform keelson._webhook_source_audit('link', 'stripe', jsonb_build_object('object', object_id, 'userId', owner_id));
    perform keelson._stripe_apply(owner_id);
end
$$;
alter function keelson.stripe_link(text, text) owner to keelson_system;
comment on function keelson.stripe_link(text, text) is
    'Say that a customer or subscription of Stripe is this user''s (e-mail address or id), and bring their subscription in line with it.';
grant execute on function keelson.stripe_link(text, text) to keelson_admin;

create or replace function keelson._stripe_subscriptions_purge(batch integer)
returns bigint
language plpgsql
volatile
as $$
declare
    purged bigint;
begin
    delete from keelson.stripe_subscriptions as s
    where s.id = any (array(
        select old.id from keelson.stripe_subscriptions as old
        where old.updated_at < pg_catalog.now() - interval '90 days' and keelson._stripe_owner(old.id) is null
        order by old.updated_at
        limit batch
    ));
    get diagnostics purged = row_count;
    return purged;
end
$$;
comment on function keelson._stripe_subscriptions_purge(integer) is
    'Delete what Stripe has said of subscriptions that are nobody''s, 90 days after the last of it, at most so many; returns how many.';
