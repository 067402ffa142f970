-- Bulk operations: one operation on up to a thousand users. Each user is a
-- subtransaction of its own, so what fails for one is undone for that one
-- alone; operation, results and what was done commit together.

do $types$
begin
    if pg_catalog.to_regtype('keelson.bulk_item') is null then
        create type keelson.bulk_item as (
            user_id uuid,
            outcome text,
            code text,
            message text
        );
    end if;
    if pg_catalog.to_regtype('keelson.bulk_operation') is null then
        create type keelson.bulk_operation as (
            id uuid,
            operation text,
            status text,
            total integer,
            succeeded integer,
            failed integer,
            created_at timestamptz,
            finished_at timestamptz,
            results keelson.bulk_item[]
        );
    end if;
end
$types$;
comment on type keelson.bulk_item is 'What became of one user in a bulk operation.';
comment on column keelson.bulk_item.user_id is 'Who.';
comment on column keelson.bulk_item.outcome is 'done; unchanged, because they were so already; failed.';
comment on column keelson.bulk_item.code is 'The code of the error; null unless it failed.';
comment on column keelson.bulk_item.message is 'The error''s message; null unless it failed.';
comment on type keelson.bulk_operation is 'An operation on many users.';
comment on column keelson.bulk_operation.status is 'running or finished.';
comment on column keelson.bulk_operation.succeeded is 'For how many users it is so now, those included for whom it was so before.';
comment on column keelson.bulk_operation.failed is 'For how many users nothing was done.';
comment on column keelson.bulk_operation.finished_at is 'When it was done; null while it runs.';
comment on column keelson.bulk_operation.results is 'One for each user, in the order of the list.';

create or replace function keelson.admin_users_bulk(
    operation text,
    user_ids uuid[],
    reason keelson.short_text default null,
    role keelson.role_name default null
)
returns keelson.bulk_operation
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    acting uuid := keelson.current_user_id();
    id uuid := keelson.uuid7();
    item keelson.bulk_item;
    items jsonb := '[]';
    target record;
begin
    perform keelson.permission_require('users.write');
    perform keelson._bulk_require(operation, user_ids, role);
    -- In the order of ids, so that two operations never wait for each other both ways.
    for target in
        select l.target_id, l.place from unnest(user_ids) with ordinality as l (target_id, place) order by l.target_id
    loop
        item := keelson._bulk_do(operation, target.target_id, reason, role);
        items := items || jsonb_build_object(
            'place', target.place, 'target_id', item.user_id, 'outcome', item.outcome, 'code', item.code, 'message', item.message
        );
    end loop;
    perform keelson._bulk_store(acting, id, operation, reason, role, items);
    return keelson._bulk_operation_of(acting, id);
end
$$;
comment on function keelson.admin_users_bulk(text, uuid[], keelson.short_text, keelson.role_name) is
    'Do one thing to up to 1,000 users: block (with reason), unblock, delete, restore, end_sessions, grant_role or revoke_role (with role). What fails for one does not undo the others: results say what became of each. Doing it again leaves those unchanged who are so already; with an Idempotency-Key a repetition gets the first reply. Needs the permission users.write (for roles, roles.write), and for each user what the single operation needs.';
grant execute on function keelson.admin_users_bulk(text, uuid[], keelson.short_text, keelson.role_name) to keelson_app;

create or replace function keelson.admin_bulk(id uuid)
returns keelson.bulk_operation
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    operation keelson.bulk_operation;
begin
    perform keelson.permission_require('users.write');
    operation := keelson._bulk_operation_of(keelson.current_user_id(), admin_bulk.id);
    if operation.id is null then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such operation');
    end if;
    return operation;
end
$$;
comment on function keelson.admin_bulk(uuid) is
    'A bulk operation of one''s own, for 30 days, with what became of each user. Needs the permission users.write.';
grant execute on function keelson.admin_bulk(uuid) to keelson_app;

