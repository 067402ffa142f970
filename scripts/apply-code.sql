-- Bring the code and then the state of this database in line with what is installed on disk.
-- Run as one transaction. A new version is an update; a version whose script has changed, as
-- happens to one that is not released, is taken out and put back: the data is not the
-- extension's and stays.
set client_min_messages = warning;
-- As keelson.migrate() does it, here already: what is taken out has locks of tables too.
select to_regprocedure('keelson._stand_alone()') is not null as stands_alone \gset
\if :stands_alone
    select keelson._stand_alone() \g /dev/null
\endif
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
        \ir code-kept.sql
        drop extension keelson cascade;
        create extension keelson cascade;
    \endif
\else
    create extension keelson cascade;
\endif

select capability, number, name from keelson.migrate();
select to_regclass('pg_temp.code_kept') is not null as keeps \gset
\if :keeps
    -- They were good before, and one may call another that is not there yet.
    set local check_function_bodies = off;
    select statement from code_kept \gexec
    reset check_function_bodies;
\endif
select job, state from keelson.jobs_install();
