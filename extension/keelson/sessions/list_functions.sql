-- The list of a user's sessions, and ending one.

do $types$
begin
    if pg_catalog.to_regtype('keelson.session_object') is null then
        create type keelson.session_object as (
            id uuid,
            current boolean,
            created_at timestamptz,
            last_seen_at timestamptz,
            expires_at timestamptz,
            ip_address inet,
            user_agent text
        );
    end if;
end
$types$;
comment on type keelson.session_object is
    'A session as its user sees it.';
comment on column keelson.session_object.current is 'Whether it is the one that asks.';
comment on column keelson.session_object.last_seen_at is 'When it was last logged in or refreshed.';
comment on column keelson.session_object.expires_at is 'When it ends, unless it is refreshed before and has time left.';
comment on column keelson.session_object.ip_address is 'Where it was last logged in or refreshed from.';
comment on column keelson.session_object.user_agent is 'The client as it named itself then; null when it did not.';

create or replace function keelson.session_list("limit" integer default 20, cursor text default null)
returns setof keelson.session_object
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    acting uuid := keelson.acting_user_id();
    before_id uuid := keelson.cursor_decode(cursor) ->> 'id';
begin
    return query
    select
        s.id, s.id is not distinct from keelson.current_session_id(), s.created_at, s.last_seen_at,
        least(s.expires_at, s.rotated_at + keelson._session_idle(s.aal)), s.ip_address, s.user_agent
    from keelson.sessions as s
    where s.user_id = acting
        and s.ended_at is null
        and (before_id is null or s.id < before_id)
        and s.expires_at > now()
        and s.rotated_at + keelson._session_idle(s.aal) > now()
    order by s.id desc
    limit keelson.page_by("limit", 'id');
end
$$;
comment on function keelson.session_list(integer, text) is
    'The sessions of the user who is signed in that have not ended, the newest first.';
grant execute on function keelson.session_list(integer, text) to keelson_app;

create or replace function keelson.session_end(id uuid)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    acting uuid := keelson.acting_user_id();
    is_own boolean := id is not distinct from keelson.current_session_id();
    headers jsonb;
begin
    if id is null or keelson._sessions_end(acting, id, null, 'ended') = 0 then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such session');
    end if;
    if is_own and (keelson.current_request()).via = 'cookie' then
        headers := keelson._logout_headers();
    end if;
    perform keelson.audit('auth.logout', jsonb_build_object('sessionId', id, 'endedSessions', 1));
    return keelson.reply_with(row(1)::keelson.logout, 200, headers);
end
$$;
comment on function keelson.session_end(uuid) is
    'End a session of the user who is signed in: its tokens are refused from the next request on.';
grant execute on function keelson.session_end(uuid) to keelson_app;
