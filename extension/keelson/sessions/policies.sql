-- Who may see what of sessions and passwords.

select keelson._user_policies('keelson.passwords');
select keelson._user_policies('keelson.sessions');
select keelson._user_policies('keelson.authentication_failures');

-- What a user is shown of their sessions; nothing of passwords.
grant select (
    user_id, id, aal, is_cookie, ip_address, user_agent, created_at, last_seen_at, expires_at, ended_at
) on keelson.sessions to keelson_app;
