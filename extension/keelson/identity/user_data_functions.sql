-- What is a user's data: every table with a column user_id, found by walking
-- the catalogue, so that tables of later capabilities and of products are
-- covered by themselves. Exceptions are rows of keelson.user_data_rules.

do $types$
begin
    if pg_catalog.to_regtype('keelson.exported_row') is null then
        create type keelson.exported_row as (
            "table" text,
            data jsonb
        );
    end if;
end
$types$;
comment on type keelson.exported_row is 'One row of a user''s data.';
comment on column keelson.exported_row."table" is 'The table it is from.';
comment on column keelson.exported_row.data is 'Its columns, without secrets.';

create or replace function keelson._user_tables(
    out relation text,
    out oid oid,
    out user_column name,
    out is_kept boolean,
    out is_hidden boolean,
    out may_read boolean,
    out may_delete boolean,
    out depth integer,
    out reason text
)
returns setof record
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
with recursive found as (
    select format('%s.%s', n.nspname, c.relname) as relation, c.oid, a.attname
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
        and (a.attname = 'user_id' and a.atttypid = 'uuid'::regtype or n.nspname = 'keelson' and c.relname = 'users' and a.attname = 'id')
),
-- What refers to a table stands before it.
levels as (
    select f.oid, 0 as depth from found as f
    union
    select k.conrelid, l.depth + 1
    from levels as l
    join pg_constraint as k on k.confrelid = l.oid and k.contype = 'f' and k.conrelid <> k.confrelid
    where l.depth < 20 and exists (select from found as f where f.oid = k.conrelid)
)
select f.relation, f.oid, f.attname, coalesce(r.is_kept, false), coalesce(r.is_hidden, false),
    has_schema_privilege('keelson_system', c.relnamespace, 'usage') and has_table_privilege('keelson_system', f.oid, 'select'),
    has_schema_privilege('keelson_system', c.relnamespace, 'usage') and has_table_privilege('keelson_system', f.oid, 'select')
        and has_table_privilege('keelson_system', f.oid, 'delete'),
    (select max(l.depth) from levels as l where l.oid = f.oid), r.reason
from found as f
join pg_class as c on c.oid = f.oid
left join keelson.user_data_rules as r on r.relation = f.relation and r.column_name = '*'
$$;
comment on function keelson._user_tables() is
    'Every table that holds users'' data, and how it is treated; what refers to others is deeper.';

create or replace function keelson.user_data_tables()
returns table (relation text, is_exported boolean, is_erased boolean, reason text)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select t.relation, t.may_read and not t.is_hidden, t.may_delete and not t.is_kept,
        coalesce(t.reason, case when not t.may_delete then format('grant select, delete on %s to keelson_system', t.relation) end)
    from keelson._user_tables() as t
    order by t.relation;
end
$$;
comment on function keelson.user_data_tables() is
    'Every table with a column user_id: whether its rows are in the user''s export, whether they go when the user is erased, and if not, why or what is to be done.';
grant execute on function keelson.user_data_tables() to keelson_admin;

create or replace function keelson._user_rows_read(relation regclass, query text, user_id uuid)
returns setof jsonb
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__user_rows_read';
comment on function keelson._user_rows_read(regclass, text, uuid) is
    'The rows of a query of the table for the user ($1), as replies write them. It is executed as the table''s owner, with the user acting, unless that is a superuser.';

create or replace function keelson._user_rows_delete(relation regclass, query text, user_id uuid, row_limit bigint)
returns bigint
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__user_rows_delete';
comment on function keelson._user_rows_delete(regclass, text, uuid, bigint) is
    'Execute a statement that deletes at most so many ($2) of the user''s ($1) rows from the table, as keelson._user_rows_read() does; returns how many it deleted.';

-- The export.

create or replace function keelson._export_columns(relation text, oid oid, user_column name)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
select string_agg(
    format('%s as %I', coalesce(r.open_expression, format('t.%I', a.attname)), a.attname),
    ', ' order by a.attnum
)
from pg_attribute as a
left join keelson.user_data_rules as r on r.relation = _export_columns.relation and r.column_name = a.attname
where a.attrelid = _export_columns.oid and a.attnum > 0 and not a.attisdropped
    and (a.attname <> user_column or user_column = 'id')
    and case
        when r.relation is not null then not r.is_hidden
        -- Sealed, or a hash: unless a rule says otherwise.
        when a.atttypid = 'bytea'::regtype then false
        else a.attname !~ '(^|_)(hash|secret|token|password|key|wrapped|sealed|salt|pepper|private|seed|cipher|nonce)(_|$)'
            or a.attname ~ '_id$'
    end
$$;
comment on function keelson._export_columns(text, oid, name) is
    'What an export selects from a table: the columns that are no secrets, sealed ones opened where a rule says so.';

create or replace function keelson._user_export(user_id uuid)
returns setof keelson.exported_row
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    source record;
    columns text;
