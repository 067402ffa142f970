-- Registration, login, logout, passwords, tokens.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

\getenv tests PG_ABS_SRCDIR
\set request :tests '/sql/include/request.sql'
\set ECHO none
\i :request
\set ECHO all

-- The names of an object's members.
create function pg_temp.members(object jsonb) returns text language sql as $$
    select string_agg(name, ' ' order by name) from jsonb_object_keys(object) as name
$$;

-- What speaks against a new password.
select password, keelson._password_fault(password, array['ada.lovelace@example.com', 'Ada Lovelace', '127.0.0.1:8080'], 12) as fault
from unnest(array[
    'correct horse battery staple', 'd7f3k9w2m5q8', 'Tr0ub4dor&3xyz', 'MünchenIstSchön', 'mrs lovelace likes engines',
    'elevenchars', 'äöüäöüäöüäö', 'password1234', 'Passw0rd2024!', 'iloveyou1234', 'qwertyuiop12', 'passwordpassword',
    '!!!!PASSWORD!!!!', 'p@ss-w0rd-2024', 'trustno12024', 'monkeymonkey12', 's3cr3t!!2024', '1q2w3e4r5t6y',
    'ada.lovelace@example.com', 'ada.lovelace.1815', 'ADALOVELACE!!', 'My-L0velace-77', 'example.com1234',
    'aaaaaaaaaaaa', 'abababababab', 'xkcd936xkcd936', 'aabbccddaabbcdcd', 'abcdefghijkl', 'lkjhgfdsapoi', '987654321098'
]) with ordinality as tried (password, n)
order by n;
select keelson._password_fault(repeat('7', 1024), '{}', 12) is not null as digits,
       keelson._password_fault(repeat('q9!Zr ', 170), '{}', 12) is not null as repeated,
       keelson._password_fault('correct horse', array[null, '', '@'], 12) is null as own_nothing,
       keelson._password_fault('', '{}', 12) is not null as nothing,
       keelson._password_fault(null, '{}', 12) is null as unknown;

-- Registration.
select status, headers ? 'Set-Cookie' as cookies, pg_temp.members(data) as data, pg_temp.members(data -> 'user') as user_object,
    data #>> '{user,email}' as email, data #>> '{user,name}' as name, data #> '{user,roles}' as roles,
    data #> '{user,emailVerified}' as verified, (data ->> 'expiresIn')::integer between 810 and 900 as in_time,
    data ->> 'refreshToken' ~ '^ksr_[A-Za-z0-9_-]{96}$' as is_refresh, headers ->> ':user' = data #>> '{user,id}' as names_user
from pg_temp.request('POST auth/register',
    '{"email": "Ada@Sessions.example.com", "password": "correct horse battery staple", "name": "Ada"}');
select s.generation, s.aal, s.is_cookie, s.ip_address, s.user_agent, s.expires_at - s.created_at as lifetime, s.ended_at, s.end_reason
from keelson.sessions as s
join keelson.user_emails as e using (user_id)
where e.email = 'ada@sessions.example.com';

-- Refused registrations leave nothing behind.
select status, data
from (values
    ('{}'),
    ('{"email": "ada@sessions.example.com", "password": "correct horse battery staple"}'),
    ('{"email": "ADA@sessions.example.com", "password": "another long sentence"}'),
    ('{"email": "bob@sessions", "password": "", "name": " "}'),
    ('{"email": "bob@sessions.example.com", "password": "password1234"}'),
    ('{"email": "bob@sessions.example.com", "password": "bob@sessions.example.com"}'),
    ('{"email": null, "password": null}'),
    ('{"email": 1, "password": true, "name": {}, "cookie": "yes"}'),
    ('{"email": "bob@sessions.example.com", "password": "correct horse battery staple", "role": "admin"}')
) as bodies (body), pg_temp.request('POST auth/register', body::jsonb);
select status, data -> 'details' -> 0 -> 'field' as field
from pg_temp.request('POST auth/register',
    jsonb_build_object('email', 'bob@sessions.example.com', 'password', repeat('long enough ', 86)));
