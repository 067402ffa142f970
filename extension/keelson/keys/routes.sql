-- Access keys. No scope opens these: a key cannot make keys.

select keelson.route(
    'GET user/access-keys',
    'keelson.user_access_keys',
    examples => '{"response": [{"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "name": "Nightly import", "prefix": "ks_live_01zwvq5x2Bt", "scopes": ["usage.write"], "allowedNetworks": ["192.0.2.0/24"], "expiresAt": "2026-01-15T00:00:00Z", "replacedBy": null, "lastUsedAt": "2025-02-01T12:00:00Z", "createdAt": "2025-01-15T00:00:00Z"}]}'
);

select keelson.route(
    'POST user/access-keys',
    'keelson.user_access_key_create',
    rate_class => 'api',
    status => 201,
    errors => '{FORBIDDEN, CONFLICT, SECOND_FACTOR_REQUIRED}',
    examples => '{"request": {"name": "Nightly import", "scopes": ["usage.write"], "expiresAt": "2027-01-15T00:00:00Z", "allowedNetworks": ["192.0.2.0/24"]}}'
);

select keelson.route(
    'POST user/access-keys/:id/rotate',
    'keelson.user_access_key_rotate',
    rate_class => 'api',
    status => 201,
    errors => '{FORBIDDEN, NOT_FOUND, CONFLICT, SECOND_FACTOR_REQUIRED}',
    examples => '{"request": {"overlapSeconds": 3600}}'
);

select keelson.route(
    'DELETE user/access-keys/:id',
    'keelson.user_access_key_revoke',
    rate_class => 'api',
    errors => '{FORBIDDEN, NOT_FOUND}'
);
