-- Endpoints and events are their user's to see; writing is the capability's functions'.

select keelson._user_policies('keelson.webhook_endpoints');
select keelson._user_policies('keelson.webhook_events');

grant select (
    user_id, id, url, description, events, filter, transform, header_names, is_enabled, disabled_at, disabled_reason, created_at, updated_at
) on keelson.webhook_endpoints to keelson_app;
grant select on keelson.webhook_events to keelson_app;
grant select on keelson.webhook_event_types to keelson_app, keelson_admin;

insert into keelson.webhook_event_types (name, description, schema, sample, is_reserved)
values
    ('webhook.test', 'A test that was asked for; goes to one endpoint whatever it wants.',
        '{"type": "object", "properties": {"message": {"type": "string"}}}', '{"message": "Hello from Keelson"}', true),
    ('webhook.disabled', 'An endpoint was disabled: it answered 410, or nothing but failures came of it for five days.',
        '{"type": "object", "properties": {"endpointId": {"type": "string", "format": "uuid"}, "url": {"type": "string"}, "reason": {"enum": ["gone", "failing"]}}}',
        '{"endpointId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "url": "https://example.com/hooks", "reason": "failing"}', true),
    ('user.created', 'The user was made.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e"}', true),
    ('user.email_changed', 'The user has another e-mail address, or the one before again.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "oldEmail": {"type": "string"}, "newEmail": {"type": "string"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "oldEmail": "ada@example.com", "newEmail": "countess@example.com"}', true),
    ('user.blocked', 'The user was blocked, which ended all sessions.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e"}', true),
    ('user.unblocked', 'The user is not blocked any more.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e"}', true),
    ('user.deleted', 'The user was deleted; their data is erased after a while.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e"}', true),
    ('user.restored', 'The user was brought back before they were erased.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e"}', true),
    ('session.created', 'The user has signed in.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "sessionId": {"type": "string", "format": "uuid"}, "ipAddress": {"type": ["string", "null"]}, "userAgent": {"type": ["string", "null"]}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "sessionId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7f", "ipAddress": "192.0.2.1", "userAgent": "Mozilla/5.0"}', true),
    ('session.ended', 'A session was ended, or several; sessionId says which if it was one that was named.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "sessionId": {"type": ["string", "null"], "format": "uuid"}, "sessions": {"type": "integer"}, "reason": {"type": "string"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "sessionId": null, "sessions": 2, "reason": "logout"}', true),
    ('api_key.stored', 'A key of the user''s for another service was stored.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "service": {"type": "string"}, "maskedKey": {"type": "string"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "service": "openai", "maskedKey": "sk-…abcd"}', true),
    ('api_key.replaced', 'Such a key was replaced by another.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "service": {"type": "string"}, "maskedKey": {"type": "string"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "service": "openai", "maskedKey": "sk-…abcd"}', true),
    ('api_key.removed', 'Such a key was removed.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "service": {"type": "string"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "service": "openai"}', true),
    ('user.updated', 'A profile was changed; says which fields.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "changed": {"type": "array", "items": {"type": "string"}}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "changed": ["name"]}', true),
    ('user.password_changed', 'The user''s password was changed.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e"}', true),
    ('user.role_granted', 'The user was given a role.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "role": {"type": "string"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "role": "support"}', true),
    ('user.role_revoked', 'A role was taken from the user.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "role": {"type": "string"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "role": "support"}', true),
    ('access_key.created', 'An access key was made.',
        '{"type": "object", "properties": {"keyId": {"type": "string", "format": "uuid"}, "name": {"type": "string"}}}',
        '{"keyId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "name": "CI"}', true),
    ('access_key.rotated', 'An access key was replaced by another.',
        '{"type": "object", "properties": {"keyId": {"type": "string", "format": "uuid"}, "successorId": {"type": "string", "format": "uuid"}}}',
        '{"keyId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "successorId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7f"}', true),
    ('access_key.revoked', 'An access key was ended.',
        '{"type": "object", "properties": {"keyId": {"type": "string", "format": "uuid"}}}',
        '{"keyId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e"}', true)
on conflict (name) do update
set description = excluded.description, schema = excluded.schema, sample = excluded.sample, is_reserved = excluded.is_reserved
where (webhook_event_types.description, webhook_event_types.schema, webhook_event_types.sample, webhook_event_types.is_reserved)
    is distinct from (excluded.description, excluded.schema, excluded.sample, excluded.is_reserved);

select keelson.webhook_partitions_make();

insert into keelson.user_data_rules (relation, column_name, is_kept, is_hidden, open_expression, reason)
values
    ('keelson.webhook_endpoints', 'headers', false, true, null, 'Sealed: they may hold a credential of the receiver''s'),
    ('keelson.http_requests', '*', false, true, null, 'Requests of the server itself, gone once they are answered'),
    ('keelson.deliveries', 'claim_id', false, true, null, 'How the server works'),
    ('keelson.deliveries', 'ordering_key', false, false, null, 'No secret: what orders deliveries'),
    ('keelson.deliveries_log', 'ordering_key', false, false, null, 'No secret: what orders deliveries'),
    ('keelson.webhook_events', 'ordering_key', false, false, null, 'No secret: what orders deliveries'),
    ('keelson.deliveries', 'lease_until', false, true, null, 'How the server works')
on conflict (relation, column_name) do update
set is_kept = excluded.is_kept, is_hidden = excluded.is_hidden, open_expression = excluded.open_expression, reason = excluded.reason
where (user_data_rules.is_kept, user_data_rules.is_hidden, user_data_rules.open_expression, user_data_rules.reason)
    is distinct from (excluded.is_kept, excluded.is_hidden, excluded.open_expression, excluded.reason);