select count(*) as bobs from keelson.user_emails where email like 'bob@%';

-- Login: what is right, and the one refusal of all that is not.
select status, headers ? 'Set-Cookie' as cookies, pg_temp.members(data) as data, data ->> 'deviceToken' ~ '^ksd_[A-Za-z0-9_-]{96}$' as is_device
from pg_temp.request('POST auth/login', '{"email": "ADA@sessions.example.com", "password": "correct horse battery staple"}');
select keelson.user_create('nopassword@sessions.example.com') is not null as made;
select status, headers, data
from unnest(array['ada@sessions.example.com', 'nobody@sessions.example.com', 'nopassword@sessions.example.com']) as email,
    pg_temp.request('POST auth/login', jsonb_build_object('email', email, 'password', 'wrong horse battery staple'));
-- An address that nobody holds is compared with the hash of one that somebody holds, so that it takes as long: always with the
-- same, with an imported one as often as there are such, and in vain.
select count(keelson.user_create(n || 'import@sessions.example.com', password_hash => case when n <= 40
    then '$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW'
    else '$argon2id$v=19$m=8192,t=1,p=1$/W5Cn1o+gRlFqT0jVlEd5g$rDWNxRs3gCC8jz34raEaKyONt2PSP877euGjXseh7ns' end)) as imported
from generate_series(1, 80) as n;
create temporary table stranger as
select s.email, d.*
from (select n || 'stranger@sessions.example.com' from generate_series(1, 1000) as n) as s (email),
    keelson._password_decoy(keelson._nobody_id(s.email)) as d;
select count(*) filter (where hash like '$2a$05$%') > 0 as like_some, count(*) filter (where hash like '$argon2id$%') > 0 as like_others,
    bool_and(s.hash is not distinct from (keelson._password_decoy(keelson._nobody_id(s.email))).hash) as always
from stranger as s;
select distinct status, data ->> 'code' as code
from (select email, 'U*U' as password from stranger where hash like '$2a$05$%' order by email limit 3) as tried,
    pg_temp.request('POST auth/login', to_jsonb(tried));
begin;
update keelson.passwords set pepper_key_id = 999999 where user_id in (select user_id from keelson.user_emails where email like '%@sessions.example.com');
savepoint here;
select status from pg_temp.request('POST auth/login', '{"email": "ada@sessions.example.com", "password": "correct horse battery staple"}');
rollback to here;
select status from stranger as s, keelson._password_decoy(keelson._nobody_id(s.email)) as d,
    pg_temp.request('POST auth/login', jsonb_build_object('email', s.email, 'password', 'correct horse battery staple'))
where d.hash like '$argon2id$%' and d.pepper_key_id = 999999 limit 1;
rollback;
select status, data
from (values
    ('{}'),
    ('{"email": "ada", "password": "correct horse battery staple"}'),
    ('{"email": "ada@sessions.example.com", "password": ""}'),
    ('{"email": ["ada@sessions.example.com"], "password": 1}')
) as bodies (body), pg_temp.request('POST auth/login', body::jsonb);
-- A password is compared in NFC: a composed and a decomposed letter are one.
select status from pg_temp.request('POST auth/register',
    jsonb_build_object('email', 'nfc@sessions.example.com', 'password', U&'cr\00e8me br\00fbl\00e9e'));
select status from pg_temp.request('POST auth/login',
    jsonb_build_object('email', 'nfc@sessions.example.com', 'password', U&'cre\0300me bru\0302le\0301e'));

-- Blocked and deleted users.
update keelson.users set status = 'blocked' where email = 'nfc@sessions.example.com';
select status, data from pg_temp.request('POST auth/login',
    jsonb_build_object('email', 'nfc@sessions.example.com', 'password', U&'cr\00e8me br\00fbl\00e9e'));
select status, data from pg_temp.request('POST auth/login',
    jsonb_build_object('email', 'nfc@sessions.example.com', 'password', 'wrong'));
update keelson.users set status = 'deleted', deleted_at = now() where email = 'nfc@sessions.example.com';
select status, data from pg_temp.request('POST auth/login',
    jsonb_build_object('email', 'nfc@sessions.example.com', 'password', U&'cr\00e8me br\00fbl\00e9e'));

