-- Replies: how results are written, status, headers, pages, cursors, refusals, chunks.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

create schema regress_replies;
grant usage on schema regress_replies to public;

create function pg_temp.endpoint(endpoint text, function text, is_raw boolean default false, kind text default 'once', status int default 200)
returns void
language plpgsql
as $$
begin
    execute format('comment on function %s is %L', function, 'A function.');
    perform keelson.route(endpoint, function, is_public => true, is_raw => is_raw, kind => kind, status => status);
end
$$;

create function pg_temp.ask(endpoint text, query json default null, caller json default '{}')
returns table (status int, headers jsonb, body text)
language sql
as $$
select d.status, d.headers, convert_from(d.body, 'UTF8')
from keelson.dispatch((select r.id from keelson.routes as r where r.method || ' ' || r.template = endpoint),
    null, case when query is not null then json_build_object('query', query) end, null, caller) as d
$$;

-- Each type.
create domain regress_replies.money as numeric(12, 2);
create type regress_replies.inner_part as (part_name text, part_no int);
create type regress_replies.mood as enum ('so so', 'well');
create type regress_replies.everything as (
    a_bool boolean, a_smallint smallint, an_int int, a_bigint bigint, a_real real, a_double double precision,
    a_numeric numeric, a_money regress_replies.money, a_text text, a_varchar varchar(10), a_char char(3), a_uuid uuid,
    a_time timestamptz, a_local timestamp, a_date date, a_clock time, an_interval interval, an_inet inet,
    some_bytes bytea, a_json json, a_jsonb jsonb, a_mood regress_replies.mood, a_part regress_replies.inner_part,
    some_ints int[], some_texts text[], some_parts regress_replies.inner_part[], a_matrix int[], x1_y2 int, nothing text
);
create function regress_replies.everything()
returns regress_replies.everything
language plpgsql
as $$
begin
    return row(true, -5, 2147483647, -9223372036854775808, 0.1, 1e-7, 12345678901234567890.10, 5, E'quote " back \\ tab \t line \n bell \a é 😀',
        'v', 'c', '0194e0a0-0000-7000-8000-00000000000f', '2025-01-15 01:00:00+01', '2025-01-15 01:02:03.5', '2025-01-15', '14:30', '1 day 2 hours',
        '192.0.2.0/24', '\x00ff10', '{"snake_case" : 1, "n": 1.50}', '{"snake_case": 1, "n": 1.50}', 'so so',
        row('p', 1)::regress_replies.inner_part, '{1,null,3}', '{}', array[row('a', 1), null, row('b', 2)]::regress_replies.inner_part[],
        '{{1,2},{3,4}}', 12, null)::regress_replies.everything;
end
$$;
select pg_temp.endpoint('GET regress-everything', 'regress_replies.everything');
select r.status, r.headers, e.key, e.value
from pg_temp.ask('GET regress-everything') as r
cross join lateral json_each(r.body::json) as e;

-- What JSON lacks is null; times to the microsecond.
create type regress_replies.odd as (a real, b double precision, c numeric, d timestamptz, e date, f timestamptz, g timestamptz, h timestamptz);
create function regress_replies.odd()
returns regress_replies.odd
language plpgsql
as $$
begin
    return row('NaN', '-Infinity', 'NaN', 'infinity', '-infinity', '2025-01-15 00:00:00.123456+00', '1999-12-31 23:59:59.1+00', '0001-01-01 00:00:00+00')::regress_replies.odd;
end
$$;
select pg_temp.endpoint('GET regress-odd', 'regress_replies.odd');
select body from pg_temp.ask('GET regress-odd');

