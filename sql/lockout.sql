-- Lock-out: failures, budgets, what locks and for how long.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

-- A login as the gateway makes it: status, code, and for how long it is refused.
create function pg_temp.login(email text, password text, device text default null, captcha text default null)
returns text
language plpgsql
as $$
declare
    reply keelson.reply;
    code text;
begin
    reply := keelson.dispatch(
        (select r.id from keelson.routes as r where r.method || ' ' || r.template = 'POST auth/login'),
        null, null,
        convert_to(jsonb_strip_nulls(jsonb_build_object(
            'email', email, 'password', password, 'deviceToken', device, 'captcha', captcha))::text, 'UTF8'),
        '{"ip": "192.0.2.7", "userAgent": "regress", "contentType": "application/json"}'
    );
    return concat_ws(' ', reply.status, convert_from(reply.body, 'UTF8')::jsonb ->> 'code', case when (reply.headers ->> 'Retry-After')::integer between 840 and 900 then 'for 15 minutes' else reply.headers ->> 'Retry-After' end);
exception when others then
    if sqlstate !~ '^KS' then
        raise;
    end if;
    get stacked diagnostics code = constraint_name;
    return right(sqlstate, 3) || ' ' || code;
end
$$;
create function pg_temp.device_of(email text) returns text language sql as $$
    select keelson._device_token(e.user_id, gen_random_uuid(), keelson._token_key_id())
    from keelson.user_emails as e where e.email = device_of.email
$$;
-- Let time pass for an account.
create function pg_temp.pass(who text, passed interval) returns bigint language sql as $$
    with moved as (
        update keelson.authentication_failures as f
        set failed_at = f.failed_at - passed
        where f.user_id = coalesce((select e.user_id from keelson.user_emails as e where e.email = who), keelson._nobody_id(who))
        returning 1
    )
    select count(*) from moved
$$;

select keelson.user_create('ada@lockout.example.com', 'correct horse battery staple') as ada \gset
select keelson.user_create('eve@lockout.example.com', 'correct horse battery staple') is not null as made;

-- Five failures, then 423 for the right password too; alike where nobody holds the address.
select n, pg_temp.login('ada@lockout.example.com', 'wrong horse battery ' || n) as ada,
    pg_temp.login('nobody@lockout.example.com', 'wrong horse battery ' || n) as nobody
from generate_series(1, 5) as n;
select pg_temp.login('ada@lockout.example.com', 'correct horse battery staple') as ada,
    pg_temp.login('ADA@lockout.example.com', 'correct horse battery staple') as whatever_the_case,
    pg_temp.login('nobody@lockout.example.com', 'correct horse battery staple') as nobody,
    pg_temp.login('somebody@lockout.example.com', 'correct horse battery staple') as another_nobody,
    pg_temp.login('eve@lockout.example.com', 'correct horse battery staple') as eve;
-- What is refused while it is locked is not counted.
select count(*) as failures from keelson.authentication_failures where user_id = :'ada';
-- For fifteen minutes and no longer.
select pg_temp.pass('ada@lockout.example.com', '14 minutes'), pg_temp.pass('nobody@lockout.example.com', '14 minutes');
select pg_temp.login('ada@lockout.example.com', 'correct horse battery staple') ~ '^423 ACCOUNT_LOCKED [1-6]?\d$' as ada,
    pg_temp.login('nobody@lockout.example.com', 'correct horse battery staple') ~ '^423 ACCOUNT_LOCKED [1-6]?\d$' as nobody;
select pg_temp.pass('ada@lockout.example.com', '61 seconds'), pg_temp.pass('nobody@lockout.example.com', '61 seconds');
select pg_temp.login('ada@lockout.example.com', 'wrong horse battery staple') as ada,
    pg_temp.login('nobody@lockout.example.com', 'wrong horse battery staple') as nobody;
select pg_temp.login('ada@lockout.example.com', 'correct horse battery staple') as ada,
    pg_temp.login('nobody@lockout.example.com', 'correct horse battery staple') as nobody;
