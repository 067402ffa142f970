-- keelson.openapi(), first part: SQL types and arguments as JSON Schema.
--
-- Rules that an author of endpoints can rely on:
--   * a type's or domain's comment describes it wherever it is used, a composite type's column comment describes
--     the field; a field is nullable unless its comment exists and does not speak of null; a reply has all fields but
--     those of which the comment says that they are left out at times, of what is given those that are nullable may be;
--   * limits of a domain come from its checks, as far as they are plain: length, range, regular expression, list.

create or replace function keelson._openapi_component_name(type oid)
returns text
language plpgsql
stable
parallel safe
as $$
begin
    return (
        select string_agg(upper(left(part, 1)) || substr(keelson._camel_case(part), 2), '' order by place)
        from pg_catalog.pg_type as t
        join pg_catalog.pg_namespace as n on n.oid = t.typnamespace
        cross join unnest(array[nullif(n.nspname, 'keelson'), t.typname]::text[]) with ordinality as parts (part, place)
        where t.oid = _openapi_component_name.type
    );
end;
$$;
comment on function keelson._openapi_component_name(oid) is
    'The name of a type among the schemas of the description: its own, with its schema before it where that is not keelson.';

create or replace function keelson._openapi_nullable(schema jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
    select case
        when _openapi_nullable.schema ? '$ref'
            then jsonb_build_object('anyOf', jsonb_build_array(
                    jsonb_build_object('$ref', _openapi_nullable.schema -> '$ref'), jsonb_build_object('type', 'null')))
                || (_openapi_nullable.schema - '$ref')
        when jsonb_typeof(_openapi_nullable.schema -> 'type') = 'string'
            then _openapi_nullable.schema
                || jsonb_build_object('type', jsonb_build_array(_openapi_nullable.schema -> 'type', 'null'))
        else _openapi_nullable.schema
    end;
$$;
comment on function keelson._openapi_nullable(jsonb) is 'The schema that also takes null.';

create or replace function keelson._openapi_base(type oid, modifier int)
returns jsonb
language plpgsql
stable
parallel safe
as $$
begin
    return (
        select case format('%s.%s', n.nspname, t.typname)
            when 'pg_catalog.bool' then '{"type": "boolean"}'
            when 'pg_catalog.int2' then '{"type": "integer", "minimum": -32768, "maximum": 32767}'
            when 'pg_catalog.int4' then '{"type": "integer", "format": "int32"}'
            when 'pg_catalog.int8' then '{"type": "integer", "format": "int64"}'
            when 'pg_catalog.numeric' then '{"type": "number"}'
            when 'pg_catalog.float4' then '{"type": "number", "format": "float"}'
            when 'pg_catalog.float8' then '{"type": "number", "format": "double"}'
            when 'pg_catalog.uuid' then '{"type": "string", "format": "uuid"}'
            when 'pg_catalog.date' then '{"type": "string", "format": "date"}'
            when 'pg_catalog.timestamptz' then '{"type": "string", "format": "date-time"}'
            when 'pg_catalog.bytea' then '{"type": "string", "contentEncoding": "base64"}'
            when 'pg_catalog.json' then '{}'
            when 'pg_catalog.jsonb' then '{}'
            when 'pg_catalog.record' then '{"type": "object"}'
            else case t.typcategory
                when 'N' then '{"type": "number"}'
                when 'B' then '{"type": "boolean"}'
                else '{"type": "string"}'
            end
        end::jsonb
        || case
            when t.typname in ('varchar', 'bpchar') and _openapi_base.modifier > 4
                then jsonb_build_object('maxLength', _openapi_base.modifier - 4)
            else '{}'
        end
        from pg_catalog.pg_type as t
        join pg_catalog.pg_namespace as n on n.oid = t.typnamespace
        where t.oid = _openapi_base.type
    );
end;
$$;
comment on function keelson._openapi_base(oid, int) is 'The schema of a base type, as its values stand in JSON.';

create or replace function keelson._openapi_schema(type oid, modifier int default -1)
returns jsonb
language plpgsql
stable
parallel safe
as $$
begin
    return (
        select case
            when t.typelem <> 0 and t.typcategory = 'A'
                then jsonb_build_object('type', 'array', 'items', keelson._openapi_schema(t.typelem))
            when t.typtype in ('d', 'e', 'c')
                then jsonb_build_object('$ref', '#/components/schemas/' || keelson._openapi_component_name(t.oid))
            else keelson._openapi_base(t.oid, _openapi_schema.modifier)
        end
        from pg_catalog.pg_type as t
        where t.oid = _openapi_schema.type
    );
end;
$$;
comment on function keelson._openapi_schema(oid, int) is
    'The schema of any type: domains, enums and composite types by reference, the rest in place.';

create or replace function keelson._openapi_limit(definition text, pattern text)
returns numeric
language plpgsql
immutable
parallel safe
as $$
begin
    return (
        select max(number[1]::numeric)
        from regexp_matches(_openapi_limit.definition, _openapi_limit.pattern, 'g') as number
    );
end;
$$;
comment on function keelson._openapi_limit(text, text) is 'The number that a pattern finds in the text of a check, or null.';

create or replace function keelson._openapi_check(definition text)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    return (
        with length (call) as (
            values ('(?:char_length|character_length|length)\(\(?VALUE\)?(?:::text)?\)')
        ),
        listed (words) as (
            select array_agg(word[1])
            from regexp_matches(
                substring(_openapi_check.definition from 'VALUE(?: COLLATE "C")?\)?(?:::text)? = ANY \(\(?ARRAY\[(.*?)\]'),
                '''((?:[^'']|'''')*)''', 'g') as word
        ),
        expression (source) as (
            select replace(substring(_openapi_check.definition from 'VALUE(?: COLLATE "C")?\)?(?:::text)? ~ ''((?:[^'']|'''')*)'''), '''''', '''')
        )
        select case
            when _openapi_check.definition ~ '\mOR\M' then '{}'
            else jsonb_strip_nulls(jsonb_build_object(
                'maxLength', coalesce(
                    keelson._openapi_limit(_openapi_check.definition, call || ' <= (\d+)'),
                    keelson._openapi_limit(_openapi_check.definition, call || ' < (\d+)') - 1),
                'minLength', coalesce(
                    keelson._openapi_limit(_openapi_check.definition, call || ' >= (\d+)'),
                    keelson._openapi_limit(_openapi_check.definition, call || ' > (\d+)') + 1,
                    case when _openapi_check.definition ~ 'VALUE <> ''''' then 1 end),
                'minimum', keelson._openapi_limit(_openapi_check.definition, '\(VALUE >= [(''+]*(-?[\d.]+)'),
                'maximum', keelson._openapi_limit(_openapi_check.definition, '\(VALUE <= [(''+]*(-?[\d.]+)'),
                'exclusiveMinimum', keelson._openapi_limit(_openapi_check.definition, '\(VALUE > [(''+]*(-?[\d.]+)'),
                'exclusiveMaximum', keelson._openapi_limit(_openapi_check.definition, '\(VALUE < [(''+]*(-?[\d.]+)'),
                'enum', to_jsonb(words),
                'pattern', case when source !~ '\[\[:|\\[mMyYAZ]|^\(\?|^\*\*\*' then source end))
        end
        from length, listed, expression
    );
