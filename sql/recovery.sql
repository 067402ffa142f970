-- Mails, verification of addresses, resets of passwords.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

\getenv tests PG_ABS_SRCDIR
\set request :tests '/sql/include/request.sql'
\set ECHO none
\i :request
\set ECHO all

-- The token in the newest mail to an address.
create function pg_temp.mailed(to_address text, with_template text) returns text language sql as $$
    select (regexp_match(m.body_text, 'token=(ks[vpu]_[A-Za-z0-9_-]+)'))[1]
    from keelson.mails as m
    where m.recipient = to_address and m.template = with_template
    order by m.created_at desc, m.id desc
    limit 1
$$;

select keelson.user_create('mia@recovery.example.com', 'correct horse battery staple', 'Mia <b>') is not null as made;
select keelson.user_create('noa@recovery.example.com') is not null as made_without_password;
create temporary table people as
select e.user_id as id, e.email from keelson.user_emails as e where e.email like '%@recovery.example.com';

-- Templates are filled strictly, once, and escaped.
select keelson._mail_fill('{{a}} and {{b}}', '{"a": "{{b}}", "b": "<&>"}', false, false) as text,
       keelson._mail_fill('<p>{{b}}</p>', '{"b": "<script>\"x\"''&"}', true, false) as html,
       keelson._mail_fill('{{a}}', jsonb_build_object('a', E'x\r\nBcc: eve@example.com\u2028y'), false, true) as line;
select keelson._mail_fill('{{missing}}', '{}', false, false);
select keelson._mail_fill('{{a}}', '{"a": null}', false, false);
select keelson._mail_fill('{{a }}', '{"a": 1}', false, false);
select keelson._mail_fill('{{', '{"a": 1}', false, false);

-- Nothing that a mail program makes a link of.
select given, keelson._mail_plain(given) as plain
from unnest(array['Ada Lovelace', 'J. R. O''Neil', 'Win at https://evil.example.com/now', 'www.evil.example', 'eve@evil.example', 'Lynx/2.9 (X11; rv:109.0)',
    U&'evil\3002example\ff0fnow', E'evil.\u0440\u0444', 'The end.']) as given;

select keelson.mail_template_set('app.welcome', 'Welcome, {{name}}', 'Hello {{name}}, {{thing}}.', '<p>{{thing}}</p>');
select keelson.mail_template_set('app.welcome', 'Willkommen, {{name}}', 'Hallo {{name}}, {{thing}}.', language => 'de');
select keelson.mail_template_set('app.welcome', E'two\nlines', 'x');
select keelson.mail_template_set('App Welcome', 'x', 'x');
select keelson.mail_template_set(null, 'x', 'x');

begin;
select keelson.act_as('mia@recovery.example.com') is not null as acting;
select keelson.mail_send('app.welcome', 'mia@recovery.example.com', '{"thing": "<i>tea</i>"}') is not null as sent;
commit;
select m.template, m.recipient, m.state, m.subject, m.body_text, m.body_html
from keelson.mails as m where m.template = 'app.welcome';
update keelson.users set preferences = '{"language": "de-AT"}' where id = (select id from people where email like 'mia%');
begin;
select keelson.act_as('mia@recovery.example.com') is not null as acting;
select keelson.mail_send('app.welcome', 'mia@recovery.example.com', '{"thing": "Tee"}') is not null as sent;
select count(*) as own_mails, count(*) filter (where template = 'app.welcome') as of_the_product
from keelson.mail_messages;
rollback;
select keelson.mail_send('app.welcome', 'mia@recovery.example.com', '{"thing": "x"}');
-- Each refusal leaves nothing.
create function pg_temp.try_send(template text, recipient text, given jsonb) returns text language plpgsql as $$
begin
    perform keelson.act_as('mia@recovery.example.com');
    perform keelson.mail_send(template, recipient, given);
    return 'sent';
exception when others then
    return sqlstate || ' ' || sqlerrm;
end
$$;
begin;
select pg_temp.try_send('app.welcome', 'mia@recovery.example.com', '{}');
rollback;
begin;
select pg_temp.try_send('app.nothing', 'mia@recovery.example.com', '{}');
rollback;
begin;
select pg_temp.try_send('password.reset', 'mia@recovery.example.com', '{"link": "https://evil.example.com"}');
rollback;
begin;
select pg_temp.try_send('app.welcome', E'mia@recovery.example.com\r\nBcc: eve@example.com', '{"thing": "x"}');
rollback;
begin;
select pg_temp.try_send('app.welcome', repeat('a', 300) || '@example.com', '{"thing": "x"}');
rollback;
begin;
select pg_temp.try_send('app.welcome', 'mia@recovery.example.com', '[]');
rollback;
select count(*) as mails from keelson.mails where template = 'app.welcome';

