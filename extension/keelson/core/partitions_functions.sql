-- Tables in partitions of a day, by an id whose head is the time (UUIDv7).

create or replace function keelson._partitions(parent text)
returns table (name text, day date)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select c.relname::text, to_date(right(c.relname, 8), 'YYYYMMDD')
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = to_regclass('keelson.' || parent) and c.relname ~ ('^' || parent || '_[0-9]{8}$')
    order by 2;
end
$$;
comment on function keelson._partitions(text) is
    'The partitions of a table in partitions of a day, with their days.';

create or replace function keelson._partition_make(parent text, day timestamptz)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    partition text := parent || '_' || to_char(day at time zone 'UTC', 'YYYYMMDD');
begin
    if to_regclass('keelson.' || partition) is not null then
        return false;
    end if;
    -- One after the other.
    perform pg_advisory_xact_lock(hashtextextended('keelson.' || parent, 0));
    if to_regclass('keelson.' || partition) is not null then
        return false;
    end if;
    execute format('create table keelson.%I (like keelson.%I including defaults including constraints including storage)', partition, parent);
    execute format('alter table keelson.%I enable row level security', partition);
    execute format('alter table keelson.%I force row level security', partition);
    execute format(
        'alter table keelson.%I attach partition keelson.%I for values from (%L) to (%L)',
        parent, partition, keelson._uuid7_floor(day), keelson._uuid7_floor(day + interval '1 day')
    );
    -- What is done with one partition, instead of the table, is done by this role.
    execute format('grant select, insert, update, delete on keelson.%I to keelson_system', partition);
    return true;
end
$$;
comment on function keelson._partition_make(text, timestamptz) is
    'Make the table''s partition for the day, UTC; false where it is there.';

create or replace function keelson._partitions_make(parent text, days_ahead integer, moment timestamptz)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if days_ahead is null or days_ahead not between 0 and 366 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'partitions are made for 0 to 366 days ahead', field => 'days_ahead');
    end if;
    return (
        select count(*) filter (where keelson._partition_make(parent, day))
        from generate_series(
            date_trunc('day', moment, 'UTC') - interval '1 day', date_trunc('day', moment, 'UTC') + make_interval(days => days_ahead),
            interval '1 day'
        ) as day
    );
end
$$;
comment on function keelson._partitions_make(text, integer, timestamptz) is
    'Make the table''s missing partitions from the day before the moment''s to so many days after; returns how many.';

create or replace function keelson._partition_drop(parent text, day date)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
-- Whoever has the partition open must not hold up for long all who write behind us.
set lock_timeout = '200ms'
as $$
declare
    partition text := parent || '_' || to_char(day, 'YYYYMMDD');
begin
    if not exists (select from keelson._partitions(parent) as p where p.name = partition) then
        raise exception 'there is no such partition';
    end if;
    execute format('drop table keelson.%I', partition);
    return true;
exception when lock_not_available then
    return false;
end
$$;
comment on function keelson._partition_drop(text, date) is
    'Drop the table''s partition for the day; false when somebody has it open. From here to the end of the transaction no row can be written into the table.';
