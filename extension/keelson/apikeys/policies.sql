-- Who may see what of the users' API keys. Writing is left to the functions.

select keelson._user_policies('keelson.user_api_keys');

-- What a user is shown of their keys; the sealed value to nobody.
grant select (
    user_id, service, key_name, masked_key, created_at, updated_at, last_used_at, is_verified, verified_at
) on keelson.user_api_keys to keelson_app;
grant select on keelson.api_key_services to keelson_app, keelson_admin;

-- The services known from the start. They are data: what an administrator has
-- changed stays.
insert into keelson.api_key_services (
    service, title, pattern, prefix, min_length, max_length, hint, base_url, key_header, key_prefix, verify_path, refused_statuses
)
values
    ('openai', 'OpenAI', 'sk-[A-Za-z0-9_-]+', 'sk-', 23, 256,
        'begins with sk-, and has letters, digits, _ and - alone',
        'https://api.openai.com', 'Authorization', 'Bearer ', '/v1/models', '{401,403}'),
    ('elevenlabs', 'ElevenLabs', '(sk_)?[A-Za-z0-9]+', 'sk_', 32, 128,
        'has 32 letters and digits or more, most begin with sk_',
        'https://api.elevenlabs.io', 'xi-api-key', '', '/v1/user', '{401,403}'),
    ('gemini', 'Google Gemini', 'AIza[A-Za-z0-9_-]{35}', 'AIza', 39, 39,
        'begins with AIza and has 39 characters',
        'https://generativelanguage.googleapis.com', 'x-goog-api-key', '', '/v1beta/models', '{400,401,403}'),
    ('groq', 'Groq', 'gsk_[A-Za-z0-9]+', 'gsk_', 24, 128,
        'begins with gsk_, and has letters and digits alone after that',
        'https://api.groq.com', 'Authorization', 'Bearer ', '/openai/v1/models', '{401,403}')
on conflict do nothing;

insert into keelson.user_data_rules (relation, column_name, is_kept, is_hidden, open_expression, reason)
values
    ('keelson.user_api_keys', 'key_name', false, false, null, 'What the user calls a key is no key.'),
    ('keelson.user_api_keys', 'masked_key', false, false, null, 'It is shown to the user, and no more of the key than that.')
on conflict (relation, column_name) do update
set is_kept = excluded.is_kept, is_hidden = excluded.is_hidden, open_expression = excluded.open_expression, reason = excluded.reason
where (user_data_rules.is_kept, user_data_rules.is_hidden, user_data_rules.open_expression, user_data_rules.reason)
    is distinct from (excluded.is_kept, excluded.is_hidden, excluded.open_expression, excluded.reason);
