-- The manual in the database: \df+ keelson.* shows the private functions too, and the source of each.

create or replace function keelson.help(search text default '')
returns table (function text, description text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
select format('%s(%s)', p.proname, array_to_string(p.proargnames[1:p.pronargs], ', ')), obj_description(p.oid, 'pg_proc')
from pg_proc as p
where p.pronamespace = 'keelson'::regnamespace
    and p.proname !~ '^_'
    and p.prorettype <> 'trigger'::regtype
    and (p.proname || ' ' || obj_description(p.oid, 'pg_proc')) ilike '%' || help.search || '%'
order by p.proname, p.pronargs
$$;
comment on function keelson.help(text) is
    'The functions that may be called, with what they promise: all, or those that speak of something. \df keelson.name tells the types of the arguments.';
grant execute on function keelson.help(text) to keelson_admin;