-- Addresses that would be something else by the time they are a header or an envelope.
create function pg_temp.is_address(given text) returns boolean language plpgsql as $$
begin
    perform given::keelson.email_address;
    return true;
exception when check_violation then
    return false;
end
$$;
select count(*) as tried, count(*) filter (where pg_temp.is_address(evil)) as taken
from unnest(array[
    E'a@example.com\nBcc: eve@example.com', E'a@example.com\r\n.\r\nMAIL FROM:<eve@example.com>', E'\ta@example.com', 'a@example.com ', 'a@example.com>', '<a@example.com',
    '"a b"@example.com', 'a@example.com,b@example.com', 'a@b@example.com', 'a@[127.0.0.1]', 'a@localhost', 'a@127.0.0.1', '@example.com', 'a@', 'a..b@example.com', '.a@example.com',
    U&'\0430da@example.com', U&'ada@ex\00e4mple.com', U&'ada\200b@example.com', U&'ada@example\3002com', U&'\202emoc.elpmaxe@ada', 'ada@example.com' || repeat('m', 300),
    repeat('a', 65) || '@example.com', 'a@' || repeat('a', 64) || '.com', 'a@-example.com', 'a@example.com.', 'a(b)@example.com', 'a@example.c', ''
]) as given (evil);
select bool_and(pg_temp.is_address(good)) as are_taken
from unnest(array['a@example.com', 'a+b@xn--exmple-cua.com', 'o''neil@example.co.uk', repeat('a', 64) || '@example.com', '!#$%&*/=?^_`{|}~-@example.com']) as given (good);

-- What stands in the table is sealed, and does not open elsewhere.
select bool_and(position('tea'::bytea in content) = 0) as is_sealed from keelson.mail_messages where template = 'app.welcome';
-- Suppressed addresses get nothing; with unsubscribe, security mail still.
select keelson.mail_suppress('Mia@recovery.example.com', 'unsubscribe');
select keelson.mail_suppress('mia@recovery.example.com', 'because');
begin;
select keelson.act_as('mia@recovery.example.com') is not null as acting;
select keelson.mail_send('app.welcome', 'mia@recovery.example.com', '{"thing": "more"}') is not null as sent;
commit;
select m.state, m.subject from keelson.mails as m where m.template = 'app.welcome' order by m.created_at desc, m.id desc limit 1;

-- Verification: the mail, the page, the button.
select keelson._verification_send(id) ~ '^ksv_[0-9a-f]{32}[A-Za-z0-9_-]{43}$' as is_token from people where email like 'mia%';
select m.state, m.subject, m.body_text ~ 'https?://[^ ]+/api/auth/verify\?token=ksv_' as has_link, m.body_text ~ '^Hello mia,' and m.body_html !~ 'Mia' as names_nobody
from keelson.mails as m where m.template = 'email.verify' and m.recipient like 'mia%';
select pg_temp.mailed('mia@recovery.example.com', 'email.verify') as token \gset first_
select count(keelson._verification_send(id)) as again from people where email like 'mia%';
select pg_temp.mailed('mia@recovery.example.com', 'email.verify') as token \gset
select status, data ->> 'code' as code, data -> 'details' -> 0 ->> 'field' as field
from pg_temp.request('POST auth/verify', jsonb_build_object('token', :'first_token'));
select status, page like '%' || :'token' || '%' as has_token, page like '%<button>Confirm</button>%' as has_button
from pg_temp.request('GET auth/verify', arguments => jsonb_build_object('query', jsonb_build_object('token', :'token')), caller => jsonb_build_object('accept', 'text/html,application/xhtml+xml;q=0.9,*/*;q=0.8'));
select page not like '%<script>alert%' as is_escaped
from pg_temp.request('GET auth/verify', arguments => '{"query": {"token": "\"><script>alert(1)</script>"}}', caller => jsonb_build_object('accept', 'text/html'));
select email_verified_at is null as still_unverified from keelson.users where email like 'mia@%';
select status, data from pg_temp.request('GET auth/verify', arguments => jsonb_build_object('query', jsonb_build_object('token', :'token')));
select status, data ->> 'code' as code from pg_temp.request('POST auth/verify', jsonb_build_object('token', :'token'));
select email_verified_at is not null as verified from keelson.users where email like 'mia@%';
select keelson._verification_send(id) is null as nothing_to_verify from people where email like 'mia%';

