-- Who may see what of the users' API keys. Writing is left to the functions.

select keelson._user_policies('keelson.user_api_keys');

-- What a user is shown of their keys; the sealed value to nobody.
grant select (
    user_id, service, key_name, masked_key, created_at, updated_at, last_used_at
) on keelson.user_api_keys to keelson_app;
grant select on keelson.api_key_services to keelson_app, keelson_admin;

-- The services known from the start. They are data: what an administrator has
-- changed stays.
insert into keelson.api_key_services (service, title, pattern, prefix, min_length, max_length, hint)
values
    ('openai', 'OpenAI', 'sk-[A-Za-z0-9_-]+', 'sk-', 23, 256,
        'begins with sk-, and has letters, digits, _ and - alone'),
    ('elevenlabs', 'ElevenLabs', '(sk_)?[A-Za-z0-9]+', 'sk_', 32, 128,
        'has 32 letters and digits or more, most begin with sk_'),
    ('gemini', 'Google Gemini', 'AIza[A-Za-z0-9_-]{35}', 'AIza', 39, 39,
        'begins with AIza and has 39 characters'),
    ('groq', 'Groq', 'gsk_[A-Za-z0-9]+', 'gsk_', 24, 128,
        'begins with gsk_, and has letters and digits alone after that')
on conflict do nothing;