-- An imported bcrypt hash works, and is argon2id with a pepper afterwards.
select keelson.user_create('imported@sessions.example.com',
    password_hash => '$2a$04$abcdefghijklmnopqrstuuBcnrVXNbQr6ElQJXUbKwKKoRaaoyxZm') is not null as made;
select left(hash, 4) as hash, pepper_key_id, normalisation from keelson.passwords
where user_id = (select user_id from keelson.user_emails where email = 'imported@sessions.example.com');
select status from pg_temp.request('POST auth/login', '{"email": "imported@sessions.example.com", "password": "not from another system"}');
select status from pg_temp.request('POST auth/login', '{"email": "imported@sessions.example.com", "password": "from another system"}');
select left(hash, 30) as hash, pepper_key_id, normalisation from keelson.passwords
where user_id = (select user_id from keelson.user_emails where email = 'imported@sessions.example.com');
select status from pg_temp.request('POST auth/login', '{"email": "imported@sessions.example.com", "password": "from another system"}');

-- So is an argon2id hash below the present policy, or without the pepper; one that is neither stays as it is.
select keelson.user_create('weak@sessions.example.com',
    password_hash => '$argon2id$v=19$m=8192,t=1,p=1$QWBOmPrIkS33GK0hIjjN9Q$1D+MotYjwP9wv43RHa9POf/fcB/dhmL78fcaH/BQ4mc') as weak \gset
select status from pg_temp.request('POST auth/login', '{"email": "weak@sessions.example.com", "password": "from another systen"}');
select left(hash, 29) as hash, pepper_key_id, normalisation from keelson.passwords where user_id = :'weak';
select status from pg_temp.request('POST auth/login', '{"email": "weak@sessions.example.com", "password": "from another system"}');
select left(hash, 30) as hash, pepper_key_id, normalisation from keelson.passwords where user_id = :'weak';
update keelson.passwords set hash = keelson.password_hash('from another system'), pepper_key_id = 0 where user_id = :'weak';
select status from pg_temp.request('POST auth/login', '{"email": "weak@sessions.example.com", "password": "from another system"}');
select hash as present, pepper_key_id > 0 as has_pepper from keelson.passwords where user_id = :'weak' \gset
select status from pg_temp.request('POST auth/login', '{"email": "weak@sessions.example.com", "password": "from another system"}');
select hash = :'present' as stays, :'has_pepper'::boolean as has_pepper
from keelson.passwords where user_id = :'weak';

-- Cookies carry the tokens, and the body does not.
create temporary table cookie_login as
select status, headers, data
from pg_temp.request('POST auth/login', '{"email": "ada@sessions.example.com", "password": "correct horse battery staple", "cookie": true}');
select status, pg_temp.members(data) as data from cookie_login;
select regexp_replace(cookie, '=[^;]*', '=…') as cookie, length(cookie) < 4096 as fits
from cookie_login, jsonb_array_elements_text(headers -> 'Set-Cookie') as cookie;
create function pg_temp.cookie(name text) returns text language sql as $$
    select (regexp_match(cookie, '^__Host-ks_' || name || '=([^;]*)'))[1]
    from cookie_login, jsonb_array_elements_text(headers -> 'Set-Cookie') as cookie
    where cookie like '\_\_Host-ks\_' || name || '=%'
$$;
select is_cookie, count(*) from keelson.sessions
where user_id = (select user_id from keelson.user_emails where email = 'ada@sessions.example.com')
group by is_cookie order by is_cookie;

-- Who is it?
create temporary table ada as
select data as login from pg_temp.request('POST auth/login', '{"email": "ada@sessions.example.com", "password": "correct horse battery staple"}');
select status, data ->> 'email' as email, data = (select login -> 'user' from ada) as same
from ada, pg_temp.request('GET auth/me', null, login ->> 'accessToken');
select status, data -> 'user' = login -> 'user' as same, data -> 'memberSince' = data #> '{user,createdAt}' as since
from ada, pg_temp.request('GET user/profile', null, login ->> 'accessToken');
select status, data ->> 'code' as code from pg_temp.request('GET auth/me');
select status, data ->> 'code' as code from pg_temp.request('GET auth/me', null, 'nonsense');
select status, data -> 'authenticated' as authenticated, data #>> '{user,email}' as email,
    (data ->> 'expiresAt')::timestamptz - now() between '13 minutes' and '15 minutes' as in_time
