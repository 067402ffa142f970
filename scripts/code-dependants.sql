-- The objects that "drop extension keelson cascade" would take with it and that migrate() does
-- not bring back: the product's own, one a line. Policies and defaults of its tables, and functions
-- that nothing depends on, are not lost (code-kept.sql).
select distinct
    case when used.classid = 'pg_rewrite'::regclass
        then pg_describe_object('pg_class'::regclass, (select r.ev_class from pg_rewrite as r where r.oid = used.objid), 0)
        else pg_describe_object(used.classid, used.objid, used.objsubid)
    end
from pg_depend as member
join pg_depend as used on used.refclassid = member.classid and used.refobjid = member.objid
cross join lateral pg_identify_object(used.classid, used.objid, used.objsubid) as object
where member.refclassid = 'pg_extension'::regclass
    and member.refobjid = (select oid from pg_extension where extname = 'keelson')
    and member.deptype = 'e'
    and used.deptype = 'n'
    and not exists (
        select
        from pg_depend as own
        where own.classid = used.classid and own.objid = used.objid and own.deptype = 'e'
    )
    and used.classid <> 'pg_policy'::regclass
    and not (
        used.classid = 'pg_attrdef'::regclass
        and exists (
            select
            from pg_attrdef as d
            join pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum
            where d.oid = used.objid and a.attgenerated = ''
        )
    )
    and not (
        used.classid = 'pg_proc'::regclass
        and exists (select from pg_proc as p where p.oid = used.objid and p.prokind in ('f', 'p'))
        and not exists (select from pg_depend as d where d.refclassid = used.classid and d.refobjid = used.objid)
    )
    and coalesce(object.schema, '') <> 'keelson'
    and object.identity !~ '(^| on )keelson\.'
order by 1;
