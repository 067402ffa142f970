-- A table that nothing watches, and two that triggers do, as they are usually written.

create table bench.unaudited (id uuid primary key default gen_random_uuid(), user_id uuid not null, feature text not null, minutes numeric not null);
create table bench.audited_by_row (like bench.unaudited including all);
create table bench.audited_by_statement (like bench.unaudited including all);

create table bench.trail (
    id bigint primary key generated always as identity,
    table_name text not null,
    operation text not null,
    old_row jsonb,
    new_row jsonb,
    changed_by text not null default current_user,
    changed_at timestamptz not null default now()
);

create function bench.record_row()
returns trigger
language plpgsql
as $$
begin
    insert into bench.trail (table_name, operation, old_row, new_row)
    values (tg_table_name, tg_op, case when tg_op <> 'INSERT' then to_jsonb(old) end, case when tg_op <> 'DELETE' then to_jsonb(new) end);
    return null;
end;
$$;
create trigger record after insert or update or delete on bench.audited_by_row for each row execute function bench.record_row();

create function bench.record_inserts()
returns trigger
language plpgsql
as $$
begin
    insert into bench.trail (table_name, operation, new_row) select tg_table_name, tg_op, to_jsonb(n) from new_rows as n;
    return null;
end;
$$;
create trigger record after insert on bench.audited_by_statement referencing new table as new_rows for each statement execute function bench.record_inserts();
