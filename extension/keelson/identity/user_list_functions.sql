-- The list of users, for administrators. Every order is an index (see
-- tables.sql), a page goes on where the last one ended, and looks at so many
-- users at most: it costs the same among a thousand and among ten million.

create or replace function keelson._admin_user_of(id uuid)
returns keelson.admin_user
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select row(
    u.id, u.email, u.email_verified_at is not null, u.name,
    current_setting('keelson.public_url') || '/api/users/' || u.id || '/avatar?v=' || encode(substring(u.avatar_hash for 8), 'hex'),
    u.preferences,
    array(select 'user' union all (select r.role from keelson.user_roles as r where r.user_id = u.id order by r.role collate "C")),
    u.status, u.block_reason, u.blocked_at, u.deleted_at,
    u.deleted_at + current_setting('keelson.erasure_after')::interval, u.created_at, u.updated_at, keelson._tier_of(u.id)
)::keelson.admin_user
from keelson.users as u
where u.id = _admin_user_of.id and u.erasure_started_at is null
$$;
alter function keelson._admin_user_of(uuid) owner to keelson_system;
comment on function keelson._admin_user_of(uuid) is
    'A user as administrators see them; all null when there is none, or what is left of one who is being erased.';

create or replace function keelson._search_word(given text)
returns text
language sql
immutable
as $$
select nullif(pg_catalog.lower(pg_catalog.btrim(pg_catalog.normalize(given, 'NFC'))), '')
$$;
comment on function keelson._search_word(text) is
    'What is looked for, folded as the indexes are; null for nothing.';

-- The columns that a page can be in order of.
create or replace function keelson._user_order(sort text, out expression text, out condition text, out is_descending boolean)
language sql
immutable
as $$
select
    case pg_catalog.ltrim(sort, '-')
        when 'createdAt' then 'u.id'
        when 'email' then '(coalesce(lower(u.email collate "C"), '''') collate "C")'
        when 'name' then '(coalesce(lower(u.name), '''') collate "C")'
        when 'lastName' then '(lower(substring(u.name, ''[^ ]+$'')) collate "C")'
        when 'deletedAt' then 'u.deleted_at'
    end,
    case pg_catalog.ltrim(sort, '-') when 'lastName' then 'strpos(u.name, '' '') > 0' when 'deletedAt' then 'u.status = ''deleted''' else 'true' end,
    sort like '-%'
$$;
comment on function keelson._user_order(text) is
    'The indexed expression that a sort key stands for, and the condition of its index.';

create or replace function keelson._user_list_fits(id uuid, email text, name text, status text, filter jsonb)
returns boolean
language sql
stable
as $$
select (filter ->> 'status' is null or status = filter ->> 'status')
    and (filter ->> 'email' is null or coalesce(pg_catalog.starts_with(pg_catalog.lower(email collate "C"), filter ->> 'email'), false))
    and (filter ->> 'name' is null or keelson._name_begins(name, filter ->> 'name'))
    and (filter ->> 'q' is null or keelson._name_begins(name, filter ->> 'q')
        or coalesce(pg_catalog.starts_with(pg_catalog.lower(email collate "C"), filter ->> 'q'), false))
    and (filter ->> 'tier' is null or keelson._tier_of(id) = filter ->> 'tier')
$$;
comment on function keelson._user_list_fits(uuid, text, text, text, jsonb) is
    'Whether the user is one that is looked for.';

create or replace function keelson._name_begins(name text, word text)
returns boolean
language sql
immutable
as $$
select coalesce(
    pg_catalog.starts_with(pg_catalog.lower(name), word)
    or pg_catalog.starts_with(pg_catalog.lower(pg_catalog.substring(name, '[^ ]+$')), word),
    false
)
$$;
comment on function keelson._name_begins(text, text) is
    'Whether the word, folded, begins the name or its last word.';