-- Tokens of every wrong kind are one refusal.
select distinct status, data ->> 'code' as code
from unnest(array['', 'x', 'ksv_', left(:'token', 78), :'token' || 'A', upper(:'token'), replace(:'token', 'ksv_', 'ksp_'), ' ' || :'token',
    'ksv_' || repeat('0', 32) || repeat('A', 43), repeat('a', 5000)]) as tried (token),
    pg_temp.request('POST auth/verify', jsonb_build_object('token', tried.token));
select status, data from pg_temp.request('POST auth/verify', '{"token": null}');
select status, data ->> 'code' as code, data -> 'details' -> 0 ->> 'field' as field from pg_temp.request('POST auth/verify', '{}');

-- An address that has changed since is not verified by an old link.
select keelson._verification_send(id) as token from people where email like 'noa%' \gset
update keelson.users set email = 'other@recovery.example.com' where id = (select id from people where email like 'noa%');
select status, data ->> 'code' as code from pg_temp.request('POST auth/verify', jsonb_build_object('token', :'token'));
update keelson.users set email = 'noa@recovery.example.com' where id = (select id from people where email like 'noa%');

-- Asking for a reset: one answer for all; the token is shown in development.
select status, data ->> 'message' as message, data ? 'devToken' as shows, data ->> 'devToken' is not null as is_known
from unnest(array['mia@recovery.example.com', 'MIA@Recovery.example.com', 'nobody@recovery.example.com']) with ordinality as tried (email, n),
    pg_temp.request('POST auth/request-reset', jsonb_build_object('email', tried.email))
order by n;
select status, data from pg_temp.request('POST auth/forgot-password', '{"email": "mia"}');
select status, data from pg_temp.request('POST auth/request-reset', '{"email": null}');

-- Resetting: rules, one use, all sessions end, the address is proved, older and other links are void.
select pg_temp.mailed('mia@recovery.example.com', 'password.reset') as token \gset
select data ->> 'devToken' as token from pg_temp.request('POST auth/request-reset', '{"email": "mia@recovery.example.com"}') \gset second_
select pg_temp.mailed('mia@recovery.example.com', 'password.reset') = :'second_token' as is_mailed;
select status, data ->> 'code' as code
from pg_temp.request('POST auth/reset-password', jsonb_build_object('token', :'token', 'password', 'a brand new sentence'));
select status, data
from unnest(array['short', 'password1234', 'mia@recovery.example.com']) with ordinality as tried (password, n),
    pg_temp.request('POST auth/reset-password', jsonb_build_object('token', :'second_token', 'password', tried.password))
order by n;
select status from pg_temp.request('POST auth/login', '{"email": "mia@recovery.example.com", "password": "correct horse battery staple"}');
select status, data from pg_temp.request('POST auth/reset-password', jsonb_build_object('token', :'second_token', 'password', 'a brand new sentence'));
select status, data ->> 'code' as code
from pg_temp.request('POST auth/reset-password', jsonb_build_object('token', :'second_token', 'password', 'a brand new sentence'));
select count(*) filter (where ended_at is null) as live, count(*) filter (where end_reason = 'password_changed') as ended
from keelson.sessions where user_id = (select id from people where email like 'mia%');
select status from pg_temp.request('POST auth/login', '{"email": "mia@recovery.example.com", "password": "correct horse battery staple"}');
select status from pg_temp.request('POST auth/login', '{"email": "mia@recovery.example.com", "password": "a brand new sentence"}');
select count(*) as notices, bool_and(body_html like '%Hallo Mia &lt;b&gt;,%' or body_html like '%Hello Mia &lt;b&gt;,%') as is_escaped
from keelson.mails where template = 'password.changed' and recipient like 'mia%';