-- Nothing, null, plain values, columns, sets.
create function regress_replies.nothing() returns void language plpgsql as 'begin end';
create function regress_replies.null_row() returns regress_replies.inner_part language plpgsql as 'begin return null; end';
create function regress_replies.null_reply() returns keelson.reply language plpgsql as 'begin return null; end';
create function regress_replies.plain() returns int language plpgsql as 'begin return 5; end';
create function regress_replies.columns(out first_name text, out n int) language plpgsql as $$ begin first_name := 'f'; n := 1; end $$;
create function regress_replies.parts(n int) returns setof regress_replies.inner_part language plpgsql
as $$ begin return query select 'p' || i, i from generate_series(1, n) as i; end $$;
create function regress_replies.parts_one_by_one(n int) returns setof regress_replies.inner_part language sql
as $$ select row('p' || i, i)::regress_replies.inner_part from generate_series(1, n) as i $$;
create function regress_replies.rows(n int) returns table (item_no int, item_name text) language plpgsql
as $$ begin for i in 1 .. n loop item_no := i; item_name := null; return next; end loop; end $$;
create function regress_replies.numbers(n int) returns setof int language plpgsql
as $$ begin return query select i from generate_series(1, n) as i; end $$;
create function regress_replies.free() returns jsonb language plpgsql as $$ begin return '{"some_key": [1, 2.50]}'; end $$;
create function regress_replies.fails(n int) returns setof int language plpgsql
as $$ begin for i in 1 .. n loop return next i; end loop; perform keelson.raise(409, 'HALF_WAY', 'half way'); end $$;
select pg_temp.endpoint('DELETE regress-nothing', 'regress_replies.nothing'),
    pg_temp.endpoint('POST regress-nothing', 'regress_replies.nothing', status => 202),
    pg_temp.endpoint('GET regress-null-row', 'regress_replies.null_row'),
    pg_temp.endpoint('GET regress-null-reply', 'regress_replies.null_reply'),
    pg_temp.endpoint('POST regress-plain', 'regress_replies.plain', status => 201),
    pg_temp.endpoint('GET regress-columns', 'regress_replies.columns'),
    pg_temp.endpoint('GET regress-parts', 'regress_replies.parts'),
    pg_temp.endpoint('GET regress-parts-one-by-one', 'regress_replies.parts_one_by_one'),
    pg_temp.endpoint('GET regress-rows', 'regress_replies.rows'),
    pg_temp.endpoint('GET regress-numbers', 'regress_replies.numbers'),
    pg_temp.endpoint('GET regress-free', 'regress_replies.free'),
    pg_temp.endpoint('GET regress-fails', 'regress_replies.fails');
select * from pg_temp.ask('DELETE regress-nothing');
select * from pg_temp.ask('POST regress-nothing');
select * from pg_temp.ask('GET regress-null-row');
select * from pg_temp.ask('GET regress-null-reply');
select * from pg_temp.ask('POST regress-plain');
select * from pg_temp.ask('GET regress-columns');
select * from pg_temp.ask('GET regress-parts', '{"n": 2}');
select * from pg_temp.ask('GET regress-parts', '{"n": 0}');
select * from pg_temp.ask('GET regress-parts-one-by-one', '{"n": 2}');
select * from pg_temp.ask('GET regress-rows', '{"n": 2}');
select * from pg_temp.ask('GET regress-numbers', '{"n": 3}');
select * from pg_temp.ask('GET regress-free');
select * from pg_temp.ask('GET regress-fails', '{"n": 3}');
select length(body) from pg_temp.ask('GET regress-parts', '{"n": 20000}');

-- The function's own reply: status, headers, cookies; its own Content-Type means that it goes out as it is.
create function regress_replies.made(how text)
returns keelson.reply
language plpgsql
as $$
begin
    case how
        when 'row' then return keelson.reply_with(row('p', 1)::regress_replies.inner_part, 201, '{"Location": "/x", "Set-Cookie": ["a=1", "b=2"], "X-Null": null}');
        when 'jsonb' then return keelson.reply_with('{"as_it": "is"}'::jsonb);
        when 'array' then return keelson.reply_with(array[row('p', 1), row('q', 2)]::regress_replies.inner_part[]);
        when 'null' then return keelson.reply_with(null::text, 204);
        when 'raw' then return row(200, '{"Content-Type": "text/html"}', convert_to('<p>', 'UTF8'))::keelson.reply;
        when 'unset' then return row(null, null, convert_to('1', 'UTF8'))::keelson.reply;
        when 'gateway' then return row(200, '{":user": "somebody", ":pagination": {"limit": 1}, ":other": 1}', null)::keelson.reply;
        when 'split' then return keelson.reply_with(1, 200, '{"X-Name": "a\r\nSet-Cookie: b=1"}');
        when 'split_name' then return keelson.reply_with(1, 200, '{"X Name": "a"}');
        when 'number' then return keelson.reply_with(1, 200, '{"Retry-After": 5, "X-Tab": "a\tb"}');
        when 'bool' then return keelson.reply_with(1, 200, '{"X-Flag": true}');
        when 'cookies' then return keelson.reply_with(1, 200, '{"Set-Cookie": ["a=1", "b\n=2"]}');
        when 'object' then return keelson.reply_with(1, 200, '{"X-Object": {}}');
        when 'status' then return keelson.reply_with(1, 99);
        when 'refuse' then return keelson.refuse(423, 'ACCOUNT_LOCKED', 'the account is locked', headers => '{"Retry-After": "900"}');
        when 'refuse_field' then return keelson.refuse(400, 'INVALID_TOKEN', 'the token is "spent"', 'reset_token');
        when 'refuse_extra' then return keelson.refuse(401, 'SECOND_FACTOR_REQUIRED', 'a second factor is needed', extra => '{"challenge": "c", "methods": ["totp"]}');
        when 'refuse_empty' then return keelson.refuse(401, 'X', 'x', extra => '{}');
        when 'refuse_wrong' then return keelson.refuse(200, 'X', 'x');
        when 'refuse_null' then return keelson.refuse(400, null, 'x');
        when 'refuse_array' then return keelson.refuse(400, 'X', 'x', extra => '[1]');
    end case;