create or replace function keelson._user_list(
    filter jsonb,
    sort text,
    row_limit integer,
    place jsonb,
    out matches uuid[],
    out next_place jsonb
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    most constant integer := 10000;
    orders text[] := keelson._user_list_orders(filter, sort);
    number integer := coalesce((place ->> 'order')::integer, 1);
    prefix text;
    o record;
    u record;
    seen integer := 0;
begin
    matches := '{}';
    while number <= cardinality(orders) loop
        o := keelson._user_order(orders[number]);
        -- Only where the order is that of a word that is looked for is the word a range of it.
        prefix := case ltrim(orders[number], '-')
            when 'email' then coalesce(filter ->> 'email', case when sort is null then filter ->> 'q' end)
            when 'name' then case when sort is null then coalesce(filter ->> 'name', filter ->> 'q') end
            when 'lastName' then coalesce(filter ->> 'name', filter ->> 'q')
        end;
        for u in execute format(
            'select u.id, u.email, u.name, u.status, %1$s::text as sort_key from keelson.users as u where %2$s and %1$s is not null%3$s%4$s%7$s order by %1$s %5$s, u.id %5$s limit %6$s',
            o.expression, o.condition,
            case when prefix is not null then format(' and %1$s >= $1 and %1$s < $1 || chr(1114111)', o.expression) else '' end,
            case when place ->> 'id' is not null then format(
                ' and (%s, u.id) %s ($2%s, $3)', o.expression, case when o.is_descending then '<' else '>' end,
                case ltrim(orders[number], '-') when 'createdAt' then '::uuid' when 'deletedAt' then '::timestamptz' else '' end
            ) else '' end,
            case when o.is_descending then 'desc' else 'asc' end,
            most - seen + 1,
            case when filter ->> 'status' is not null and filter ->> 'status' <> 'active' and ltrim(orders[number], '-') = 'createdAt'
                then format(' and u.status = %L and u.status <> ''active''', filter ->> 'status') else '' end
        ) using prefix, place ->> 'key', (place ->> 'id')::uuid
        loop
            if seen >= most or cardinality(matches) = row_limit then
                return;
            end if;
            seen := seen + 1;
            next_place := jsonb_build_object('order', number, 'key', u.sort_key, 'id', u.id);
            -- Who was found by an earlier order has been listed there.
            if keelson._user_list_fits(u.id, u.email, u.name, u.status, filter)
                and not keelson._user_list_is_earlier(orders, number, u.email, u.name, filter)
            then
                matches := matches || u.id::uuid;
            end if;
        end loop;
        number := number + 1;
        place := null;
    end loop;
    next_place := null;
end
$$;
alter function keelson._user_list(jsonb, text, integer, jsonb) owner to keelson_system;
comment on function keelson._user_list(jsonb, text, integer, jsonb) is
    'The next users that fit, in order, and the place after them; null when there are no more.';

create or replace function keelson._user_list_orders(filter jsonb, sort text)
returns text[]
language sql
immutable
as $$
-- Unless an order is asked for it is that of what is looked for: a word may
-- begin an address, a name or a last name, one after the other.
select case
    when sort is not null then array[sort]
    when filter ->> 'email' is not null then array['email']
    when filter ->> 'name' is not null then array['name', 'lastName']
    when filter ->> 'q' is not null then array['email', 'name', 'lastName']
    else array['-createdAt']
end
$$;
comment on function keelson._user_list_orders(jsonb, text) is
    'The orders in which the list goes through the users, one after the other.';

create or replace function keelson._user_list_is_earlier(orders text[], number integer, email text, name text, filter jsonb)
returns boolean
language sql
immutable
as $$
select coalesce(
    'email' = any (orders[1 : number - 1]) and pg_catalog.starts_with(pg_catalog.lower(email collate "C"), filter ->> 'q')
    or 'name' = any (orders[1 : number - 1])
        and pg_catalog.starts_with(pg_catalog.lower(name), coalesce(filter ->> 'name', filter ->> 'q')),
    false
)
$$;
comment on function keelson._user_list_is_earlier(text[], integer, text, text, jsonb) is
    'Whether an order before this one has listed the user already.';

create or replace function keelson.admin_users(
    q keelson.short_text default null,
    email keelson.short_text default null,
    name keelson.short_text default null,
    status text default null,
    sort text default null,
    "limit" integer default 20,
    cursor text default null,
    tier text default null
)
returns setof keelson.admin_user
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    filter jsonb;
    place jsonb;
    ids uuid[];
    next_place jsonb;
begin
    perform keelson._admin_require('users.read');
    perform keelson._page_limit_require("limit");
    if status not in ('active', 'blocked', 'deleted') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a status is active, blocked or deleted', field => 'status');
    elsif tier is not null and not exists (select from keelson.tiers as t where t.id = admin_users.tier) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'there is no such tier', field => 'tier');
    elsif sort not in ('createdAt', '-createdAt', 'email', '-email', 'name', '-name', 'deletedAt', '-deletedAt') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'sort is createdAt, email, name or deletedAt, with a - before it the other way round', field => 'sort');
    end if;
    filter := jsonb_strip_nulls(jsonb_build_object(
        'q', keelson._search_word(q), 'email', keelson._search_word(email), 'name', keelson._search_word(name), 'status', status, 'tier', tier
    ));
    place := keelson.cursor_decode(cursor);
    if place is not null and place -> 'of' is distinct from jsonb_build_array(filter, sort) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the cursor is of another search', field => 'cursor');
    end if;
    -- An id is looked up, not searched for.
    if filter ->> 'q' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
        ids := array(select u.id from keelson._admin_user_of((filter ->> 'q')::uuid) as u where (u.status = admin_users.status) is not false and (u.tier = admin_users.tier) is not false and u.id is not null);
    else
        select l.matches, l.next_place into ids, next_place from keelson._user_list(filter, sort, "limit", place) as l;
    end if;
    perform keelson.page("limit", keelson.cursor_encode(next_place || jsonb_build_object('of', jsonb_build_array(filter, sort))));
    return query
    select r.* from unnest(ids) with ordinality as m (id, n) cross join lateral keelson._admin_user_of(m.id) as r
    where r.id is not null
    order by m.n;
end
$$;
comment on function keelson.admin_users(
    keelson.short_text, keelson.short_text, keelson.short_text, text, text, integer, text, text
) is
    'Users, newest first, or in order of what is looked for. q begins an address, a name or a last name, or is an id; email begins an address; name begins a name or a last name; tier is the one that they have now. A page looks at 10,000 users at most, so it may hold fewer than asked for while there are more. Needs the permission users.read.';
grant execute on function keelson.admin_users(
    keelson.short_text, keelson.short_text, keelson.short_text, text, text, integer, text, text
) to keelson_app, keelson_admin;
