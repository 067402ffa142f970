-- Invoices: a product on Keelson, whole in this file. Change it, run it again (examples/invoices/run): what is there stays,
-- what is new comes. Tables are in the schema invoices, and stay; types and functions are in invoices_api, made anew.

set client_min_messages = warning;

create schema if not exists invoices;
create table if not exists invoices.invoices (
    user_id uuid not null,
    id uuid not null default keelson.uuid7(),
    number integer not null,
    customer text not null,
    amount numeric(12, 2) not null,
    currency text not null,
    due_on date not null,
    paid_at timestamptz,
    constraint invoices_pkey primary key (user_id, id),
    constraint invoices_user_id_number_key unique (user_id, number)
);
-- Each user sees and writes their own rows alone; they are in the user's export, and go when the user is erased.
select keelson.user_table('invoices.invoices');

-- How many a month: more are refused. And what users can subscribe to.
select keelson.tier_limit_set('free', 'invoices', 3, is_hard => true);
select keelson.tier_limit_set('pro', 'invoices', 500, is_hard => true);
select keelson.webhook_event_type('invoice.paid', 'An invoice was paid.', '{"number": 1, "amount": 120.50, "currency": "EUR"}');

drop schema if exists invoices_api cascade;
create schema invoices_api;
grant usage on schema invoices_api to keelson_app;

-- What may come in: the comment is what the client reads when the check fails, and stands in the API's description.
create domain invoices_api.customer as text check (length(value) between 1 and 200);
comment on domain invoices_api.customer is 'A customer''s name has 1 to 200 characters.';
create domain invoices_api.amount as numeric check (value > 0 and value < 1e10 and scale(value) <= 2);
comment on domain invoices_api.amount is 'An amount is more than 0, less than 10,000,000,000, with two decimal places at most.';
create domain invoices_api.currency as text check (value in ('EUR', 'GBP', 'USD'));
comment on domain invoices_api.currency is 'A currency is EUR, GBP or USD.';
create type invoices_api.state as enum ('open', 'paid');

-- What goes out.
create type invoices_api.invoice as (
    id uuid, number integer, customer text, amount numeric, currency text, due_on date, paid_at timestamptz
);
comment on column invoices_api.invoice.number is 'Counts from 1 without gaps, for each user.';
comment on column invoices_api.invoice.paid_at is 'Null while it is open.';

create function invoices_api.invoice_create(
    customer invoices_api.customer,
    amount invoices_api.amount,
    currency invoices_api.currency default 'EUR',
    due_on date default null
)
returns invoices_api.invoice
language plpgsql
as $$
declare
    made invoices_api.invoice;
begin
    -- Until this request has ended, others of the same user wait here: so numbers have no gaps.
    perform keelson.quota_take('invoices');
    insert into invoices.invoices as i (user_id, number, customer, amount, currency, due_on)
    values (
        keelson.current_user_id(),
        (select coalesce(max(other.number), 0) + 1 from invoices.invoices as other where other.user_id = keelson.current_user_id()),
        customer, amount, currency, coalesce(due_on, current_date + 14)
    )
    returning i.id, i.number, i.customer, i.amount, i.currency, i.due_on, i.paid_at into made;
    return made;
end
$$;
comment on function invoices_api.invoice_create is 'Write an invoice. It is due in 14 days unless it says when.';

create function invoices_api.invoices_list(state invoices_api.state default null, "limit" integer default 20, cursor text default null)
returns setof invoices_api.invoice
language plpgsql
as $$
declare
    before uuid := keelson.cursor_decode(cursor) ->> 'id';
begin
    return query
    select i.id, i.number, i.customer, i.amount, i.currency, i.due_on, i.paid_at
    from invoices.invoices as i
    where i.user_id = keelson.current_user_id()
        and (before is null or i.id < before)
        and (state is null or state = case when i.paid_at is null then 'open' else 'paid' end::invoices_api.state)
    order by i.id desc
    limit keelson.page_by("limit", 'id');
end
$$;
comment on function invoices_api.invoices_list is 'The user''s invoices, the latest first.';

create function invoices_api.invoice_pay(id uuid)
returns invoices_api.invoice
language plpgsql
as $$
declare
    paid invoices_api.invoice;
begin
    update invoices.invoices as i set paid_at = now()
    where i.user_id = keelson.current_user_id() and i.id = invoice_pay.id and i.paid_at is null
    returning i.id, i.number, i.customer, i.amount, i.currency, i.due_on, i.paid_at into paid;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such open invoice');
    end if;
    -- In the same transaction: whoever is told of it can rely on it, and nobody is told of what did not happen.
    perform keelson.webhook_emit('invoice.paid', keelson.to_json(paid));
    return paid;
end
$$;
comment on function invoices_api.invoice_pay is 'Note that an invoice has been paid, and tell the user''s webhook endpoints.';

select keelson.routes_begin('invoices_api');
select keelson.route('POST /invoices', 'invoices_api.invoice_create', status => 201, errors => '{QUOTA_EXCEEDED}');
select keelson.route('GET /invoices', 'invoices_api.invoices_list');
select keelson.route('POST /invoices/:id/pay', 'invoices_api.invoice_pay', errors => '{NOT_FOUND}');
select keelson.routes_end('invoices_api');