end
$$;
select pg_temp.endpoint('GET regress-made', 'regress_replies.made');
select * from pg_temp.ask('GET regress-made', '{"how": "row"}');
select * from pg_temp.ask('GET regress-made', '{"how": "jsonb"}');
select * from pg_temp.ask('GET regress-made', '{"how": "array"}');
select * from pg_temp.ask('GET regress-made', '{"how": "null"}');
select * from pg_temp.ask('GET regress-made', '{"how": "raw"}');
select * from pg_temp.ask('GET regress-made', '{"how": "unset"}');
select * from pg_temp.ask('GET regress-made', '{"how": "gateway"}');
select * from pg_temp.ask('GET regress-made', '{"how": "split"}');
select * from pg_temp.ask('GET regress-made', '{"how": "split_name"}');
select * from pg_temp.ask('GET regress-made', '{"how": "number"}');
select * from pg_temp.ask('GET regress-made', '{"how": "bool"}');
select * from pg_temp.ask('GET regress-made', '{"how": "cookies"}');
select * from pg_temp.ask('GET regress-made', '{"how": "object"}');
select * from pg_temp.ask('GET regress-made', '{"how": "status"}');
select * from pg_temp.ask('GET regress-made', '{"how": "refuse"}');
select * from pg_temp.ask('GET regress-made', '{"how": "refuse_field"}');
select * from pg_temp.ask('GET regress-made', '{"how": "refuse_extra"}');
select * from pg_temp.ask('GET regress-made', '{"how": "refuse_empty"}');
select * from pg_temp.ask('GET regress-made', '{"how": "refuse_wrong"}');
select * from pg_temp.ask('GET regress-made', '{"how": "refuse_null"}');
select * from pg_temp.ask('GET regress-made', '{"how": "refuse_array"}');
-- From psql they are plain functions.
select keelson.refuse(404, 'NOT_FOUND', 'gone') = row(404, null, convert_to('{"error":"Gone","code":"NOT_FOUND"}', 'UTF8'))::keelson.reply as same;
select convert_from((keelson.reply_with(now() - now())).body, 'UTF8');

-- Raw endpoints.
create function regress_replies.raw_text() returns text language plpgsql as $$ begin return 'plain "text"'; end $$;
create function regress_replies.raw_bytes() returns bytea language plpgsql as $$ begin return '\x414243'; end $$;
create function regress_replies.raw_json() returns jsonb language plpgsql as $$ begin return '{"keys": []}'; end $$;
select pg_temp.endpoint('GET regress-raw-text', 'regress_replies.raw_text', true),
    pg_temp.endpoint('GET regress-raw-bytes', 'regress_replies.raw_bytes', true),
    pg_temp.endpoint('GET regress-raw-json', 'regress_replies.raw_json', true),
    pg_temp.endpoint('POST regress-raw-json', 'regress_replies.raw_json', true);
select * from pg_temp.ask('GET regress-raw-text');
select * from pg_temp.ask('GET regress-raw-bytes');
select * from pg_temp.ask('GET regress-raw-json');
select * from pg_temp.ask('POST regress-raw-json');
select keelson.route('GET regress-raw-text', 'regress_replies.raw_text', is_public => true, is_raw => true, content_types => '{text/csv}') > 0 as changed;
select * from pg_temp.ask('GET regress-raw-text');

-- Chunks: they make one body, and what fails fails before the first.
select pg_temp.endpoint('GET regress-export', 'regress_replies.parts', kind => 'rows'),
    pg_temp.endpoint('GET regress-export-one-by-one', 'regress_replies.parts_one_by_one', kind => 'rows'),
    pg_temp.endpoint('GET regress-export-fails', 'regress_replies.fails', kind => 'rows');
