-- The dispatcher, and what endpoint functions call while it runs them.

create type keelson.request as (
    method text,
    template text,
    via text,
    token_user_id uuid,
    token_session_id uuid,
    token_expires_at timestamptz,
    refresh_cookie text,
    device_cookie text,
    csrf text,
    csrf_cookie text,
    origin text,
    referer text,
    fetch_site text,
    idempotency_key text,
    content_type text,
    accept text,
    if_none_match text
);
comment on type keelson.request is
    'The running request as the core''s own functions may see it, secrets included.';

create or replace function keelson.dispatch(
    route_id integer,
    credential text,
    path_and_query json,
    body bytea,
    caller json
)
returns setof keelson.reply
language c
volatile
rows 1
as 'MODULE_PATHNAME', 'ks_dispatch';
comment on function keelson.dispatch(integer, text, json, bytea, json) is
    'Answer one request: authenticate, authorise, bind the arguments, call the route''s function as the route''s role, shape the reply. The only way in.';
grant execute on function keelson.dispatch(integer, text, json, bytea, json) to keelson_gateway;

create or replace function keelson.given(name text)
returns boolean
language c
stable
strict
parallel restricted
as 'MODULE_PATHNAME', 'ks_given';
comment on function keelson.given(text) is
    'Whether the request named this argument of the endpoint''s function, be it with null. Outside a request every argument counts as given.';
grant execute on function keelson.given(text) to keelson_app;

create or replace function keelson.page(row_limit integer, next_cursor text)
returns void
language c
volatile
parallel restricted
as 'MODULE_PATHNAME', 'ks_page';
comment on function keelson.page(integer, text) is
    'Set meta.pagination of the running request''s reply: the limit in force, and the cursor of the next page or null after the last.';
grant execute on function keelson.page(integer, text) to keelson_app;

create or replace function keelson.page_by(row_limit integer, variadic columns text[])
returns integer
language c
volatile
parallel restricted
as 'MODULE_PATHNAME', 'ks_page_by';
comment on function keelson.page_by(integer, text[]) is
    'Page the rows that the running endpoint''s function returns, by the columns that they are in the order of: for its limit clause, one more than the page holds. The next page''s cursor is the last row''s place, which cursor_decode() gives back as {"column": value}. 400 for a limit that is not 1 to 100; outside a request the limit itself.';
grant execute on function keelson.page_by(integer, text[]) to keelson_app;

create or replace function keelson._page_limit_require(row_limit integer)
returns void
language plpgsql
immutable
as $$
begin
    if row_limit between 1 and 100 then
        return;
    end if;
    perform keelson.raise(400, 'VALIDATION_FAILED', 'limit is 1 to 100', field => 'limit');
end
$$;
comment on function keelson._page_limit_require(integer) is
    'Raise 400 unless a page may have so many rows: for lists that keelson.page_by() cannot page.';

create or replace function keelson.cursor_encode(place jsonb)
returns text
language c
stable
strict
parallel restricted
as 'MODULE_PATHNAME', 'ks_cursor_encode';
comment on function keelson.cursor_encode(jsonb) is
    'The opaque cursor for a place in a list. It is signed, and good for the same endpoint and user alone.';
grant execute on function keelson.cursor_encode(jsonb) to keelson_app;

create or replace function keelson.cursor_decode(cursor text)
returns jsonb
language c
stable
strict
parallel restricted
as 'MODULE_PATHNAME', 'ks_cursor_decode';
comment on function keelson.cursor_decode(text) is
    'The place that a cursor stands for; 400 when it is not a cursor of this endpoint.';
grant execute on function keelson.cursor_decode(text) to keelson_app;

create or replace function keelson.reply_with(
    value anyelement,
    status integer default 200,
    headers jsonb default null
)
returns keelson.reply
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_reply_with';
comment on function keelson.reply_with(anyelement, integer, jsonb) is
    'A reply whose data is the value, written as JSON with camelCase names. A header is a string, or an array of strings (Set-Cookie).';
grant execute on function keelson.reply_with(anyelement, integer, jsonb) to keelson_app;

create or replace function keelson.to_json(value anyelement)
returns jsonb
language c
stable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_to_json';
comment on function keelson.to_json(anyelement) is
    'The value as replies write it, with camelCase names and times in UTC: for the payload of an event, or a part of a reply.';
grant execute on function keelson.to_json(anyelement) to keelson_app, keelson_admin;

create or replace function keelson.refuse(
    status integer,
    code text,
    message text,
    field text default null,
    extra jsonb default null,
    headers jsonb default null
)
returns keelson.reply
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_refuse';
comment on function keelson.refuse(integer, text, text, text, jsonb, jsonb) is
    'A refusal to return from an endpoint function, whose writes commit (keelson.raise rolls back). Members of extra stand beside error and code.';
grant execute on function keelson.refuse(integer, text, text, text, jsonb, jsonb) to keelson_app;

create or replace function keelson.current_request()
returns keelson.request
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_current_request';
comment on function keelson.current_request() is
    'The running request, null outside one. token_* tell of a properly signed access token, expired or not, its session and its end. For the owner roles alone.';

create or replace function keelson._etag_matches(if_none_match text, tag text)
returns boolean
language sql
immutable
as $$
select coalesce(
    if_none_match = '*' or exists (
        select from pg_catalog.regexp_split_to_table(if_none_match, '\s*,\s*') as given (value)
        where pg_catalog.regexp_replace(pg_catalog.btrim(given.value), '^W/', '') = '"' || tag || '"'
    ),
    false
)
$$;
comment on function keelson._etag_matches(text, text) is
    'Whether the header If-None-Match names the entity tag (RFC 9110, weak comparison).';

create or replace function keelson._csrf_token(session_id uuid)
returns text
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_csrf_token';
comment on function keelson._csrf_token(uuid) is
    'A new token for the cookie __Host-ks_csrf, bound to the session.';

create or replace function keelson._csrf_require(session_id uuid)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_csrf_require';
comment on function keelson._csrf_require(uuid) is
    'Raise CSRF_FAILED unless the running request proves that a page of ours sent it for this session. For endpoints that take a cookie other than the access token.';

create or replace function keelson.act_as(who text)
returns uuid
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_act_as';
comment on function keelson.act_as(text) is
    'Act as the user with this e-mail address or id until the transaction ends, with the rights of keelson_app: row-level security then binds superusers too. What is set in the transaction ends with it. Returns the user''s id.';
grant execute on function keelson.act_as(text) to keelson_admin;

create or replace function keelson._idempotency_keys_purge(row_limit integer)
returns integer
language sql
volatile
as $$ select keelson._purge('keelson.idempotency_keys', 'expires_at', pg_catalog.now(), row_limit)::integer $$;
comment on function keelson._idempotency_keys_purge(integer) is
    'Delete kept replies that have expired, at most so many; returns how many. The keeper calls it.';

create or replace function keelson._routes_changed()
returns trigger
language c
as 'MODULE_PATHNAME', 'ks_routes_changed';
comment on function keelson._routes_changed() is
    'Trigger: make every backend read the routes anew and tell the gateways by the channel keelson_routes.';