-- Expired, of a blocked user, of one without a password.
select data ->> 'devToken' as token from pg_temp.request('POST auth/request-reset', '{"email": "mia@recovery.example.com"}') \gset
update keelson.recovery_tokens set created_at = now() - interval '2 hours', expires_at = now() - interval '1 hour'
where user_id = (select id from people where email like 'mia%') and used_at is null;
select status, data ->> 'code' as code
from pg_temp.request('POST auth/reset-password', jsonb_build_object('token', :'token', 'password', 'yet another sentence'));
select data ->> 'devToken' as token from pg_temp.request('POST auth/request-reset', '{"email": "mia@recovery.example.com"}') \gset
update keelson.users set status = 'blocked' where id = (select id from people where email like 'mia%');
select status, data ->> 'code' as code
from pg_temp.request('POST auth/reset-password', jsonb_build_object('token', :'token', 'password', 'yet another sentence'));
select data ->> 'devToken' is null as blocked_gets_none from pg_temp.request('POST auth/request-reset', '{"email": "mia@recovery.example.com"}');
select data ->> 'devToken' as token from pg_temp.request('POST auth/request-reset', '{"email": "noa@recovery.example.com"}') \gset
select status from pg_temp.request('POST auth/reset-password', jsonb_build_object('token', :'token', 'password', 'a first good sentence'));
select status, data #> '{user,emailVerified}' as verified
from pg_temp.request('POST auth/login', '{"email": "noa@recovery.example.com", "password": "a first good sentence"}');

-- Ways into an account that were made while its address may have been a stranger's: gone once a reset shows whose it is.
create function pg_temp.dig_in(address text) returns void language plpgsql as $$
declare
    who constant uuid := (select e.user_id from keelson.user_emails as e where e.email = address);
begin
    perform keelson._totp_enrol(who, 'secret'), keelson._recovery_codes_make(who);
    update keelson.totp_factors set confirmed_at = now() where user_id = who;
    insert into keelson.external_identities (issuer, subject, user_id, id) values ('https://recovery.example', address, who, keelson.uuid7());
    perform keelson.act_as(address);
    perform keelson.user_access_key_create('Way back', '{usage.write}'), keelson.user_access_key_create('Another', '{usage.write}');
    perform keelson.webhook_create('https://example.com/recovery', '{user.deleted}');
    perform keelson.user_api_key_store('openai', 'sk-' || repeat('a', 40));
end
$$;
select keelson.user_create('elsewhere@reclaim.example.com', 'correct horse battery staple') as unproven,
    keelson.user_create('kim@reclaim.example.com', 'correct horse battery staple') as proven,
    keelson.user_create('before@reclaim.example.com', 'correct horse battery staple') as moved \gset
select (keelson._email_change(:'unproven', 'eve@reclaim.example.com')).new_email;
update keelson.users set email_verified_at = case when id <> :'unproven' then now() end where id in (:'proven', :'unproven', :'moved');
begin;
select pg_temp.dig_in('eve@reclaim.example.com');
commit;
begin;
select pg_temp.dig_in('kim@reclaim.example.com');
commit;
-- A second factor of when the address before was verified is no thief's to lose.
begin;
select pg_temp.dig_in('before@reclaim.example.com');
commit;
select (keelson._email_change(:'moved', 'moved@reclaim.example.com')).new_email;
select email, (
    select status from pg_temp.request('POST auth/reset-password', jsonb_build_object(
        'password', 'a brand new sentence',
        'token', (select data ->> 'devToken' from pg_temp.request('POST auth/request-reset', jsonb_build_object('email', email)))
    ))
) as reset
from (values ('eve@reclaim.example.com'), ('kim@reclaim.example.com'), ('moved@reclaim.example.com')) as given (email);
select u.email, u.email_verified_at is not null as is_verified,
    (select count(*) from keelson.access_keys as k where k.user_id = u.id and k.revoked_at is null) as keys,
    (select count(*) from keelson.webhook_endpoints as w where w.user_id = u.id) as webhooks,
    (select count(*) from keelson.user_api_keys as k where k.user_id = u.id) as stored,
    (select count(*) from keelson.totp_factors as f where f.user_id = u.id) as factors,
    (select count(*) from keelson.recovery_codes as c where c.user_id = u.id) as codes,
    (select count(*) from keelson.external_identities as i where i.user_id = u.id) as identities,
    (select count(*) from keelson.email_changes as c where c.user_id = u.id) as undoable,
    (select count(*) from keelson.user_emails as e where e.user_id = u.id) as addresses