begin
    for source in
        select * from keelson._user_tables() as t where t.may_read and not t.is_hidden
        order by t.relation <> 'keelson.users', t.relation
    loop
        columns := keelson._export_columns(source.relation, source.oid, source.user_column);
        continue when columns is null;
        return query
        select regexp_replace(source.relation, '^keelson\.', ''), r.data
        from keelson._user_rows_read(
            source.oid, format('select %s from %s as t where t.%I = $1', columns, source.oid::regclass, source.user_column), user_id
        ) as r (data);
    end loop;
end
$$;
alter function keelson._user_export(uuid) owner to keelson_system;
comment on function keelson._user_export(uuid) is
    'All of a user''s data, row by row.';

create or replace function keelson.user_export()
returns setof keelson.exported_row
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    perform keelson.audit('user.export');
    return query select * from keelson._user_export(keelson.current_user_id());
end
$$;
comment on function keelson.user_export() is
    'All data of the user who is signed in: every row of every table that has users'' data, sealed fields opened where they are the user''s own, secrets (passwords, keys, tokens) left out. Recorded in the user''s activity.';
grant execute on function keelson.user_export() to keelson_app;

-- Erasure.

create or replace function keelson.users_erase(batch integer default 10000, moment timestamptz default pg_catalog.now())
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid;
    total bigint := 0;
begin
    if batch is null or batch not between 1 and 100000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a batch is 1 to 100,000 rows', field => 'batch');
    end if;
    while total < batch loop
        -- Whoever erases at the same time has another user.
        select u.id into target from keelson.users as u
        where u.status = 'deleted'
            and (u.deleted_at <= moment - current_setting('keelson.erasure_after')::interval or u.erasure_started_at is not null)
            and not exists (select from keelson.legal_holds as h where h.user_id = u.id)
        order by u.deleted_at, u.id
        limit 1
        for update skip locked;
        exit when target is null;
        -- A hold may have come before the lock.
        continue when exists (select from keelson.legal_holds as h where h.user_id = target);
        total := total + keelson._user_erase(target, (batch - total)::integer);
    end loop;
    return total;
end
$$;
alter function keelson.users_erase(integer, timestamptz) owner to keelson_system;
comment on function keelson.users_erase(integer, timestamptz) is
    'Erase users who were deleted longer ago than keelson.erasure_after: first their keys, with which all that is sealed is gone, then every row of theirs, so many at most; returns how many, 0 when nothing is due. What it has not finished the next call goes on with; two at once take different users. Users under a legal hold are left.';
grant execute on function keelson.users_erase(integer, timestamptz) to keelson_admin, keelson_jobs;

create or replace function keelson._user_erase(id uuid, row_limit integer)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    source record;
    total bigint := 0;
begin
    update keelson.users as u set erasure_started_at = now() where u.id = _user_erase.id and u.erasure_started_at is null;
    if found then
        perform keelson._user_keys_erase(id);
        total := 1;
    end if;
    for source in
        select t.user_column, coalesce(p.relid, t.oid)::regclass as relid
        from keelson._user_tables() as t
        left join lateral pg_partition_tree(t.oid) as p on p.isleaf
        where t.may_delete and not t.is_kept and t.relation not in ('keelson.users', 'keelson.user_keys')
        order by t.depth desc, t.relation, 2
    loop
        if total >= row_limit then
            return total;
        end if;
        total := total + keelson._user_rows_delete(
            source.relid,
            format('delete from %1$s where ctid = any (array(select ctid from %1$s where %2$I = $1 limit $2))', source.relid, source.user_column),
            id, row_limit - total
        );
    end loop;
    if total >= row_limit then
        return total;
    end if;
    total := total + keelson._audit_forget(id, (row_limit - total)::integer);
    if total >= row_limit then
        return total;
    end if;
    perform keelson.audit('user.erase', user_id => id);
    -- Whatever was sealed for them since.
    perform keelson._user_keys_erase(id);
    delete from keelson.users as u where u.id = _user_erase.id;
    return total + 1;
end
$$;
alter function keelson._user_erase(uuid, integer) owner to keelson_system;
comment on function keelson._user_erase(uuid, integer) is
    'Erase so many rows of a user at most; the row in keelson.users goes last. Whoever calls it holds the lock on that.';

create or replace function keelson.identity_purge(batch integer default 10000)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    purged bigint := 0;
begin
    if batch is null or batch not between 1 and 100000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a batch is 1 to 100,000 rows', field => 'batch');
    end if;
    purged := keelson._purge('keelson.user_emails', 'reserved_until', now(), batch);
    purged := purged + keelson._purge('keelson.email_changes', 'undo_until', now(), batch - purged);
    -- A row has the results of up to a thousand changes.
    return purged + keelson._purge(
        'keelson.bulk_operations', 'created_at', now() - interval '30 days',
        case when purged < batch then greatest((batch - purged) / 1000, 1) else 0 end
    );
end
$$;
alter function keelson.identity_purge(integer) owner to keelson_system;
comment on function keelson.identity_purge(integer) is
    'Delete addresses that users have left longer than seven days ago and results of bulk operations of more than 30 days, so many at most; returns how many.';
grant execute on function keelson.identity_purge(integer) to keelson_admin, keelson_jobs;
