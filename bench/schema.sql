-- What the benchmark calls: a small product of two tables, written as any product built on Keelson would be.

create schema if not exists bench;
comment on schema bench is 'A small product that the benchmark calls';
grant usage on schema bench to keelson_app;

create table bench.events (
    user_id uuid not null,
    id uuid not null default keelson.uuid7(),
    feature text not null,
    minutes numeric not null,
    created_at timestamptz not null default now(),
    constraint events_pkey primary key (user_id, id)
);

create table bench.totals (
    user_id uuid not null,
    month date not null,
    minutes numeric not null,
    requests bigint not null,
    constraint totals_pkey primary key (user_id, month)
);

-- The tokens of the day, for pgbench.
create table bench.tokens (
    n int not null,
    token text not null,
    constraint tokens_pkey primary key (n)
);

alter table bench.events enable row level security;
alter table bench.totals enable row level security;
create policy own on bench.events
    using (user_id = keelson.current_user_id())
    with check (user_id = keelson.current_user_id());
create policy own on bench.totals
    using (user_id = keelson.current_user_id())
    with check (user_id = keelson.current_user_id());
grant select, insert, update on bench.events, bench.totals to keelson_app;

create type bench.month_total as (month date, minutes numeric, requests bigint);

create function bench.event_add(feature text, minutes numeric)
returns bench.month_total
language plpgsql
as $$
declare
    total bench.month_total;
begin
    insert into bench.events (user_id, feature, minutes)
    values (keelson.current_user_id(), event_add.feature, event_add.minutes);
    insert into bench.totals as t (user_id, month, minutes, requests)
    values (keelson.current_user_id(), date_trunc('month', now() at time zone 'UTC')::date, event_add.minutes, 1)
    on conflict (user_id, month) do update
        set minutes = t.minutes + excluded.minutes,
            requests = t.requests + 1
    returning t.month, t.minutes, t.requests into total;
    return total;
end;
$$;
comment on function bench.event_add(text, numeric) is 'Records a use and returns the month''s total';

create function bench.cpu_us()
returns float8
language plpgsql
as $$
begin
    -- Reading this brings the other up to date, which else lags by a tick of the kernel.
    perform pg_read_file('/proc/self/stat');
    return split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::float8 / 1000;
end;
$$;
comment on function bench.cpu_us() is 'CPU time that this backend has taken, in microseconds';

create function bench.nothing()
returns void
language plpgsql
as $$
begin
end;
$$;
comment on function bench.nothing() is 'Does nothing, for the price of the call itself';

create function bench.event_add_audited(feature text, minutes numeric)
returns bench.month_total
language plpgsql
as $$
declare
    event_id uuid;
begin
    event_id := keelson.audit('bench.use', jsonb_build_object('feature', feature));
    return bench.event_add(feature, minutes);
end;
$$;
comment on function bench.event_add_audited(text, numeric) is 'The same, and records it in the audit trail';

create function bench.event_add_unaudited(feature text, minutes numeric)
returns bench.month_total
language plpgsql
as $$
begin
    return bench.event_add(feature, minutes);
end;
$$;
comment on function bench.event_add_unaudited(text, numeric) is 'The same as the audited one, but for the audit trail';

-- What an event is held against: such a row in a table that has the same indexes.
create table bench.indexed_events (like keelson.audit_events including indexes);
grant insert on bench.indexed_events to keelson_app;

create function bench.event_add_inserted(feature text, minutes numeric)
returns bench.month_total
language plpgsql
as $$
begin
    insert into bench.indexed_events
    values (keelson.current_user_id(), keelson.uuid7(), 1, pg_current_xact_id(), 'bench.use', 'success', 'user',
        keelson.current_user_id(), keelson.uuid7(), jsonb_build_object('feature', feature), sha256('x') || sha256('y'), decode(md5('z'), 'hex'));
    return bench.event_add(feature, minutes);
end;
$$;
comment on function bench.event_add_inserted(text, numeric) is 'The same, and inserts such a row as the audit trail would have';

create function bench.nothing_called()
returns void
language plpgsql
as $$
declare
    id uuid;
begin
    id := keelson.uuid7();
end;
$$;
comment on function bench.nothing_called() is 'Does nothing, and calls a function that does next to nothing';

create function bench.nothing_audited()
returns void
language plpgsql
as $$
declare
    event_id uuid;
begin
    event_id := keelson.audit('bench.use', '{"feature": "speech"}');
end;
$$;
comment on function bench.nothing_audited() is 'Does nothing, and records it in the audit trail';
select keelson.audit_event_type('bench.use', 'The benchmark used something.');

grant execute on all functions in schema bench to keelson_app;

select keelson.route('POST bench/events', 'bench.event_add');
select keelson.route('POST bench/audited-events', 'bench.event_add_audited');
select keelson.route('POST bench/unaudited-events', 'bench.event_add_unaudited');
select keelson.route('POST bench/inserted-events', 'bench.event_add_inserted');
select keelson.route('GET bench/nothing', 'bench.nothing');
select keelson.route('GET bench/scoped', 'bench.nothing', scope => 'usage.write');
select keelson.route('GET bench/nothing-called', 'bench.nothing_called');
select keelson.route('GET bench/nothing-audited', 'bench.nothing_audited');
