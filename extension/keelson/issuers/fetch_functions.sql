-- Fetching the keys that issuers publish. The keeper asks, a courier fetches.

create or replace function keelson._issuer_fetch_ask(id uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    nobody constant uuid := '00000000-0000-0000-0000-000000000000';
    asked record;
begin
    select f.asked_at into asked
    from keelson.issuer_fetches as f where f.id = _issuer_fetch_ask.id for no key update;
    -- Not while one is under way; what a backup has brought back is none.
    if not found or exists (
        select from keelson.deliveries as d
        where d.user_id = nobody and d.lane = _issuer_fetch_ask.id and not d.is_quarantined
    ) or asked.asked_at between clock_timestamp() - interval '30 seconds' and clock_timestamp() then
        return false;
    end if;
    update keelson.issuer_fetches as f set asked_at = clock_timestamp() where f.id = _issuer_fetch_ask.id;
    insert into keelson.deliveries (user_id, id, lane, kind, ref, due_at)
    values (nobody, keelson.uuid7(), _issuer_fetch_ask.id, 'jwks', _issuer_fetch_ask.id, clock_timestamp());
    perform keelson._courier_hint(nobody, _issuer_fetch_ask.id);
    return true;
end
$$;
alter function keelson._issuer_fetch_ask(uuid) owner to keelson_system;
comment on function keelson._issuer_fetch_ask(uuid) is
    'Have an issuer''s keys fetched once this transaction has committed; false while a fetch is under way, within 30 seconds of the last, or where none are published.';

create or replace function keelson._issuers_fetch_due(wanted uuid[])
returns setof uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    present timestamptz := clock_timestamp();
    f record;
    is_asked boolean;
begin
    for f in
        select i.id
        from keelson.issuers as i
        join keelson.issuer_fetches as d on d.id = i.id
        where i.is_enabled and i.jwks_url is not null
            -- A clock that was set back does not put it off for long.
            and (d.due_at <= present or d.due_at > present + interval '25 hours' or i.id = any (wanted))
        order by i.id
    loop
        is_asked := keelson._issuer_fetch_ask(f.id);
        if is_asked and f.id = any (wanted) then
            return next f.id;
        end if;
    end loop;
    return query
        select w.id from unnest(wanted) as w (id)
        where not exists (select from keelson.issuers as i where i.id = w.id and i.is_enabled and i.jwks_url is not null);
end
$$;
comment on function keelson._issuers_fetch_due(uuid[]) is
    'Ask for the keys that are due or wanted; returns those of the wanted for which nothing more is to be done.';

create or replace function keelson._issuer_fetched(id uuid, url text, keys text, cache_control text, problem text)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    i keelson.issuers;
    key_count integer;
    max_age integer := substring(lower(cache_control) from '(?:^|[,\s])max-age="?([0-9]{1,8})')::integer;
begin
    select * into i from keelson.issuers as known where known.id = _issuer_fetched.id for no key update;
    -- Where they were fetched from may be the issuer's no more.
    if i.jwks_url is null or i.jwks_url is distinct from url then
        return null;
    end if;
    if problem is null then
        begin
            key_count := keelson._issuer_keys_check(keys, null);
        exception when sqlstate 'KS400' then
            problem := sqlerrm;
        end;
    end if;
    if problem is not null then
        -- The keys that are known stay. Half a minute, doubled up to an hour.
        update keelson.issuer_fetches as f
        set failures = f.failures + 1, error = problem, due_at = clock_timestamp() + least(interval '30 seconds' * power(2, least(f.failures, 7)), interval '1 hour')
        where f.id = i.id;
        return 'failed';
    end if;
    update keelson.issuer_fetches as f
    set failures = 0, error = null, fetched_at = clock_timestamp(),
        due_at = clock_timestamp() + make_interval(secs => greatest(least(coalesce(max_age, 3600), 86400), 300))
    where f.id = i.id;
    if i.jwks is not distinct from keys and i.pem is null then
        return 'unchanged';
    end if;
    update keelson.issuers as changed set jwks = keys, pem = null, keys_set_at = now(), updated_at = now() where changed.id = i.id;
    perform keelson._issuer_audit('issuer''s keys fetched', i.issuer, jsonb_build_object('count', key_count));
    return 'changed';
end
$$;
comment on function keelson._issuer_fetched(uuid, text, text, text, text) is
    'Take over the keys that were fetched from this URL, or why there are none: changed, unchanged or failed; null when the issuer is gone or publishes them elsewhere by now. Fetched again after max-age, an hour without one, five minutes at least and a day at most; after a failure in 30 seconds, doubled up to an hour.';

create or replace function keelson.issuer_fetch(issuer text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._issuer_fetch_ask(keelson._issuer_lock(issuer));
end
$$;
comment on function keelson.issuer_fetch(text) is
    'Have the keys that an issuer publishes fetched now; false while a fetch is under way, within 30 seconds of the last, or where it publishes none.';
grant execute on function keelson.issuer_fetch(text) to keelson_admin;

create or replace function keelson._issuer_fetch_counts(out changed bigint, out unchanged bigint, out failed bigint)
language c
volatile
as 'MODULE_PATHNAME', 'ks__issuer_fetch_counts';
comment on function keelson._issuer_fetch_counts() is
    'What came of fetching issuers'' keys since the server started.';

create or replace function keelson._issuer_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language sql
volatile
as $$
select 'keelson_issuer_fetches_total', pg_catalog.jsonb_build_object('outcome', o.name), o.value::double precision, 'counter',
    'Fetches of the keys that issuers publish, by what came of them.'
from keelson._issuer_fetch_counts() as c
cross join lateral (values ('changed', c.changed), ('unchanged', c.unchanged), ('failed', c.failed)) as o (name, value)
union all
select 'keelson_issuer_fetch_failures', pg_catalog.jsonb_build_object('issuer', i.issuer), f.failures::double precision, 'gauge',
    'How often in a row the keys of an issuer could not be fetched.'
from keelson.issuers as i
join keelson.issuer_fetches as f on f.id = i.id
where i.is_enabled
union all
select 'keelson_issuer_keys_age_seconds', pg_catalog.jsonb_build_object('issuer', i.issuer),
    pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - f.fetched_at), 'gauge',
    'How long ago the keys of an issuer were last fetched.'
from keelson.issuers as i
join keelson.issuer_fetches as f on f.id = i.id
where i.is_enabled and f.fetched_at is not null
$$;
comment on function keelson._issuer_metrics() is
    'How fetching issuers'' keys goes, as samples.';
