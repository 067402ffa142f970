-- Bring the code and then the state of this database in line with what is installed on disk.
-- Run as one transaction. A new version is an update; a version whose script has changed, as
-- happens to one that is not released, is taken out and put back: the data is not the
-- extension's and stays.
set client_min_messages = warning;
create extension if not exists pg_cron;

select exists (select from pg_extension where extname = 'keelson') as created,
    exists (
        select
        from pg_extension
        join pg_available_extensions on name = extname
        where extname = 'keelson' and extversion <> default_version
    ) as outdated \gset

\if :created
    \if :outdated
        alter extension keelson update;
    \else
        -- Objects of the product's own that the removal would take with it, policies on
        -- Keelson's tables and the like apart, which migrate() brings back.
        do $$
        declare
            lost text;
        begin
            select string_agg(distinct pg_describe_object(used.classid, used.objid, used.objsubid), ', ')
            into lost
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
                and object.identity !~ '(^| on )keelson\.';
            if lost is not null then
                raise exception 'the code of this version has changed, and replacing it would drop: %', lost
                    using hint = 'Drop them, run this again, and make them anew; or keep to released versions.';
            end if;
        end
        $$;
        drop extension keelson cascade;
        create extension keelson cascade;
    \endif
\else
    create extension keelson cascade;
\endif

select capability, number, name from keelson.migrate();