-- A success makes the budget whole again.
select bool_and(is_forgiven) as all_forgiven from keelson.authentication_failures where user_id = :'ada';
select pg_temp.login('ada@lockout.example.com', 'wrong horse battery ' || n) as ada from generate_series(1, 4) as n;
select pg_temp.login('ada@lockout.example.com', 'correct horse battery staple') as ada;
select pg_temp.login('ada@lockout.example.com', 'wrong horse battery ' || n) as ada from generate_series(1, 4) as n;
-- Failures that lie apart lock nothing: four, and a fifth more than fifteen minutes after the first.
select pg_temp.pass('ada@lockout.example.com', '15 minutes');
select pg_temp.login('ada@lockout.example.com', 'wrong horse battery staple') as ada;
select pg_temp.login('ada@lockout.example.com', 'correct horse battery staple') as ada;

-- A device that has signed in before is counted apart.
select pg_temp.device_of('ada@lockout.example.com') as device, pg_temp.device_of('ada@lockout.example.com') as other,
    pg_temp.device_of('eve@lockout.example.com') as eves \gset
select pg_temp.login('ada@lockout.example.com', 'wrong horse battery ' || n) as stranger from generate_series(1, 5) as n;
select pg_temp.login('ada@lockout.example.com', 'correct horse battery staple') as stranger,
    pg_temp.login('ada@lockout.example.com', 'correct horse battery staple', :'eves') as of_eve,
    pg_temp.login('ada@lockout.example.com', 'correct horse battery staple', 'nonsense') as forged,
    pg_temp.login('ada@lockout.example.com', 'correct horse battery staple', :'device') as device;
-- That success is the device's: strangers stay locked out.
select pg_temp.login('ada@lockout.example.com', 'correct horse battery staple') as stranger;
select pg_temp.login('ada@lockout.example.com', 'wrong horse battery ' || n, :'device') as device from generate_series(1, 6) as n;
select pg_temp.login('ada@lockout.example.com', 'correct horse battery staple', :'device') as device,
    pg_temp.login('ada@lockout.example.com', 'correct horse battery staple', :'other') as other;

-- A hundred failures in an hour are all that an account has, whoever makes them and whatever was forgiven.
delete from keelson.authentication_failures where user_id = :'ada';
insert into keelson.authentication_failures (user_id, failed_at, device_id, is_forgiven)
select :'ada', now() - interval '59 minutes' + n * interval '30 seconds', gen_random_uuid(), n % 2 = 0
from generate_series(1, 99) as n;
select pg_temp.login('ada@lockout.example.com', 'wrong horse battery staple', :'other') as hundredth;
select pg_temp.login('ada@lockout.example.com', 'correct horse battery staple', :'device') ~ '^423 ACCOUNT_LOCKED [4-9]\d$' as device,
    pg_temp.login('ada@lockout.example.com', 'correct horse battery staple') ~ '^423 ACCOUNT_LOCKED [4-9]\d$' as stranger;
select pg_temp.pass('ada@lockout.example.com', '91 seconds');
select pg_temp.login('ada@lockout.example.com', 'correct horse battery staple', :'device') as device;

-- Two failures of an account are never one row, even when the clock is set back.
delete from keelson.authentication_failures where user_id = :'ada';
insert into keelson.authentication_failures (user_id, failed_at) values (:'ada', now() + interval '5 minutes');
select keelson._failure_record(:'ada', '00000000-0000-0000-0000-000000000000') from generate_series(1, 3);
select keelson._failure_record(:'ada', '00000000-0000-0000-0000-000000000000') - now() > interval '19 minutes' as locked;
select count(*) as failures from keelson.authentication_failures where user_id = :'ada';
delete from keelson.authentication_failures where user_id = :'ada';
-- Those of a clock that was a day ahead lock for as long as others, from when it is seen.
insert into keelson.authentication_failures (user_id, failed_at)
select :'ada', now() + interval '1 day' + n * interval '1 second' from generate_series(1, 5) as n;
select pg_temp.login('ada@lockout.example.com', 'correct horse battery staple') as ada;
select count(*) as failures, bool_and(failed_at <= clock_timestamp()) as are_past from keelson.authentication_failures where user_id = :'ada';
delete from keelson.authentication_failures where user_id = :'ada';

