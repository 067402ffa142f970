-- A user's keys are for the core alone: no role of an endpoint may read them.
select keelson._user_policies('keelson.user_keys');

insert into keelson.seal_purposes (name, scope, description)
values
    ('secret', 'server', 'Secrets of keelson.secret_set().'),
    ('signing-key', 'server', 'Private halves of keelson.signing_keys.'),
    ('mail', 'server', 'Mails that wait to be sent, which may hold links that sign in.'),
    ('webhook-secret', 'server', 'Signing secrets of incoming webhooks'' sources.'),
    ('idempotency', 'user', 'Replies kept for Idempotency-Key.'),
    ('totp', 'user', 'Secrets of second factors.'),
    ('api-key', 'user', 'The users'' own API keys for other services.'),
    ('oauth-token', 'user', 'Tokens that other providers have issued for the user.'),
    ('webhook-endpoint', 'user', 'Signing secrets of the users'' webhook endpoints.')
on conflict (name) do update
set scope = excluded.scope, description = excluded.description
where (seal_purposes.scope, seal_purposes.description) is distinct from (excluded.scope, excluded.description);

-- The trail has each opening of these. Of second factors it has each check, and
-- of webhooks each delivery; replies for Idempotency-Key are the client's own.
update keelson.seal_purposes
set is_opening_audited = name in ('api-key', 'oauth-token')
where is_opening_audited <> (name in ('api-key', 'oauth-token'))
    and name in ('secret', 'signing-key', 'mail', 'webhook-secret', 'idempotency', 'totp', 'api-key', 'oauth-token', 'webhook-endpoint');

insert into keelson.keyring_uses (name, kind, relation, key_column, id_column, purpose, condition, loss)
values
    ('users'' keys', 'wrapped', 'keelson.user_keys', 'wrap_key_id', null, null, null,
        'Whatever is sealed for the users whose keys it wraps.'),
    ('server''s secrets', 'sealed', 'keelson.secrets', 'value', 'id', 'secret', 'not t.is_hashed',
        'Secrets of keelson.secret_set(): they are to be set again.'),
    ('signing keys', 'sealed', 'keelson.signing_keys', 'private_key', 'id', 'signing-key', null,
        'The private halves: new keys are to be made, and tokens signed since then refused.')
on conflict (name) do update
set kind = excluded.kind, relation = excluded.relation, key_column = excluded.key_column, id_column = excluded.id_column,
    purpose = excluded.purpose, condition = excluded.condition, lifetime = excluded.lifetime, loss = excluded.loss;

insert into keelson.secrets (name, is_hashed, description)
values
    ('cron_secret', true, 'What callers of /api/cron/* show.'),
    ('stripe_webhook_secret', false, 'Signs Stripe''s webhooks to us.'),
    ('smtp_url', false, 'The mail server, with its password.'),
    ('captcha_secret', false, 'Our secret with the CAPTCHA''s provider.')
on conflict (name) do update
set description = excluded.description
where secrets.description is distinct from excluded.description;

-- Which purposes and names there are is no secret, nor is the public half of a key.
grant select on keelson.seal_purposes, keelson.keyring_uses, keelson.keyring_rotations to keelson_admin;
grant select (name, is_hashed, description, changed_at) on keelson.secrets to keelson_admin;
grant select (id, kid, algorithm, public_key, created_at, active_from, revoked_at) on keelson.signing_keys to keelson_admin;

-- Know the keyring and have a key to sign with from the start. Without a
-- keyring both wait until there is one.
select keelson._keyring_register();
select keelson._signing_key_ensure();
