-- Plants a row of each of two users into every table of users, with a marker in every column that can hold text:
-- regress_plant(who, user_id). For clusters that are thrown away, since what the tables' checks forbid is allowed first.

create schema regress_plant;

do $$
declare
    rule record;
begin
    for rule in
        select c.conrelid::regclass as relation, c.conname
        from pg_constraint as c
        join keelson._user_tables() as t on t.oid = c.conrelid
        where c.contype = 'c'
    loop
        execute format('alter table %s drop constraint %I', rule.relation, rule.conname);
    end loop;
end
$$;

create table regress_plant.markers (who text, relation text, column_name text, marker text);

-- A value of the type: with the marker if it can hold one.
create function regress_plant.value(type text, marker text, is_user boolean, user_id uuid)
returns text
language sql
as $$
select case
    when is_user then format('%L::uuid', user_id)
    when type in ('text', 'character varying', 'name') then format('%L', marker)
    when type = 'text[]' then format('array[%L]', marker)
    when type in ('json', 'jsonb') then format('jsonb_build_object(''planted'', %L)', marker)
    when type = 'bytea' then format('convert_to(%L, ''UTF8'')', marker)
    when type = 'bytea[]' then format('array[convert_to(%L, ''UTF8'')]', marker)
    when type = 'uuid' then 'keelson.uuid7()'
    when type = 'uuid[]' then 'array[keelson.uuid7()]'
    when type like '%[]' then format('''{}''::%s', type)
    when type in ('smallint', 'integer', 'bigint', 'numeric', 'real', 'double precision') then (1 + (random() * 30000)::int)::text
    when type = 'boolean' then 'false'
    when type in ('timestamp with time zone', 'timestamp without time zone', 'date') then 'now()'
    when type = 'interval' then '''1 day''::interval'
    when type in ('inet', 'cidr') then '''192.0.2.77'''
    when type = 'xid8' then 'pg_current_xact_id()'
    else 'null'
end
$$;

create function regress_plant.plant(who text, user_id uuid)
returns void
language plpgsql
set session_replication_role = replica
as $$
#variable_conflict use_variable
declare
    target record;
    part record;
    names text[];
    values text[];
    statement text;
begin
    for target in select * from keelson._user_tables() as t where not t.is_kept order by t.relation loop
        names := '{}';
        values := '{}';
        for part in
            select a.attname, a.atttypid::regtype::text as type, format('planted-%s-%s.%s', who, target.relation, a.attname) as marker
            from pg_attribute as a
            where a.attrelid = target.oid and a.attnum > 0 and not a.attisdropped and a.attidentity = '' and a.attgenerated = ''
            order by a.attnum
        loop
            if part.type in ('text', 'character varying', 'name', 'json', 'jsonb', 'text[]', 'bytea', 'bytea[]') then
                insert into regress_plant.markers values (who, target.relation, part.attname, part.marker);
            end if;
            -- What says that a user is active is read by the core itself.
            continue when target.relation = 'keelson.users' and part.attname in ('id', 'kind', 'status', 'deleted_at', 'erasure_started_at');
            names := names || part.attname::text;
            -- What has not ended is not cleared away meanwhile.
            values := values || case
                when part.type = 'timestamp with time zone' and part.attname ~ '(^|_)(expires|until)(_|$)' then 'now() + interval ''1 day'''
                else regress_plant.value(part.type, part.marker, part.attname = target.user_column, user_id)
            end;
        end loop;
        if target.relation = 'keelson.users' then
            execute format('update keelson.users set (%s) = row(%s) where id = %L',
                (select string_agg(format('%I', n), ', ') from unnest(names) as n), array_to_string(values, ', '), user_id);
        else
            statement := format('insert into %s (%s) values (%s)', target.oid::regclass,
                (select string_agg(format('%I', n), ', ') from unnest(names) as n), array_to_string(values, ', '));
            begin
                execute statement;
            exception when unique_violation then
                -- A user has one row there, which is this.
                execute format('delete from %s where %I = %L', target.oid::regclass, target.user_column, user_id);
                execute statement;
            end;
        end if;
    end loop;
    -- Nobody sends what was planted.
    update keelson.deliveries as d set due_at = 'infinity' where d.user_id = plant.user_id;
    delete from regress_plant.markers as m where m.relation = 'keelson.users' and m.column_name in ('kind', 'status');
end
$$;
