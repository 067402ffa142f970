-- A table of a product whose rows belong to users: row-level security, and who may do what with it.
-- Who calls this owns the table: nothing here goes past what they may do.

create or replace function keelson.user_table(relation regclass, role name default 'keelson_app')
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    t record;
begin
    select c.relnamespace::regnamespace as schema, c.relkind, c.relrowsecurity and c.relforcerowsecurity as is_guarded,
        a.atttypid = 'uuid'::regtype and a.attnotnull as is_owned,
        exists (select from pg_policy as p where p.polrelid = c.oid and p.polname = 'own_rows') as has_policy,
        exists (select from pg_index as i where i.indrelid = c.oid and i.indkey[0] = a.attnum) as has_index
    into t
    from pg_class as c
    left join pg_attribute as a on a.attrelid = c.oid and a.attname = 'user_id' and not a.attisdropped
    where c.oid = relation;
    if (t.relkind in ('r', 'p') and t.schema <> 'keelson'::regnamespace) is not true then
        raise exception '"%" is not a table of a product', relation using errcode = 'wrong_object_type';
    elsif t.is_owned is not true then
        raise exception 'table "%" does not say whose its rows are', relation
            using errcode = 'undefined_column', hint = 'Give it a column: user_id uuid not null.';
    elsif not t.has_index then
        raise exception 'no index of table "%" begins with user_id', relation
            using errcode = 'undefined_object',
                  hint = 'Begin the primary key with it, or every request reads the rows of all users: primary key (user_id, id).';
    end if;
    if not t.is_guarded then
        execute format('alter table %s enable row level security, force row level security', relation);
    end if;
    if not t.has_policy then
        execute format(
            'create policy own_rows on %s using (user_id = keelson.current_user_id()) with check (user_id = keelson.current_user_id())',
            relation
        );
    end if;
    execute format('grant usage on schema %s to %I, keelson_system', t.schema, role);
    execute format('grant select, insert, update, delete on %s to %I', relation, role);
    execute format('grant select, delete on %s to keelson_system', relation);
end
$$;
comment on function keelson.user_table(regclass, name) is
    'Make the table''s rows their users'' own, by its column user_id: endpoint functions, which run as the role, see and write the acting user''s rows alone; the rows are in the user''s export and go when the user is erased. Doing it again changes nothing.';
grant execute on function keelson.user_table(regclass, name) to keelson_admin;
