-- Who may see what of sessions and passwords.

select keelson._user_policies('keelson.passwords');
select keelson._user_policies('keelson.sessions');
select keelson._user_policies('keelson.authentication_failures');

-- What a user is shown of their sessions; nothing of passwords.
grant select (
    user_id, id, aal, is_cookie, ip_address, user_agent, created_at, last_seen_at, expires_at, ended_at
) on keelson.sessions to keelson_app;

-- What would be lost with an old master key.
insert into keelson.keyring_uses (name, kind, relation, key_column, condition, lifetime, loss)
values
    ('passwords', 'derived', 'keelson.passwords', 'pepper_key_id', null, null,
        'These users cannot log in before they reset their passwords. A login moves its user''s.'),
    ('sessions', 'derived', 'keelson.sessions', 'refresh_key_id', 't.ended_at is null and t.expires_at > pg_catalog.now()', null,
        'These sessions cannot be refreshed, nor used with cookies: their users log in again. A refresh moves its session.'),
    ('device tokens', 'token', null, null, null, '366 days',
        'Devices that have not logged in since count as unknown when an account is locked.')
on conflict (name) do update
set kind = excluded.kind, relation = excluded.relation, key_column = excluded.key_column, condition = excluded.condition,
    lifetime = excluded.lifetime, loss = excluded.loss;