from ada, pg_temp.request('GET auth/status', null, login ->> 'accessToken');
select status, data from pg_temp.request('GET auth/status');
select status, data from pg_temp.request('GET auth/status', null, 'nonsense');
select status, data ->> 'email' as email
from pg_temp.request('GET auth/me', null, pg_temp.cookie('access'), caller => '{"via": "cookie"}');

-- The profile.
select status, data #>> '{user,name}' as name, data #> '{user,preferences}' as preferences
from ada, pg_temp.request('PUT user/profile', '{"name": "Ada L.", "preferences": {"theme": "dark"}}', login ->> 'accessToken');
select status, data #>> '{user,name}' as name, data #> '{user,preferences}' as preferences
from ada, pg_temp.request('PUT user/profile', '{"preferences": {"language": "en"}}', login ->> 'accessToken');
select status, data #>> '{user,name}' as name, data #> '{user,preferences}' as preferences
from ada, pg_temp.request('PUT user/profile', '{"name": null, "preferences": null}', login ->> 'accessToken');
select status, data
from ada, (values
    ('{"name": " Ada"}'), ('{"name": ""}'), ('{"preferences": {"theme": "pink"}}'), ('{"preferences": []}'), ('{"email": "x@example.com"}'),
    ('{"newPassword": null}'), ('{"newPassword": "a whole new sentence"}'),
    ('{"currentPassword": "wrong horse battery staple", "newPassword": "a whole new sentence"}'),
    ('{"currentPassword": "correct horse battery staple", "newPassword": "password1234"}')
) as bodies (body), pg_temp.request('PUT user/profile', body::jsonb, login ->> 'accessToken');

-- A new password ends the other sessions, in that moment.
select status from ada, pg_temp.request('PUT user/profile',
    '{"currentPassword": "correct horse battery staple", "newPassword": "a whole new sentence"}', login ->> 'accessToken');
select status from ada, pg_temp.request('GET auth/me', null, login ->> 'accessToken');
select status, data ->> 'code' as code from pg_temp.request('GET auth/me', null, pg_temp.cookie('access'), caller => '{"via": "cookie"}');
select end_reason, count(*) from keelson.sessions
where user_id = (select user_id from keelson.user_emails where email = 'ada@sessions.example.com')
group by end_reason order by end_reason;
select status from pg_temp.request('POST auth/login', '{"email": "ada@sessions.example.com", "password": "correct horse battery staple"}');
select status from pg_temp.request('POST auth/login', '{"email": "ada@sessions.example.com", "password": "a whole new sentence"}');

-- Logout ends the session for the next statement; again it changes nothing.
select status, data, headers - ':user' as headers from ada, pg_temp.request('POST auth/logout', '{}', login ->> 'accessToken');
select status, data ->> 'code' as code from ada, pg_temp.request('GET auth/me', null, login ->> 'accessToken');
select status, data from ada, pg_temp.request('GET auth/status', null, login ->> 'accessToken');
select status, data from ada, pg_temp.request('POST auth/logout', '{}', login ->> 'accessToken');
-- A session that has ended has no power over the others.
select status, data from ada, pg_temp.request('POST auth/logout', '{"everywhere": true}', login ->> 'accessToken');
select count(*) as live from keelson.sessions
where ended_at is null and user_id = (select user_id from keelson.user_emails where email = 'ada@sessions.example.com');
-- An expired token logs out too.
create temporary table expired as
select keelson._access_token(s.user_id, s.id, 1::smallint, -3600) as token
from keelson.sessions as s
where s.ended_at is null and s.user_id = (select user_id from keelson.user_emails where email = 'ada@sessions.example.com');
select status, data ->> 'code' as code from expired, pg_temp.request('GET auth/me', null, token);
select status, data from expired, pg_temp.request('POST auth/logout', '{"everywhere": true}', token);
select count(*) as live from keelson.sessions
where ended_at is null and user_id = (select user_id from keelson.user_emails where email = 'ada@sessions.example.com');
select status, data ->> 'code' as code from pg_temp.request('POST auth/logout', '{}');
select status, data ->> 'code' as code from pg_temp.request('POST auth/logout', '{}', 'nonsense');
select status, data ->> 'code' as code from pg_temp.request('POST auth/logout', '{}', null, caller => '{"refreshCookie": "ksr_nonsense"}');