select * from pg_temp.ask('GET regress-export', '{"n": 2}');
select * from pg_temp.ask('GET regress-export', '{"n": 0}');
select count(*) > 5 as chunks, count(status) as statuses, max(length(body)) < 40000 as bounded,
    json_array_length(string_agg(body, '')::json) as items
from pg_temp.ask('GET regress-export', '{"n": 10000}');
select count(*) > 5 as chunks, json_array_length(string_agg(body, '')::json) as items
from pg_temp.ask('GET regress-export-one-by-one', '{"n": 10000}');
select * from pg_temp.ask('GET regress-export-fails', '{"n": 10000}');
select * from pg_temp.ask('GET regress-export', '{"n": "x"}');
create function regress_replies.lines(n int) returns setof text language plpgsql
as $$ begin return query select format('%s,"é"', i) || e'\n' from generate_series(1, n) as i; end $$;
select pg_temp.endpoint('GET regress-lines', 'regress_replies.lines', true, 'rows');
select * from pg_temp.ask('GET regress-lines', '{"n": 2}');
select * from pg_temp.ask('GET regress-lines', '{"n": 0}');
-- Streaming in the target list, two at once and one left half-way.
begin;
declare one cursor for select (keelson.dispatch(r.id, null, '{"query": {"n": 10000}}', null, '{}')).status from keelson.routes as r where r.template = 'regress-export';
declare two cursor for select (keelson.dispatch(r.id, null, '{"query": {"n": 10000}}', null, '{}')).status from keelson.routes as r where r.template = 'regress-export';
fetch 1 from one;
fetch 2 from two;
fetch 2 from one;
close one;
fetch 1 from two;
commit;

-- The same form without a reply: for an event's payload.
select keelson.to_json(row('p', 1)::regress_replies.inner_part);
select keelson.to_json(array[row('p', 1), null]::regress_replies.inner_part[]), keelson.to_json('2025-01-15 01:00+01'::timestamptz), keelson.to_json('NaN'::numeric);
select keelson.to_json(null::text), keelson.to_json('{"as_it": "is"}'::jsonb), keelson.to_json('a "b"'::text);

-- Pages and cursors.
create function regress_replies.page(n int default 2, cursor text default null)
returns setof regress_replies.inner_part
language plpgsql
as $$
declare
    place int := coalesce((keelson.cursor_decode(cursor) ->> 'place')::int, 0);
begin
    perform keelson.page(n, case when place < 2 then keelson.cursor_encode(jsonb_build_object('place', place + n)) end);
    return query select 'p' || i, i from generate_series(place + 1, place + n) as i;
end
$$;
select pg_temp.endpoint('GET regress-page', 'regress_replies.page'), pg_temp.endpoint('GET regress-page-two', 'regress_replies.page');
select headers #>> '{:pagination,nextCursor}' as cursor, body from pg_temp.ask('GET regress-page') \gset
select :'body' as body, length(:'cursor') > 20 as has_cursor;
select headers, body from pg_temp.ask('GET regress-page', json_build_object('cursor', :'cursor'));
-- One of another endpoint, of another user, changed, of nobody's.
select body from pg_temp.ask('GET regress-page-two', json_build_object('cursor', :'cursor'));
select body from pg_temp.ask('GET regress-page', json_build_object('cursor', overlay(:'cursor' placing case substr(:'cursor', 10, 1) when 'A' then 'B' else 'A' end from 10)));
select body from pg_temp.ask('GET regress-page', json_build_object('cursor', ''));
select body from pg_temp.ask('GET regress-page', json_build_object('cursor', 'eyJwbGFjZSI6MX0'));
select body from pg_temp.ask('GET regress-page', json_build_object('cursor', repeat('A', 100000)));
select * from regress_replies.page(2, :'cursor');
select * from regress_replies.page(1, keelson.cursor_encode('{"place": 7}'));
select keelson.page(null, null);
select keelson.cursor_encode(to_jsonb(repeat('x', 5000)));
select keelson.cursor_encode(null), keelson.cursor_decode(null);

-- Pages by the rows' own columns: one row more than the page holds tells that there is another.
create type regress_replies.dated as (id int, made_on date, note text);
create function regress_replies.page_by("limit" int default 2, cursor text default null, columns text[] default '{made_on,id}')
returns setof regress_replies.dated
language plpgsql
as $$
declare
    after jsonb := keelson.cursor_decode(cursor);
