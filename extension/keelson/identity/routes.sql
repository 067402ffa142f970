-- The signed-in user.

select keelson.route(
    'GET auth/me',
    'keelson.auth_me',
    examples => '{"response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": false, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {"theme": "dark"}, "roles": ["user"], "createdAt": "2025-01-15T00:00:00Z"}}'
);

select keelson.route(
    'GET user/profile',
    'keelson.user_profile',
    examples => '{"response": {"user": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": false, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {"theme": "dark"}, "roles": ["user"], "createdAt": "2025-01-15T00:00:00Z"}, "memberSince": "2025-01-15T00:00:00Z"}}'
);

-- On the slow pool: a change of password hashes.
select keelson.route(
    'PUT user/profile',
    'keelson.user_profile_update',
    rate_class => 'api',
    pool => 'slow',
    returns => 'keelson.profile',
    errors => '{INVALID_CREDENTIALS, CONFLICT}',
    examples => '{"request": {"name": "Ada Lovelace", "preferences": {"theme": "dark", "language": "en", "notifications": {"email": true}}}, "response": {"user": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": false, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {"theme": "dark", "language": "en", "notifications": {"email": true}}, "roles": ["user"], "createdAt": "2025-01-15T00:00:00Z"}, "memberSince": "2025-01-15T00:00:00Z"}}'
);