from keelson.users as u where u.id in (:'proven', :'unproven', :'moved') order by u.email;
select event_type, case user_id when :'unproven' then 'eve' when :'moved' then 'moved' else 'kim' end as whose, count(*)
from keelson.audit_events
where user_id in (:'proven', :'unproven', :'moved') and data ->> 'reason' = 'made before the address was verified'
group by 1, 2 order by 1, 2;
select status, data ->> 'accessToken' is not null as is_in
from pg_temp.request('POST auth/login', '{"email": "eve@reclaim.example.com", "password": "a brand new sentence"}');
select keelson._webhook_remove(w.user_id, w.id) from keelson.webhook_endpoints as w where w.user_id in (:'proven', :'unproven', :'moved');
delete from keelson.external_identities where user_id in (:'proven', :'unproven', :'moved');
delete from keelson.users where id in (:'proven', :'unproven', :'moved');
delete from keelson.user_emails where user_id in (:'proven', :'unproven', :'moved');

-- What the keeper does elsewhere than in development.
insert into keelson.recovery_requests (id, purpose, email, created_at)
values (keelson.uuid7(), 'reset_password', 'noa@recovery.example.com', now()),
       (keelson.uuid7(), 'reset_password', 'nobody@recovery.example.com', now()),
       (keelson.uuid7(), 'reset_password', 'noa@recovery.example.com', now() - interval '2 hours');
select keelson._recovery_requests_answer(2) <= 2 as answered;
select count(keelson._recovery_requests_answer()) as calls;
select count(*) as waiting from keelson.recovery_requests where email like '%@recovery.example.com';
select pg_temp.mailed('noa@recovery.example.com', 'password.reset') is not null as mailed;

-- One that fails by what may be over soon is tried again, for a while; by what lasts, it is dropped. Neither keeps others.
begin;
create function pg_temp.full() returns trigger language plpgsql as $$ begin raise exception 'no room' using errcode = current_setting('regress.state'); end $$;
create trigger full_disk before insert on keelson.recovery_tokens for each row execute function pg_temp.full();
insert into keelson.recovery_requests (id, purpose, email)
values (keelson.uuid7(), 'reset_password', 'noa@recovery.example.com'), (keelson.uuid7(), 'reset_password', 'nobody@recovery.example.com');
create function pg_temp.waiting() returns table (failures integer, is_later boolean) language sql as $$
    select r.failures, r.due_at > clock_timestamp() from keelson.recovery_requests as r where r.email like '%@recovery.example.com'
$$;
set local regress.state = '53100';
select keelson._recovery_requests_answer() >= 2 as answered;
select * from pg_temp.waiting();
select count(keelson._recovery_requests_answer()) as calls;
select * from pg_temp.waiting();
update keelson.recovery_requests set due_at = now();
select count(keelson._recovery_requests_answer()) as calls;
select * from pg_temp.waiting();
savepoint s;
update keelson.recovery_requests set due_at = now(), failures = 8;
select count(keelson._recovery_requests_answer()) as calls;
select * from pg_temp.waiting();
rollback to s;
update keelson.recovery_requests set due_at = now();
set local regress.state = '23514';
select count(keelson._recovery_requests_answer()) as calls;
select * from pg_temp.waiting();
rollback to s;
update keelson.recovery_requests set due_at = now();
drop trigger full_disk on keelson.recovery_tokens;
select count(*) as before from keelson.mail_messages where recipient = 'noa@recovery.example.com' and template = 'password.reset' \gset
select count(keelson._recovery_requests_answer()) as calls;
select * from pg_temp.waiting();
select count(*) - :before as mailed from keelson.mail_messages where recipient = 'noa@recovery.example.com' and template = 'password.reset';
rollback;

-- Cleaning up: what was used or has expired.
select keelson._recovery_tokens_purge(1000) > 0 as purged;
select purpose, count(*) from keelson.recovery_tokens
where user_id in (select id from people) group by purpose order by purpose;

-- The words of mails are for development alone, and nobody's but the administrator's.
set role keelson_app;
select count(*) from keelson.mails;
select count(*) from keelson.mail_messages;
select content from keelson.mail_messages;
select count(*) from keelson.recovery_tokens;
select keelson._mail_queue(null, 'password.reset', 'x@example.com');
select keelson.mail_template_set('app.x', 'x', 'x');
reset role;
select status, page like '%Willkommen%' or page like '%Welcome%' as shows from pg_temp.request('GET dev/mails', caller => jsonb_build_object('accept', 'text/html'));

select keelson.mail_unsuppress('mia@recovery.example.com') as was, keelson.mail_unsuppress('mia@recovery.example.com') as is_now;
delete from keelson.mail_templates where name = 'app.welcome';
delete from keelson.users where id in (select id from people);
delete from keelson.user_emails where user_id in (select id from people);
