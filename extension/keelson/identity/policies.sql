-- Who may see what of users. Writing is left to the capability's functions.

select keelson._user_policies('keelson.users', 'id');
select keelson._user_policies('keelson.avatars');
select keelson._user_policies('keelson.email_changes');
select keelson._user_policies('keelson.bulk_operations');
select keelson._user_policies('keelson.bulk_items');

-- Nobody but keelson_system reads addresses across users: row-level security
-- without a policy shows no row to anyone else.
alter table keelson.user_emails enable row level security;
alter table keelson.user_emails force row level security;

grant select (
    id, kind, status, name, email, email_verified_at, preferences, avatar_hash, created_at, updated_at, deleted_at
) on keelson.users to keelson_app;
grant select on keelson.user_data_rules to keelson_admin;

insert into keelson.audit_event_types (name, category, description, is_reserved)
values
    ('user.restore', 'users', 'A deleted user was brought back.', true),
    ('user.export', 'users', 'A user was given all data about them.', true),
    ('admin.bulk', 'admin', 'Something was done to many users at once.', true),
    ('admin.role_change', 'admin', 'A role or a permission was made, changed or removed.', true)
on conflict (name) do update
set category = excluded.category, description = excluded.description, is_reserved = excluded.is_reserved
where (audit_event_types.category, audit_event_types.description, audit_event_types.is_reserved)
    is distinct from (excluded.category, excluded.description, excluded.is_reserved);

-- What is kept when its user is erased, what is not exported, and what is
-- opened for it; all else of users goes, and is shown to them.
insert into keelson.user_data_rules (relation, column_name, is_kept, is_hidden, open_expression, reason)
values
    ('keelson.audit_events', '*', true, false, null, 'The trail is evidence: what tells of a person in it is sealed and cannot be opened once their keys are erased, the hash of the address is emptied'),
    ('keelson.audit_events', 'personal', false, false, 'case when coalesce(t.actor_id, t.user_id) = t.user_id then keelson._audit_open(t.user_id, t.id, t.personal) end',
        'Address, user agent and personal data of events, sealed under the user''s key; of what others did, they tell of those others'),
    ('keelson.audit_events', 'address_hash', false, true, null, 'A keyed hash of what personal tells in clear'),
    ('keelson.avatars', 'image', false, false, null, 'The user''s own picture'),
    ('keelson.bulk_items', 'target_id', false, true, null, 'Somebody else'),
    ('keelson.user_roles', 'granted_by', false, true, null, 'Somebody else'),
    ('keelson.legal_holds', '*', false, true, null, 'That there is one may be confidential; while there is, nothing is erased'),
    ('keelson.passwords', 'pepper_key_id', false, true, null, 'How the server keeps secrets'),
    ('keelson.passwords', 'normalisation', false, true, null, 'How the server keeps secrets'),
    ('keelson.sessions', 'refresh_key_id', false, true, null, 'How the server keeps secrets'),
    ('keelson.user_keys', '*', false, true, null, 'Secrets of the server'),
    ('keelson.idempotency_keys', 'key', false, false, null, 'The client''s own header'),
    ('keelson.users', 'block_reason', false, true, null, 'A note of administrators')
on conflict (relation, column_name) do update
set is_kept = excluded.is_kept, is_hidden = excluded.is_hidden, open_expression = excluded.open_expression, reason = excluded.reason
where (user_data_rules.is_kept, user_data_rules.is_hidden, user_data_rules.open_expression, user_data_rules.reason)
    is distinct from (excluded.is_kept, excluded.is_hidden, excluded.open_expression, excluded.reason);
