-- keelson.openapi_document(): the description as it is sent, made once for each state of what it is made of.
--
-- Making it takes a large part of a second, and anybody may ask for it. So the last one is kept, beside a version of
-- all that it was made of, and is sent as long as that version is still so. A row of a table, of the catalogue too, is
-- known by its place and by the transaction that wrote it: that pair never comes back for another row, so what is kept
-- cannot be taken for what is new, whoever changed it and however.

create or replace function keelson._openapi_version()
returns text
language plpgsql
stable
as $$
begin
    return (
        -- Nothing that is temporary: it comes and goes, and no endpoint has it.
        with schemas as materialized (
            select n.oid, n.tableoid as table, n.ctid as place, n.xmin as writer
            from pg_catalog.pg_namespace as n
            where n.nspname !~ '^pg_(toast_)?temp_'
        ),
        -- What has columns.
        classes as materialized (
            select c.oid, c.tableoid as table, c.ctid as place, c.xmin as writer
            from pg_catalog.pg_class as c
            where c.relkind in ('r', 'p', 'v', 'm', 'f', 'c') and c.relpersistence <> 't'
        ),
        rows ("table", place, writer) as (
            select s.table, s.place, s.writer from schemas as s
            union all
            select c.table, c.place, c.writer from classes as c
            union all
            select a.tableoid, a.ctid, a.xmin from pg_catalog.pg_attribute as a join classes as c on c.oid = a.attrelid
            union all
            select t.tableoid, t.ctid, t.xmin from pg_catalog.pg_type as t join schemas as s on s.oid = t.typnamespace
            union all
            select c.tableoid, c.ctid, c.xmin from pg_catalog.pg_constraint as c where c.contypid <> 0
            union all
            select e.tableoid, e.ctid, e.xmin from pg_catalog.pg_enum as e
            union all
            select p.tableoid, p.ctid, p.xmin from pg_catalog.pg_proc as p join schemas as s on s.oid = p.pronamespace
            union all
            select d.tableoid, d.ctid, d.xmin from pg_catalog.pg_description as d
            union all
            select e.tableoid, e.ctid, e.xmin from pg_catalog.pg_extension as e
            union all
            select r.tableoid, r.ctid, r.xmin from keelson.routes as r
            union all
            select o.tableoid, o.ctid, o.xmin from keelson.route_overrides as o
        )
        select format('%s %s %s',
            (select sum(hashtidextended(rows.place, rows.table::bigint << 32 | rows.writer::text::bigint)) from rows),
            -- An endpoint becomes deprecated by the clock alone.
            (select count(*) from keelson.effective_routes as r where r.deprecated_at <= now()),
            current_setting('keelson.public_url', true))
    );
end;
$$;
comment on function keelson._openapi_version() is
    'What the description is made of, in a few bytes: another text whenever any of it has changed.';

create or replace function keelson._caches_forget()
returns void
language c
volatile
as 'MODULE_PATHNAME', 'ks__caches_forget';
comment on function keelson._caches_forget() is
    'Let this session read the catalogue anew: what committed a moment ago is seen by a snapshot sooner than its caches are told.';

create or replace function keelson._openapi_keep()
returns void
language plpgsql
volatile
as $$
declare
    kept keelson.openapi_kept;
begin
    -- One makes it, and those who ask meanwhile take what that one made.
    perform pg_advisory_xact_lock(hashtextextended('keelson.openapi', 0));
    kept.version := keelson._openapi_version();
    if exists (select from keelson.openapi_kept as k where k.version = kept.version) then
        return;
    end if;
    -- The version is older than the document, if anything: a change between the two is then seen by the next call.
    perform keelson._caches_forget();
    kept.is_only := true;
    kept.document := convert_to(keelson.openapi()::text, 'UTF8');
    kept.tag := encode(sha256(kept.document), 'hex');
    insert into keelson.openapi_kept
    select kept.*
    on conflict (is_only) do update
    set version = excluded.version, tag = excluded.tag, document = excluded.document;
end;
$$;
comment on function keelson._openapi_keep() is
    'Make the description and keep it, unless what is kept is of this version.';

create or replace function keelson.openapi_document()
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    kept keelson.openapi_kept;
    headers jsonb;
begin
    select k.* into kept from keelson.openapi_kept as k where k.version = keelson._openapi_version();
    if not found then
        perform keelson._openapi_keep();
        select k.* into strict kept from keelson.openapi_kept as k;
    end if;
    headers := jsonb_build_object('ETag', '"' || kept.tag || '"', 'Cache-Control', 'no-cache');
    if keelson._etag_matches((keelson.current_request()).if_none_match, kept.tag) then
        return row(304, headers, null)::keelson.reply;
    end if;
    return row(200, headers || '{"Content-Type": "application/json", ":raw": true}', kept.document)::keelson.reply;
end;
$$;
comment on function keelson.openapi_document() is
    'This description of the API, as OpenAPI 3.1; 304 for who has it already.';
grant execute on function keelson.openapi_document() to keelson_app;