end;
$$;
comment on function keelson._openapi_check(text) is
    'What a domain''s check (as pg_get_constraintdef writes it) says in the words of JSON Schema; nothing where it is not plain.';

create or replace function keelson._openapi_domain(type oid)
returns jsonb
language plpgsql
stable
parallel safe
as $$
begin
    return (
        with recursive chain (oid, base, modifier, depth) as (
            select t.oid, t.typbasetype, t.typtypmod, 1
            from pg_catalog.pg_type as t
            where t.oid = _openapi_domain.type
            union all
            select t.oid, t.typbasetype, t.typtypmod, chain.depth + 1
            from chain
            join pg_catalog.pg_type as t on t.oid = chain.base and t.typtype = 'd'
        ),
        checks (schema) as (
            select jsonb_object_agg(limits.key, limits.value order by chain.depth desc, c.conname)
            from chain
            join pg_catalog.pg_constraint as c on c.contypid = chain.oid and c.contype = 'c'
            cross join lateral jsonb_each(keelson._openapi_check(pg_catalog.pg_get_constraintdef(c.oid))) as limits
        )
        select keelson._openapi_schema(chain.base, chain.modifier)
            || case when chain.modifier >= 0 then keelson._openapi_base(chain.base, chain.modifier) else '{}' end
            || coalesce(checks.schema, '{}')
        from chain, checks
        order by chain.depth desc
        limit 1
    );
end;
$$;
comment on function keelson._openapi_domain(oid) is 'The schema of a domain: its base type with the limits of its checks, those of the domains below it too.';

create or replace function keelson._openapi_fields(type oid, is_given boolean)
returns jsonb
language plpgsql
stable
parallel safe
as $$
begin
    return (
        select jsonb_strip_nulls(jsonb_build_object('required',
                jsonb_agg(keelson._camel_case(field.name) order by field.place)
                    filter (where case when is_given then not field.is_nullable else not field.is_left_out end)))
            || jsonb_build_object(
            'type', 'object',
            'properties', jsonb_object_agg(
                keelson._camel_case(field.name),
                case
                    when field.is_nullable then keelson._openapi_nullable(keelson._openapi_schema(field.type, field.modifier))
                    else keelson._openapi_schema(field.type, field.modifier)
                end || jsonb_strip_nulls(jsonb_build_object('description', field.description))))
        from (
            select a.attname as name, a.atttypid as type, a.atttypmod as modifier, a.attnum as place,
                pg_catalog.col_description(a.attrelid, a.attnum) as description,
                coalesce(pg_catalog.col_description(a.attrelid, a.attnum) ~* '\mleft out\M', false) as is_left_out,
                not (a.attnotnull or t.typnotnull
                    or coalesce(pg_catalog.col_description(a.attrelid, a.attnum) !~* '\mnull\M', false)) as is_nullable
            from pg_catalog.pg_class as c
            join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            join pg_catalog.pg_type as t on t.oid = a.atttypid
            where c.reltype = _openapi_fields.type
        ) as field
    );