-- Logout of a cookie session: not without the proof that a page of ours sent it.
truncate cookie_login;
insert into cookie_login
select status, headers, data
from pg_temp.request('POST auth/login', '{"email": "ada@sessions.example.com", "password": "a whole new sentence", "cookie": true}');
select status, data ->> 'code' as code from pg_temp.request('POST auth/logout', '{}', pg_temp.cookie('access'), caller => '{"via": "cookie"}');
select status, data ->> 'code' as code from pg_temp.request('POST auth/logout', '{}', null,
    caller => jsonb_build_object('refreshCookie', pg_temp.cookie('refresh'), 'csrf', 'x', 'csrfCookie', pg_temp.cookie('csrf'), 'fetchSite', 'same-origin'));
select status, data, headers ->> 'Clear-Site-Data' as clear, jsonb_array_length(headers -> 'Set-Cookie') as cookies,
    headers -> 'Set-Cookie' ->> 0 as first
from pg_temp.request('POST auth/logout', '{}', null,
    caller => jsonb_build_object('refreshCookie', pg_temp.cookie('refresh'), 'csrf', pg_temp.cookie('csrf'), 'csrfCookie', pg_temp.cookie('csrf'), 'fetchSite', 'same-origin'));
select status, data, headers ->> 'Clear-Site-Data' as clear
from pg_temp.request('POST auth/logout', '{}', pg_temp.cookie('access'),
    caller => jsonb_build_object('via', 'cookie', 'csrf', pg_temp.cookie('csrf'), 'csrfCookie', pg_temp.cookie('csrf'), 'fetchSite', 'same-origin'));

-- From psql, for the one acted for.
begin;
select keelson.act_as('ada@sessions.example.com') is not null as is_ada;
select status, convert_from(body, 'UTF8') as data from keelson.session_logout(everywhere => true);
select (keelson.auth_status()).authenticated;
savepoint here;
select keelson.session_logout();
rollback to here;
commit;
select keelson.auth_status();

-- So many sessions and no more.
select count(*) as logins
from generate_series(1, 22) as n,
    pg_temp.request('POST auth/login', jsonb_build_object('email', 'ada@sessions.example.com', 'password', left('a whole new sentence', 20 + 0 * n))) as answer
where answer.status = 200;
select count(*) filter (where ended_at is null) as live, count(*) filter (where end_reason = 'replaced') as replaced,
    min(id::text) filter (where ended_at is null) > max(id::text) filter (where end_reason = 'replaced') as oldest_first
from keelson.sessions
where user_id = (select user_id from keelson.user_emails where email = 'ada@sessions.example.com');

-- Refresh tokens: the same every time, and nobody else can make one.
create temporary table tokens as
select user_id, session_id, keelson._refresh_token(user_id, session_id, 7, keelson._token_key_id()) as token
from (select keelson.uuid7() as user_id, keelson.uuid7() as session_id) as ids;
select opened.user_id = t.user_id as user_id, opened.session_id = t.session_id as session_id, opened.generation,
    t.token = keelson._refresh_token(t.user_id, t.session_id, 7, opened.key_id) as same_again,
    t.token <> keelson._refresh_token(t.user_id, t.session_id, 8, opened.key_id) as next_differs
