-- What the run sells: endpoints whose effects stand in several places, all of one transaction.

create schema torture;
comment on schema torture is 'The product of the torture';
grant usage on schema torture to keelson_app;

create table torture.orders (
    user_id uuid not null,
    id uuid not null default keelson.uuid7(),
    label text not null,
    event_id uuid,
    audit_id uuid,
    constraint orders_pkey primary key (user_id, id)
);
alter table torture.orders enable row level security;
create policy own on torture.orders using (user_id = keelson.current_user_id()) with check (user_id = keelson.current_user_id());
grant select, insert on torture.orders to keelson_app;

select keelson.webhook_event_type('order.paid', 'An order was paid.', '{"n": 5, "isOrdered": false}');
select keelson.webhook_event_type('parcel.sent', 'A parcel was sent.', '{"n": 5, "isOrdered": false}');
select keelson.audit_event_type('order.paid', 'An order was paid.');
select keelson.tier_limit_set('free', 'orders', 120, is_hard => true, resets => 'never');
select keelson.tier_limit_set('free', 'metered', 40, kind => 'feature', is_hard => true);
select keelson.tier_limit_set('free', 'work', 100000, is_hard => true);

create type torture.order_made as (id uuid, label text);
comment on type torture.order_made is 'An order';

create function torture.order_add(label text, n integer)
returns torture.order_made
language plpgsql
as $$
declare
    made torture.order_made;
begin
    perform keelson.quota_take('orders');
    insert into torture.orders (user_id, label, event_id, audit_id)
    values (
        keelson.current_user_id(), order_add.label,
        keelson.webhook_emit('order.paid', jsonb_build_object('n', order_add.n, 'isOrdered', order_add.n % 2 = 0),
            ordering_key => case when order_add.n % 2 = 0 then 'orders' end),
        keelson.audit('order.paid', jsonb_build_object('label', order_add.label)))
    returning orders.id, orders.label into made;
    perform keelson.usage_record(keelson.current_user_id(), 'order', 0.125, key => order_add.label);
    return made;
end
$$;
comment on function torture.order_add(text, integer) is 'Orders: takes of a quota, tells endpoints in order, is audited and metered.';

create type torture.work_held as (reservation uuid);
comment on type torture.work_held is 'A reservation';

create function torture.work_begin(amount numeric)
returns torture.work_held
language plpgsql
as $$
begin
    return row(keelson.quota_reserve(amount, unit => 'work', expires_in => '4 seconds'))::torture.work_held;
end
$$;
comment on function torture.work_begin(numeric) is 'Reserves what a work may take.';

create function torture.work_end(reservation uuid, amount numeric default null)
returns void
language plpgsql
as $$
begin
    if amount = 0 then
        perform keelson.quota_release(reservation);
    else
        perform keelson.quota_commit(reservation, amount);
    end if;
end
$$;
comment on function torture.work_end(uuid, numeric) is 'Says what the work took; nothing if that is 0.';

create function torture.nap(seconds float8)
returns void
language plpgsql
as $$
begin
    perform pg_sleep(least(seconds, 5));
end
$$;
comment on function torture.nap(float8) is 'Takes its time.';

create table torture.received (
    id uuid not null,
    external_id text not null,
    constraint received_pkey primary key (id)
);
grant select, insert on torture.received to keelson_app;

create function torture.receive(event keelson.incoming_event)
returns void
language plpgsql
as $$
begin
    insert into torture.received values (event.id, event.external_id);
end
$$;
grant execute on function torture.receive(keelson.incoming_event) to keelson_app;

select keelson.route('POST torture/orders', 'torture.order_add', status => 201, errors => '{429 QUOTA_EXCEEDED,CONFLICT}');
select keelson.route('POST torture/work', 'torture.work_begin', status => 201, errors => '{429 QUOTA_EXCEEDED}');
select keelson.route('PUT torture/work/:reservation', 'torture.work_end', errors => '{NOT_FOUND,429 QUOTA_EXCEEDED}');
select keelson.route('POST torture/nap', 'torture.nap', pool => 'slow');
select keelson.route('POST torture/wait', 'torture.nap', pool => 'upstream');

select keelson.webhook_source_set('torture', 'hmac');
select keelson.webhook_source_set('sandbox', 'hmac');
select keelson.webhook_handler('torture', '*', 'torture.receive');
