-- Remember, in the temporary table code_kept, the statements that make anew what "drop extension keelson cascade" takes of
-- the product's own and what code-dependants.sql does not list: policies and defaults that use our functions, functions
-- that take or return our types.
create temporary table code_kept on commit drop as
with used as (
    select distinct used.classid, used.objid
    from pg_depend as member
    join pg_depend as used on used.refclassid = member.classid and used.refobjid = member.objid
    where member.refclassid = 'pg_extension'::regclass
        and member.refobjid = (select oid from pg_extension where extname = 'keelson')
        and member.deptype = 'e'
        and used.deptype = 'n'
)
select c.relnamespace,
    format('create policy %I on %s as %s for %s to %s', p.polname, c.oid::regclass,
        case when p.polpermissive then 'permissive' else 'restrictive' end,
        case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
        (select string_agg(case r when 0 then 'public' else r::regrole::text end, ', ') from unnest(p.polroles) as r))
    || coalesce(' using (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
    || coalesce(' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
    || case when obj_description(p.oid, 'pg_policy') is not null
        then format('; comment on policy %I on %s is %L', p.polname, c.oid::regclass, obj_description(p.oid, 'pg_policy')) else '' end as statement
from used
join pg_policy as p on used.classid = 'pg_policy'::regclass and used.objid = p.oid
join pg_class as c on c.oid = p.polrelid
union all
select c.relnamespace, format('alter table only %s alter column %I set default %s', c.oid::regclass, a.attname, pg_get_expr(d.adbin, d.adrelid))
from used
join pg_attrdef as d on used.classid = 'pg_attrdef'::regclass and used.objid = d.oid
join pg_class as c on c.oid = d.adrelid
join pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum and a.attgenerated = ''
union all
select p.pronamespace, concat_ws('; ',
    pg_get_functiondef(p.oid),
    format('alter routine %s owner to %s', p.oid::regprocedure, p.proowner::regrole),
    format('comment on routine %s is %L', p.oid::regprocedure, obj_description(p.oid, 'pg_proc')),
    case when p.proacl is not null then format('revoke all on routine %s from public', p.oid::regprocedure) end,
    (
        select string_agg(format('grant execute on routine %s to %s%s', p.oid::regprocedure,
            case granted.grantee when 0 then 'public' else granted.grantee::regrole::text end,
            case when granted.is_grantable then ' with grant option' end), '; ')
        from aclexplode(p.proacl) as granted
        where granted.grantee <> p.proowner
    ))
from used
join pg_proc as p on used.classid = 'pg_proc'::regclass and used.objid = p.oid and p.prokind in ('f', 'p');
-- What is ours migrate() brings back.
delete from code_kept where relnamespace = 'keelson'::regnamespace;