create or replace function keelson._bulk_require(operation text, user_ids uuid[], role text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if operation is null or operation not in ('block', 'unblock', 'delete', 'restore', 'end_sessions', 'grant_role', 'revoke_role') then
        perform keelson.raise(400, 'VALIDATION_FAILED',
            'the operation is block, unblock, delete, restore, end_sessions, grant_role or revoke_role', field => 'operation');
    elsif user_ids is null or cardinality(user_ids) not between 1 and 1000 or array_position(user_ids, null) is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an operation is for 1 to 1,000 users', field => 'user_ids');
    elsif (select count(distinct u.id) from unnest(user_ids) as u (id)) < cardinality(user_ids) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an id stands in the list more than once', field => 'user_ids');
    elsif operation in ('grant_role', 'revoke_role') then
        perform keelson._require(role, 'role');
        perform keelson._roles_require_known(array[role]);
        perform keelson.permission_require('roles.write');
        perform keelson._permissions_require_held(keelson._roles_permissions(array[role]));
    elsif role is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a role goes with grant_role and revoke_role alone', field => 'role');
    end if;
end
$$;
comment on function keelson._bulk_require(text, uuid[], text) is
    'Raise 400 or 403 unless it is an operation that can be begun.';

create or replace function keelson._bulk_do(operation text, target_id uuid, reason text, role text)
returns keelson.bulk_item
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    is_changed boolean;
    code text;
    state text;
begin
    -- One subtransaction for each.
    begin
        perform keelson._admin_require_over(target_id);
        if operation in ('block', 'unblock') then
            perform keelson._admin_require_other(target_id);
        end if;
        is_changed := case operation
            when 'block' then keelson._user_set_status(target_id, 'blocked', reason)
            when 'unblock' then keelson._user_set_status(target_id, 'active')
            when 'delete' then keelson._user_set_status(target_id, 'deleted')
            when 'restore' then keelson._user_restore(target_id)
            when 'end_sessions' then (keelson.admin_user_end_sessions(target_id)).ended_sessions > 0
            else keelson._user_role_set(target_id, role, operation = 'grant_role')
        end;
        return row(target_id, case when is_changed then 'done' else 'unchanged' end, null, null)::keelson.bulk_item;
    exception when others then
        get stacked diagnostics code = constraint_name, state = returned_sqlstate;
        -- Only what was refused is a result; all else ends the whole.
        if state !~ '^KS4' then
            raise;
        end if;
        return row(target_id, 'failed', code, upper(left(sqlerrm, 1)) || substr(sqlerrm, 2))::keelson.bulk_item;
    end;
end
$$;
comment on function keelson._bulk_do(text, uuid, text, text) is
    'Do it to one user, and say what became of it.';

-- Across users: executed by the core's own functions alone.

create or replace function keelson._user_role_set(id uuid, role text, is_held boolean)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if role = 'user' or is_held = exists (
        select from keelson.user_roles as r where r.user_id = id and r.role = _user_role_set.role
    ) then
        return false;
    end if;
    if role = 'owner' and not is_held then
        perform keelson._owner_require_other(id);
    end if;
    perform keelson._user_roles_change(
        id, case when is_held then array[role] else '{}' end, case when is_held then '{}' else array[role] end
    );
    return true;
end
$$;
alter function keelson._user_role_set(uuid, text, boolean) owner to keelson_system;
comment on function keelson._user_role_set(uuid, text, boolean) is
    'Give the user the role or take it; false when it was so. Whoever calls it has asked whether that is allowed, and holds the lock on the user.';

create or replace function keelson._bulk_store(user_id uuid, id uuid, operation text, reason text, role text, items jsonb)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    failures integer := (select count(*) from jsonb_array_elements(items) as i (item) where i.item ->> 'outcome' = 'failed');
begin
    insert into keelson.bulk_operations (user_id, id, operation, reason, role, total, succeeded, failed, finished_at)
    values (
        _bulk_store.user_id, _bulk_store.id, _bulk_store.operation, _bulk_store.reason, _bulk_store.role,
        jsonb_array_length(items), jsonb_array_length(items) - failures, failures, clock_timestamp()
    );
    insert into keelson.bulk_items (user_id, bulk_id, place, target_id, outcome, code, message)
    select _bulk_store.user_id, _bulk_store.id, i.place, i.target_id, i.outcome, i.code, i.message
    from jsonb_to_recordset(items) as i (place integer, target_id uuid, outcome text, code text, message text);
    perform keelson.audit('admin.bulk', jsonb_build_object(
        'operation', operation, 'bulk', id, 'total', jsonb_array_length(items), 'failed', failures
    ));
end
$$;
alter function keelson._bulk_store(uuid, uuid, text, text, text, jsonb) owner to keelson_system;
comment on function keelson._bulk_store(uuid, uuid, text, text, text, jsonb) is
    'Keep a bulk operation and its results.';

create or replace function keelson._bulk_operation_of(user_id uuid, id uuid)
returns keelson.bulk_operation
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select row(
    o.id, o.operation, case when o.finished_at is null then 'running' else 'finished' end, o.total, o.succeeded, o.failed,
    o.created_at, o.finished_at,
    array(
        select row(i.target_id, i.outcome, i.code, i.message)::keelson.bulk_item
        from keelson.bulk_items as i
        where i.user_id = o.user_id and i.bulk_id = o.id
        order by i.place
    )
)::keelson.bulk_operation
from keelson.bulk_operations as o
where o.user_id = _bulk_operation_of.user_id and o.id = _bulk_operation_of.id
$$;
alter function keelson._bulk_operation_of(uuid, uuid) owner to keelson_system;
comment on function keelson._bulk_operation_of(uuid, uuid) is
    'A bulk operation of this user as clients see it; all null when there is none.';