begin
    return query
    select i, date '2025-01-01' + i / 2, case when i % 2 = 0 then 'even' end
    from generate_series(1, 5) as i
    where after is null or (date '2025-01-01' + i / 2, i) > ((after ->> 'made_on')::date, (after ->> 'id')::int)
    order by 2, 1
    limit keelson.page_by("limit", variadic columns);
end
$$;
create function regress_replies.page_nowhere(columns text[] default '{id}')
returns jsonb
language plpgsql
as $$ begin return to_jsonb(keelson.page_by(2, variadic columns)); end $$;
select pg_temp.endpoint('GET regress-page-by', 'regress_replies.page_by'), pg_temp.endpoint('GET regress-page-nowhere', 'regress_replies.page_nowhere');
select pg_temp.endpoint('GET regress-page-rows', 'regress_replies.page_by', kind => 'rows');
select headers #>> '{:pagination,nextCursor}' as cursor, headers #>> '{:pagination,limit}' as "limit", body from pg_temp.ask('GET regress-page-by') \gset
\echo :limit :body
select headers #>> '{:pagination,nextCursor}' as cursor, body from pg_temp.ask('GET regress-page-by', json_build_object('cursor', :'cursor')) \gset
\echo :body
select headers, body from pg_temp.ask('GET regress-page-by', json_build_object('cursor', :'cursor'));
-- Exactly as many as there are; more than there are; the place of one of the columns alone.
select headers, body from pg_temp.ask('GET regress-page-by', '{"limit": 5}');
select headers, body from pg_temp.ask('GET regress-page-by', '{"limit": 100}');
select headers #>> '{:pagination,nextCursor}' is not null as has_next from pg_temp.ask('GET regress-page-by', '{"limit": 4, "columns": ["id"]}');
-- Limits that there are not; columns that the rows do not have; no column; where there are no pages.
select status, headers, body from pg_temp.ask('GET regress-page-by', '{"limit": 0}');
select status, body from pg_temp.ask('GET regress-page-by', '{"limit": 101}');
select status, body from pg_temp.ask('GET regress-page-by', '{"limit": null}');
select pg_temp.ask('GET regress-page-by', '{"columns": ["name"]}');
select pg_temp.ask('GET regress-page-by', '{"columns": []}');
select pg_temp.ask('GET regress-page-nowhere');
select pg_temp.ask('GET regress-page-rows');
select keelson.page_by(2, variadic array[null]::text[]);
select keelson.page_by(2, variadic null);
-- From psql: as many as were asked for.
select id from regress_replies.page_by(2);
select count(*) from regress_replies.page_by(2, keelson.cursor_encode('{"made_on": "2025-01-01", "id": 1}'));

-- What the function can read of the request.
create function regress_replies.request(how text)
returns jsonb
language plpgsql
as $$
begin
    if how = 'caller' then
        return jsonb_build_array(keelson.current_ip(), keelson.current_user_agent(), keelson.current_request_id(), keelson.current_actor());
    end if;
    return to_jsonb(keelson.current_request());
end
$$;
create function regress_replies.request_as_owner(how text) returns jsonb language plpgsql security definer
as $$ begin return regress_replies.request(how); end $$;
select pg_temp.endpoint('GET regress-request', 'regress_replies.request'), pg_temp.endpoint('GET regress-request-owner', 'regress_replies.request_as_owner');
select body from pg_temp.ask('GET regress-request', '{"how": "caller"}',
    '{"ip": "192.0.2.1", "userAgent": "agent \"x\" é", "requestId": "0194e0a0-0000-7000-8000-00000000000f", "other": [1, {"ip": 2}], "refreshCookie": "r"}');
select body from pg_temp.ask('GET regress-request', '{"how": "caller"}', '{}');
select body from pg_temp.ask('GET regress-request', '{"how": "request"}', '{"refreshCookie": "r"}');
select body from pg_temp.ask('GET regress-request-owner', '{"how": "request"}',
    '{"via": "cookie", "origin": "o", "referer": "r", "fetchSite": "none", "csrf": "c", "csrfCookie": "cc", "refreshCookie": "rc", "deviceCookie": "dc", "idempotencyKey": "k", "contentType": "ct", "accept": "a"}');
select keelson.current_request();

drop schema regress_replies cascade;
delete from keelson.routes where owner = 'regress_replies';
