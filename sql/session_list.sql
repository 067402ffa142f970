-- The list of a user's sessions, ending one, and how long sessions last.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

\getenv tests PG_ABS_SRCDIR
\set request :tests '/sql/include/request.sql'
\set ECHO none
\i :request
\set ECHO all
create temporary table logins (n integer, who text, data jsonb, headers jsonb);
create function pg_temp.token(which integer) returns text language sql as $$
    select data ->> 'accessToken' from logins where n = which
$$;
create function pg_temp.refresh_token(which integer) returns text language sql as $$
    select data ->> 'refreshToken' from logins where n = which
$$;
create function pg_temp.session(which integer) returns uuid language sql as $$
    select (keelson._refresh_token_open(data ->> 'refreshToken')).session_id from logins where n = which
$$;

select keelson.user_create('ada@list.example.com', 'correct horse battery staple') as ada \gset
select keelson.user_create('eve@list.example.com', 'correct horse battery staple') is not null as made;
insert into logins
select n, who, answer.data, answer.headers
from (values (1, 'ada'), (2, 'ada'), (3, 'ada'), (4, 'eve')) as given (n, who)
cross join lateral pg_temp.request('POST auth/login',
    body => jsonb_build_object('email', who || '@list.example.com', 'password', 'correct horse battery staple'),
    caller => jsonb_build_object('ip', '192.0.2.' || n, 'userAgent', 'device ' || n)) as answer;

-- One's own, the newest first, with all fields.
select answer.status, position, session - 'id' - 'createdAt' - 'lastSeenAt' - 'expiresAt' as session,
    (session ->> 'id')::uuid = pg_temp.session(4 - position::integer) as is_it,
    (session ->> 'expiresAt')::timestamptz - (session ->> 'lastSeenAt')::timestamptz as lasts
from pg_temp.request('GET auth/sessions', credential => pg_temp.token(2)) as answer,
    jsonb_array_elements(answer.data) with ordinality as listed (session, position)
order by position;
select status, jsonb_array_length(data) as sessions, data -> 0 ->> 'userAgent' as device
from pg_temp.request('GET auth/sessions', credential => pg_temp.token(4));
select status, data from pg_temp.request('GET auth/sessions');

-- By pages.
create temporary table page as
select data, headers -> ':pagination' as pagination
from pg_temp.request('GET auth/sessions', arguments => '{"query": {"limit": "2"}}', credential => pg_temp.token(1));
select jsonb_array_length(page.data) as first, page.pagination ->> 'nextCursor' is not null as goes_on,
    jsonb_array_length(next.data) as second, next.data -> 0 ->> 'userAgent' as device, next.headers -> ':pagination' as pagination
from page, pg_temp.request('GET auth/sessions',
    arguments => jsonb_build_object('query', jsonb_build_object('limit', '2', 'cursor', page.pagination ->> 'nextCursor')), credential => pg_temp.token(1)) as next;
select answer.status, answer.data -> 'code' as code
from page, pg_temp.request('GET auth/sessions',
    arguments => jsonb_build_object('query', jsonb_build_object('cursor', page.pagination ->> 'nextCursor')), credential => pg_temp.token(4)) as answer;
select arguments, status, coalesce(data -> 'field', data -> 'details' -> 0 -> 'field') as field
from unnest(array['{"limit": "0"}', '{"limit": "101"}', '{"limit": "x"}', '{"cursor": "nonsense"}', '{"page": "2"}']::jsonb[]) as arguments,
    pg_temp.request('GET auth/sessions', arguments => jsonb_build_object('query', arguments), credential => pg_temp.token(1));

-- Ending one holds for the next statement; the others go on.
select status, data from pg_temp.request('DELETE auth/sessions/:id', arguments => jsonb_build_object('path', jsonb_build_object('id', pg_temp.session(3))), credential => pg_temp.token(1));
select n, status from generate_series(1, 4) as n, pg_temp.request('GET auth/me', credential => pg_temp.token(n));
select status, data ->> 'code' as code
from pg_temp.request('POST auth/refresh', body => jsonb_build_object('refreshToken', pg_temp.refresh_token(3)));
select end_reason from keelson.sessions where id = pg_temp.session(3);
select jsonb_array_length(data) as sessions from pg_temp.request('GET auth/sessions', credential => pg_temp.token(1));
-- Ended, somebody else's, nobody's, nonsense: nothing happens.
select what, status, data ->> 'code' as code
from (values
    ('ended', pg_temp.session(3)::text), ('of eve', pg_temp.session(4)::text), ('none', keelson.uuid7()::text), ('nonsense', 'x')
) as given (what, id), pg_temp.request('DELETE auth/sessions/:id', arguments => jsonb_build_object('path', jsonb_build_object('id', id)), credential => pg_temp.token(1));
select status, data ->> 'code' as code from pg_temp.request('DELETE auth/sessions/:id', arguments => jsonb_build_object('path', jsonb_build_object('id', pg_temp.session(1))));
select status from pg_temp.request('GET auth/me', credential => pg_temp.token(4));
-- One's own is a logout.
select status, data, headers ? 'Clear-Site-Data' as clears
from pg_temp.request('DELETE auth/sessions/:id', arguments => jsonb_build_object('path', jsonb_build_object('id', pg_temp.session(1))), credential => pg_temp.token(1));
select status, data ->> 'code' as code from pg_temp.request('GET auth/me', credential => pg_temp.token(1));
-- So it is of a browser, which forgets its cookies.
insert into logins
select 5, 'ada', data, headers
from pg_temp.request('POST auth/login', body => '{"email": "ada@list.example.com", "password": "correct horse battery staple", "cookie": true}');
create function pg_temp.cookie(name text) returns text language sql as $$
    select (regexp_match(cookie, '^__Host-ks_' || name || '=([^;]*)'))[1]
    from logins, jsonb_array_elements_text(headers -> 'Set-Cookie') as cookie
    where n = 5 and cookie like '\_\_Host-ks\_' || name || '=%'
