-- The end of the install script: who owns the functions, who may execute them.
-- Definer functions belong to keelson_owner unless a capability has given them
-- to keelson_system; nothing may be executed by everyone but the reading of the
-- acting user's id, which row-level security needs for every role.

do $finish$
declare
    routine record;
begin
    for routine in
        select p.oid::regprocedure as signature, p.prosecdef, pg_get_userbyid(p.proowner) as owner, p.proname
        from pg_proc as p
        where p.pronamespace = 'keelson'::regnamespace
    loop
        if routine.prosecdef and routine.owner <> 'keelson_system' then
            execute format('alter routine %s owner to keelson_owner', routine.signature);
        end if;
        if routine.proname <> 'current_user_id' then
            execute format('revoke execute on routine %s from public', routine.signature);
        end if;
        execute format('grant execute on routine %s to keelson_owner, keelson_system', routine.signature);
    end loop;
end
$finish$;
