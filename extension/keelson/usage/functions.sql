-- Usage: recording it, and what is recorded.

do $types$
begin
    if pg_catalog.to_regtype('keelson.usage_event') is null then
        create type keelson.usage_event as (
            user_id uuid,
            feature text,
            minutes numeric,
            requests integer,
            occurred_at timestamptz,
            key text
        );
    end if;
    if pg_catalog.to_regtype('keelson.usage_receipt') is null then
        create type keelson.usage_receipt as (
            accepted integer,
            duplicates integer
        );
    end if;
end
$types$;
comment on type keelson.usage_event is
    'What was used.';
comment on column keelson.usage_event.user_id is 'By whom; null for the acting user.';
comment on column keelson.usage_event.feature is 'Of what: a name such as speech or voice.clone.';
comment on column keelson.usage_event.minutes is 'How much: more than 0, at most 1,000,000, up to 9 decimal places, kept exactly.';
comment on column keelson.usage_event.requests is 'In how many requests; null for 1.';
comment on column keelson.usage_event.occurred_at is 'When, up to 35 days ago or 5 minutes ahead; null for now.';
comment on column keelson.usage_event.key is 'Makes the event count once: up to 255 bytes, the user''s own; null for none.';
comment on type keelson.usage_receipt is
    'What became of events.';
comment on column keelson.usage_receipt.accepted is 'How many were counted.';
comment on column keelson.usage_receipt.duplicates is 'How many had been counted before, by their key.';

create or replace function keelson.usage_record(
    user_id uuid default null,
    feature text default null,
    minutes numeric default null,
    requests integer default null,
    occurred_at timestamptz default null,
    key text default null,
    events keelson.usage_event[] default null
)
returns keelson.usage_receipt
language c
volatile
as 'MODULE_PATHNAME', 'ks_usage_record';
comment on function keelson.usage_record(uuid, text, numeric, integer, timestamptz, text, keelson.usage_event[]) is
    'Record that something was used, in the caller''s transaction: one event, or up to 1,000 as events. An event with a key counts once for as long as it is kept; the same key with other content is 409 IDEMPOTENCY_CONFLICT. All or nothing: with a fault in one event, 400 names every fault and nothing is recorded; 429 QUOTA_EXCEEDED over a hard limit. Users other than the acting one need the permission usage.write.';
grant execute on function keelson.usage_record(uuid, text, numeric, integer, timestamptz, text, keelson.usage_event[])
    to keelson_app, keelson_admin, keelson_jobs;

create or replace function keelson.usage_post(
    user_id uuid default null,
    feature text default null,
    minutes numeric default null,
    requests integer default null,
    occurred_at timestamptz default null,
    key text default null,
    events keelson.usage_event[] default null
)
returns keelson.reply
language c
volatile
as 'MODULE_PATHNAME', 'ks_usage_post';
comment on function keelson.usage_post(uuid, text, numeric, integer, timestamptz, text, keelson.usage_event[]) is
    'Record that something was used: one event, or up to 1,000 as events. An event with a key counts once, however often it is sent. All or nothing: every fault is named, by its event''s index, and nothing is recorded. Users other than the key''s owner need the permission usage.write.';
grant execute on function keelson.usage_post(uuid, text, numeric, integer, timestamptz, text, keelson.usage_event[]) to keelson_app;

-- Features.

create or replace function keelson.usage_feature(name text, is_open boolean default true, description text default null)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if name is null or name !~ '^([a-z][a-z0-9_.-]{0,62}|\*)$' then
        perform keelson.raise(400, 'VALIDATION_FAILED',
            'a feature''s name has at most 63 lower-case letters, digits, ".", "_" and "-", a letter first; "*" is for all that are not declared',
            field => 'name');
    elsif is_open is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a feature is open or closed', field => 'is_open');
    end if;
    insert into keelson.usage_features as f (name, is_open, description)
    values (usage_feature.name, usage_feature.is_open, usage_feature.description)
    on conflict on constraint usage_features_pkey do update
    set is_open = excluded.is_open, description = coalesce(excluded.description, f.description), changed_at = now();
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'usage feature', 'feature', name, 'isOpen', is_open, 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.usage_feature(text, boolean, text) is
    'Declare a feature open or closed to new usage; * is for all that are not declared, and open unless said otherwise. What was recorded stays.';
grant execute on function keelson.usage_feature(text, boolean, text) to keelson_admin;

create or replace function keelson.usage_feature_remove(name text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from keelson.usage_features as f where f.name = usage_feature_remove.name and f.name <> '*';
    if not found then
        return false;
    end if;
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'usage feature', 'feature', name, 'removed', true, 'databaseRole', session_user
    ));
    return true;
end
$$;
comment on function keelson.usage_feature_remove(text) is
    'Take the declaration of a feature away, so that * holds for it; false when there is none.';
grant execute on function keelson.usage_feature_remove(text) to keelson_admin;

create or replace function keelson._usage_features_changed()
returns trigger
language c
volatile
as 'MODULE_PATHNAME', 'ks_usage_features_changed';
comment on function keelson._usage_features_changed() is
    'Let the sessions read the declared features anew.';

-- Partitions.

create or replace function keelson.usage_partitions_make(days_ahead integer default 7, moment timestamptz default pg_catalog.now())
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._partitions_make('usage_events', days_ahead, moment);
end
$$;
comment on function keelson.usage_partitions_make(integer, timestamptz) is
    'Make the missing partitions of usage events from yesterday''s to so many days ahead; returns how many. The keeper does it every hour.';
grant execute on function keelson.usage_partitions_make(integer, timestamptz) to keelson_admin, keelson_jobs;

create or replace function keelson._usage_partitions_ahead(batch integer)
returns bigint
language plpgsql
volatile
as $$
begin
    return least(keelson.usage_partitions_make() + keelson._usage_partitions_settle(), batch - 1);
end
$$;
comment on function keelson._usage_partitions_ahead(integer) is
    'Make the missing partitions of usage events for the days to come, and index those that are settled; returns how many. The second line behind the keeper.';

create or replace function keelson._usage_days_in_use(out floor_day integer, out ceiling_day integer)
language plpgsql
stable
as $$
declare
    day date;
    is_used boolean;
begin
    select greatest(w.tail_from, w.next_from) - date '1970-01-01' into floor_day from keelson.usage_watermark as w;
    ceiling_day := floor_day;
    for day in
        select p.day from keelson._partitions('usage_events') as p
        where p.day > date '1970-01-01' + floor_day
        order by p.day desc
    loop
        execute pg_catalog.format('select exists (select from keelson.%I)', 'usage_events_' || pg_catalog.to_char(day, 'YYYYMMDD'))
        into is_used;
        if is_used then
            ceiling_day := day - date '1970-01-01';
            return;
        end if;
    end loop;
end
$$;
comment on function keelson._usage_days_in_use() is
    'The first day, as a number since 1970, for which events may be recorded, and the last for which some are.';