end;
$$;
comment on function keelson._openapi_fields(oid, boolean) is
    'The schema of a composite type, its columns under their JSON names; of one that clients give, what may be left out is not required.';

create or replace function keelson._openapi_component(type oid, is_given boolean)
returns jsonb
language plpgsql
stable
parallel safe
as $$
begin
    return (
        select case t.typtype
                when 'd' then keelson._openapi_domain(t.oid)
                when 'e' then jsonb_build_object('type', 'string', 'enum', (
                    select jsonb_agg(e.enumlabel order by e.enumsortorder)
                    from pg_catalog.pg_enum as e
                    where e.enumtypid = t.oid))
                else keelson._openapi_fields(t.oid, is_given)
            end
            || jsonb_strip_nulls(jsonb_build_object('description', coalesce(
                pg_catalog.obj_description(t.oid, 'pg_type'),
                pg_catalog.obj_description(t.typrelid, 'pg_class'))))
        from pg_catalog.pg_type as t
        where t.oid = _openapi_component.type
    );
end;
$$;
comment on function keelson._openapi_component(oid, boolean) is 'The schema behind the reference to a domain, enum or composite type.';

create or replace function keelson._openapi_parts(types oid[])
returns setof oid
language sql
stable
parallel safe
as $$
    with recursive used (oid) as (
        select unnest(_openapi_parts.types)
        union
        select part.oid
        from used
        join pg_catalog.pg_type as t on t.oid = used.oid
        cross join lateral (
            select t.typelem as oid where t.typelem <> 0
            union all
            select t.typbasetype where t.typtype = 'd'
            union all
            select a.atttypid
            from pg_catalog.pg_attribute as a
            where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
        ) as part
    )
    select used.oid from used;
$$;
comment on function keelson._openapi_parts(oid[]) is 'The types, and all that they are made of.';

create or replace function keelson._openapi_components(types oid[], given_types oid[])
returns jsonb
language plpgsql
stable
parallel safe
as $$
declare
    given_parts oid[] := array(select keelson._openapi_parts(given_types));
begin
    return (
        select coalesce(
            jsonb_object_agg(
                keelson._openapi_component_name(t.oid), keelson._openapi_component(t.oid, t.oid = any (given_parts)) order by t.typname),
            '{}')
        from keelson._openapi_parts(types || given_types) as used (oid)
        join pg_catalog.pg_type as t on t.oid = used.oid
        where t.typtype in ('d', 'e', 'c')
    );
end;
$$;
comment on function keelson._openapi_components(oid[], oid[]) is
    'The named types that those of replies and those that clients give are made of, each under its name.';

create or replace function keelson._openapi_default(expression text)
returns jsonb
language plpgsql
immutable
parallel safe
as $$
begin
    if expression ~ '^-?\d+(\.\d+)?$' or expression in ('true', 'false') then
        return expression::jsonb;
    end if;
    if expression ~ '^''\{\}''::' then
        return '[]';
    end if;
    if expression ~ '^''([^'']|'''')*''::(text|character varying|[a-z_]+\.[a-z_]+)$' then
        return to_jsonb(replace(substring(expression from '^''(.*)''::'), '''''', ''''));
    end if;
    return null;
end;
$$;
comment on function keelson._openapi_default(text) is 'A default that is a plain literal, as JSON; null for any other expression.';

create or replace function keelson._openapi_arguments(function oid)
returns table (name text, type oid, place int, is_required boolean, schema jsonb)
language sql
stable
parallel safe
as $$
    select keelson._camel_case(p.proargnames[argument.place]), argument.type, argument.number,
        argument.number <= p.pronargs - p.pronargdefaults,
        keelson._openapi_schema(argument.type) || jsonb_strip_nulls(jsonb_build_object(
            'default', keelson._openapi_default(pg_catalog.pg_get_function_arg_default(p.oid, argument.place::int))))
    from pg_catalog.pg_proc as p
    cross join lateral (
        select given.type, given.place, (row_number() over (order by given.place))::int as number
        from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) with ordinality as given (type, place)
        where p.proargmodes is null or p.proargmodes[given.place] in ('i', 'b', 'v')
    ) as argument
    where p.oid = _openapi_arguments.function
    order by argument.number;
$$;
comment on function keelson._openapi_arguments(oid) is 'The arguments of a function as a client names them, with their schemas.';