from tokens as t, keelson._refresh_token_open(t.token) as opened;
select count(*) as accepted
from tokens as t,
    generate_series(1, length(t.token)) as n,
    unnest(array['A', 'b', '_', ' ', '=']) as other,
    keelson._refresh_token_open(overlay(t.token placing other from n for 1)) as opened
where substr(t.token, n, 1) <> other and opened.user_id is not null;
select count(*) as accepted
from tokens as t,
    unnest(array['', 'ksr_', left(t.token, -1), t.token || 'A', ' ' || t.token, t.token || ' ', replace(t.token, 'ksr_', 'ksd_'), upper(t.token)]) as other,
    keelson._refresh_token_open(other) as opened
where opened.user_id is not null;
select keelson._refresh_token(keelson.uuid7(), keelson.uuid7(), 1, 999);

-- Refresh: a token is good once; its repetition finds the same successor for
-- ten seconds, as long as that is unused; then it is theft.
create temporary table refreshed as
select 1 as n, data as tokens from pg_temp.request('POST auth/login', '{"email": "ada@sessions.example.com", "password": "a whole new sentence"}');
create function pg_temp.refresh(n integer, out status integer, out data jsonb) language sql as $$
    select answer.status, answer.data
    from refreshed, pg_temp.request('POST auth/refresh', jsonb_build_object('refreshToken', refreshed.tokens ->> 'refreshToken')) as answer
    where refreshed.n = refresh.n
$$;
create function pg_temp.token_of(n integer) returns text language sql as $$
    select tokens ->> 'refreshToken' from refreshed where refreshed.n = token_of.n
$$;
insert into refreshed select 2, data from pg_temp.refresh(1);
select pg_temp.members(tokens) as data, (tokens ->> 'expiresIn')::integer between 810 and 900 as in_time,
    tokens ->> 'refreshToken' <> pg_temp.token_of(1) as is_new
from refreshed where n = 2;
select status, data ->> 'refreshToken' = pg_temp.token_of(2) as same_successor from pg_temp.refresh(1);
select status from refreshed, pg_temp.request('GET auth/me', null, refreshed.tokens ->> 'accessToken') as answer where n = 2;
select generation, last_seen_at > created_at as was_seen from keelson.sessions
where id = (select session_id from keelson._refresh_token_open(pg_temp.token_of(2)));
insert into refreshed select 3, data from pg_temp.refresh(2);
select status, data ->> 'code' as code from pg_temp.refresh(1);
select status, data ->> 'code' as code from pg_temp.refresh(3);
select end_reason from keelson.sessions where id = (select session_id from keelson._refresh_token_open(pg_temp.token_of(3)));
select count(*) > 1 as others_live from keelson.sessions
where ended_at is null and user_id = (select user_id from keelson.user_emails where email = 'ada@sessions.example.com');
-- Ten seconds and no longer.
truncate refreshed;
insert into refreshed
select 1, data from pg_temp.request('POST auth/login', '{"email": "ada@sessions.example.com", "password": "a whole new sentence"}');
insert into refreshed select 2, data from pg_temp.refresh(1);
update keelson.sessions set rotated_at = rotated_at - interval '9 seconds'
where id = (select session_id from keelson._refresh_token_open(pg_temp.token_of(1)));
select status from pg_temp.refresh(1);
update keelson.sessions set rotated_at = rotated_at - interval '2 seconds'
where id = (select session_id from keelson._refresh_token_open(pg_temp.token_of(1)));
select status, data ->> 'code' as code from pg_temp.refresh(1);
truncate refreshed;
insert into refreshed
select 1, data from pg_temp.request('POST auth/login', '{"email": "ada@sessions.example.com", "password": "a whole new sentence"}');
insert into refreshed select 2, data from pg_temp.refresh(1);
update keelson.sessions set rotated_at = rotated_at + interval '9 seconds'
where id = (select session_id from keelson._refresh_token_open(pg_temp.token_of(1)));
select status from pg_temp.refresh(1);
update keelson.sessions set rotated_at = rotated_at + interval '1 hour'
where id = (select session_id from keelson._refresh_token_open(pg_temp.token_of(1)));
select status, data ->> 'code' as code from pg_temp.refresh(1);
-- Idle for too long, over its time, logged out: ended, which is no theft.
truncate refreshed;
insert into refreshed
select n, data from generate_series(1, 3) as n, lateral pg_temp.request('POST auth/login',
    jsonb_build_object('email', 'ada@sessions.example.com', 'password', left('a whole new sentence', 20 + 0 * n)));