$$;
select id as browser from keelson.sessions where user_id = :'ada' and is_cookie \gset
select status, data ->> 'code' as code
from pg_temp.request('DELETE auth/sessions/:id', arguments => jsonb_build_object('path', jsonb_build_object('id', :'browser')), credential => pg_temp.cookie('access'), caller => '{"via": "cookie"}');
select status, data, headers ->> 'Clear-Site-Data' as clear, jsonb_array_length(headers -> 'Set-Cookie') as cookies
from pg_temp.request('DELETE auth/sessions/:id', arguments => jsonb_build_object('path', jsonb_build_object('id', :'browser')), credential => pg_temp.cookie('access'),
    caller => jsonb_build_object('via', 'cookie', 'csrf', pg_temp.cookie('csrf'), 'csrfCookie', pg_temp.cookie('csrf'), 'fetchSite', 'same-origin'));

-- From psql.
begin;
select keelson.act_as('ada@list.example.com') = :'ada' as is_ada;
select current, user_agent from keelson.session_list();
select status, convert_from(body, 'UTF8') as data from keelson.session_end((select id from keelson.session_list()));
select count(*) as sessions from keelson.session_list();
savepoint here;
select keelson.session_end(null);
rollback to here;
commit;
select keelson.session_list();
select keelson.session_end(keelson.uuid7());

-- Idle for too long, and over its time: neither is listed, nor good.
delete from logins where n < 4;
insert into logins
select n, 'ada', answer.data
from generate_series(1, 3) as n
cross join lateral pg_temp.request('POST auth/login', body => jsonb_build_object('email', 'ada@list.example.com',
    'password', left('correct horse battery staple', 28 + 0 * n))) as answer;
update keelson.sessions set rotated_at = now() - interval '14 days 1 second' where id = pg_temp.session(1);
update keelson.sessions set created_at = created_at - interval '30 days', expires_at = now() - interval '1 second' where id = pg_temp.session(2);
select jsonb_array_length(data) as sessions, (data -> 0 ->> 'id')::uuid = pg_temp.session(3) as the_last
from pg_temp.request('GET auth/sessions', credential => pg_temp.token(3));
select n, status, data ->> 'code' as code
from generate_series(1, 3) as n, pg_temp.request('POST auth/refresh',
    body => jsonb_build_object('refreshToken', pg_temp.refresh_token(n)));

-- A second factor makes for shorter sessions.
create temporary table strong as
select opened.session_id, opened.lifetime, (opened.tokens).expires_in, (opened.tokens).access_token, (opened.tokens).refresh_token
from keelson._session_open(:'ada', false, null, 2::smallint) as opened;
select lifetime, expires_in between 810 and 900 as in_time from strong;
select aal, expires_at - created_at as lifetime from keelson.sessions where id = (select session_id from strong);
select (data -> 0 ->> 'expiresAt')::timestamptz - (data -> 0 ->> 'lastSeenAt')::timestamptz as idle
from strong, pg_temp.request('GET auth/sessions', credential => strong.access_token);
update keelson.sessions set rotated_at = now() - interval '59 minutes' where id = (select session_id from strong);
select status, (data ->> 'expiresIn')::integer between 810 and 900 as in_time
from strong, pg_temp.request('POST auth/refresh', body => jsonb_build_object('refreshToken', refresh_token));
update keelson.sessions set rotated_at = now() - interval '61 minutes' where id = (select session_id from strong);
select status, data ->> 'code' as code
from strong, pg_temp.request('POST auth/refresh', body => jsonb_build_object('refreshToken', keelson._refresh_token(:'ada', session_id, 2, keelson._token_key_id())));
-- An access token ends with its session.
select keelson._access_expires_in(1::smallint, '30 days') as usual, keelson._access_expires_in(1::smallint, '5 minutes') as last,
    keelson._access_expires_in(2::smallint, '-1 second') as least;

-- Who authenticates anew gets a new session, and the one that the request carries ends.
insert into logins
select 6, 'ada', data from pg_temp.request('POST auth/login', body => '{"email": "ada@list.example.com", "password": "correct horse battery staple"}',
    credential => (select data ->> 'accessToken' from logins where n = 4));
select status, data ->> 'code' as code from pg_temp.request('GET auth/me', credential => pg_temp.token(4));
select end_reason from keelson.sessions where id = pg_temp.session(4);
select status from pg_temp.request('GET auth/me', credential => pg_temp.token(6));
-- A login that fails ends nothing.
select status from pg_temp.request('POST auth/login', body => '{"email": "ada@list.example.com", "password": "wrong horse battery staple"}',
    credential => pg_temp.token(6));
select status from pg_temp.request('GET auth/me', credential => pg_temp.token(6));

delete from keelson.authentication_failures where user_id in (select user_id from keelson.user_emails where email like '%@list.example.com');
delete from keelson.users where id in (select user_id from keelson.user_emails where email like '%@list.example.com');
delete from keelson.user_emails where email like '%@list.example.com';
