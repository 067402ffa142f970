-- The objects that "drop extension keelson cascade" would take with it and that migrate() does
-- not bring back: the product's own, one a line.
select distinct pg_describe_object(used.classid, used.objid, used.objsubid)
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
    and coalesce(object.schema, '') <> 'keelson'
    and object.identity !~ '(^| on )keelson\.'
order by 1;