-- The present password, asked for by a session: a budget of its own.
create temporary table ada as
select convert_from(reply.body, 'UTF8')::jsonb as login
from keelson.session_create('ada@lockout.example.com', 'correct horse battery staple') as reply;
create function pg_temp.change(current_password text) returns text language plpgsql as $$
declare
    reply keelson.reply;
begin
    reply := keelson.dispatch(
        (select r.id from keelson.routes as r where r.method || ' ' || r.template = 'PUT user/profile'),
        (select login ->> 'accessToken' from ada), null,
        convert_to(jsonb_build_object('currentPassword', current_password, 'newPassword', 'a whole new sentence')::text, 'UTF8'),
        '{"ip": "192.0.2.7", "via": "bearer", "contentType": "application/json"}'
    );
    return concat_ws(' ', reply.status, convert_from(reply.body, 'UTF8')::jsonb ->> 'code', case when (reply.headers ->> 'Retry-After')::integer between 840 and 900 then 'for 15 minutes' end);
end
$$;
select pg_temp.change('wrong horse battery ' || n) as session from generate_series(1, 6) as n;
select pg_temp.change('correct horse battery staple') as session,
    pg_temp.login('ada@lockout.example.com', 'correct horse battery staple') as stranger;
select pg_temp.pass('ada@lockout.example.com', '15 minutes');
select pg_temp.change('correct horse battery staple') as session;
select pg_temp.login('ada@lockout.example.com', 'a whole new sentence') as stranger;

-- An id of nobody: the same every time, of version 8, and not the user's once there is one.
select keelson._nobody_id('x@lockout.example.com') = keelson._nobody_id('x@lockout.example.com') as same,
    keelson._nobody_id('x@lockout.example.com') <> keelson._nobody_id('y@lockout.example.com') as others_differ,
    keelson._nobody_id('x@lockout.example.com')::text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$' as is_version_8;
select pg_temp.login('late@lockout.example.com', 'wrong horse battery ' || n) as nobody from generate_series(1, 5) as n;
select keelson.user_create('late@lockout.example.com', 'correct horse battery staple') is not null as made;
select pg_temp.login('late@lockout.example.com', 'correct horse battery staple') as newcomer;

-- The clean-up takes what counts no longer, and sessions whose time was over a day ago. (In one transaction: the
-- keeper cleans up, too.)
begin;
update keelson.sessions set created_at = created_at - interval '40 days', expires_at = now() - interval '25 hours'
where user_id = (select user_id from keelson.user_emails where email = 'late@lockout.example.com');
update keelson.sessions set created_at = created_at - interval '40 days', expires_at = now() - interval '23 hours'
where user_id = (select user_id from keelson.user_emails where email = 'eve@lockout.example.com');
update keelson.authentication_failures set failed_at = failed_at - interval '2 hours' where user_id = keelson._nobody_id('late@lockout.example.com');
select keelson._authentication_purge(2) as batch;
select keelson._authentication_purge(1000) >= 3 as rest;
select count(*) as old_failures from keelson.authentication_failures where failed_at < now() - interval '1 hour';
select e.email, count(s.id) as sessions
from keelson.user_emails as e
left join keelson.sessions as s using (user_id)
where e.email in ('late@lockout.example.com', 'eve@lockout.example.com')
group by e.email order by e.email;
commit;

-- CAPTCHA: off unless configured, and closed where nothing can verify it.
select keelson._captcha_is_on() as is_on;
select keelson._captcha_require(null);
select keelson._captcha_require('');
select keelson._captcha_require(repeat('x', 8193));
select keelson._captcha_require('solved');

-- None of this is for the application.
set role keelson_app;
select count(*) from keelson.authentication_failures;
select keelson._failures_lock(keelson.uuid7(), keelson.uuid7());
select keelson._failure_record(keelson.uuid7(), keelson.uuid7());
select keelson._failures_forgive(keelson.uuid7(), keelson.uuid7());
select keelson._nobody_id('x@lockout.example.com');
select keelson._captcha_verify('x', null);
reset role;

delete from keelson.authentication_failures;
delete from keelson.users where id in (select user_id from keelson.user_emails where email like '%@lockout.example.com');
delete from keelson.user_emails where email like '%@lockout.example.com';