update keelson.sessions set rotated_at = rotated_at - interval '15 days'
where id = (select session_id from keelson._refresh_token_open(pg_temp.token_of(1)));
update keelson.sessions set created_at = created_at - interval '31 days', expires_at = expires_at - interval '31 days'
where id = (select session_id from keelson._refresh_token_open(pg_temp.token_of(2)));
select status from refreshed, pg_temp.request('POST auth/logout', '{}', refreshed.tokens ->> 'accessToken') as answer where n = 3;
select n, status, data ->> 'code' as code from generate_series(1, 3) as n, lateral pg_temp.refresh(n);
select status, data ->> 'code' as code
from unnest(array['', 'nonsense', 'ksr_' || repeat('A', 96), repeat('x', 10000)]) as token,
    pg_temp.request('POST auth/refresh', jsonb_build_object('refreshToken', token));
select status, data ->> 'code' as code from pg_temp.request('POST auth/refresh', '{}');
-- By cookie, with the proof that a page of ours sent it.
truncate cookie_login;
insert into cookie_login
select status, headers, data
from pg_temp.request('POST auth/login', '{"email": "ada@sessions.example.com", "password": "a whole new sentence", "cookie": true}');
select status, data ->> 'code' as code from pg_temp.request('POST auth/refresh', '{}', null, caller => jsonb_build_object('refreshCookie', pg_temp.cookie('refresh')));
select status, pg_temp.members(data) as data, jsonb_array_length(headers -> 'Set-Cookie') as cookies
from pg_temp.request('POST auth/refresh', '{}', null, caller => jsonb_build_object('refreshCookie', pg_temp.cookie('refresh'),
    'csrf', pg_temp.cookie('csrf'), 'csrfCookie', pg_temp.cookie('csrf'), 'fetchSite', 'same-origin'));

-- Device tokens: of one user, and never a refresh token's like.
create temporary table devices as
select user_id, device_id, keelson._device_token(user_id, device_id, keelson._token_key_id()) as token
from (select keelson.uuid7() as user_id, gen_random_uuid() as device_id) as ids;
select keelson._device_token_open(token, user_id) = device_id as own,
    keelson._device_token_open(token, keelson.uuid7()) as others,
    keelson._device_token_open(replace(token, 'ksd_', 'ksr_'), user_id) as renamed,
    keelson._device_token_open(overlay(token placing 'AAAA' from 60 for 4), user_id) as changed,
    (keelson._refresh_token_open(replace(token, 'ksd_', 'ksr_'))).user_id as as_refresh
from devices;
-- A device keeps its id from login to login.
select keelson._device_token_open(second.data ->> 'deviceToken', (second.data #>> '{user,id}')::uuid)
    = keelson._device_token_open(first.data ->> 'deviceToken', (first.data #>> '{user,id}')::uuid) as same_device
from pg_temp.request('POST auth/login', '{"email": "ada@sessions.example.com", "password": "a whole new sentence"}') as first,
    pg_temp.request('POST auth/login', jsonb_build_object('email', 'ada@sessions.example.com', 'password', 'a whole new sentence',
        'deviceToken', first.data ->> 'deviceToken')) as second;
select status from pg_temp.request('POST auth/login',
    '{"email": "ada@sessions.example.com", "password": "a whole new sentence", "deviceToken": "nonsense"}');

-- The rows: no hash, no generation for the application.
set role keelson_app;
select hash from keelson.passwords;
select generation from keelson.sessions;
select count(*) as sessions from keelson.sessions;
select keelson._sessions_end(keelson.uuid7(), null, null, 'logout');
reset role;

delete from keelson.users where id in (select user_id from keelson.user_emails where email like '%@sessions.example.com');
delete from keelson.user_emails where email like '%@sessions.example.com';
