-- Registration, login, logout. What hashes a password runs on the slow pool.

select keelson.route(
    'POST auth/register',
    'keelson.user_register',
    is_public => true,
    rate_class => 'auth',
    pool => 'slow',
    status => 201,
    returns => 'keelson.registration',
    errors => '{EMAIL_TAKEN, CAPTCHA_REQUIRED}',
    examples => '{"request": {"email": "ada@example.com", "password": "correct horse battery staple", "name": "Ada Lovelace"}}'
);

select keelson.route(
    'POST auth/login',
    'keelson.session_create',
    is_public => true,
    rate_class => 'auth',
    pool => 'slow',
    returns => 'keelson.session_tokens',
    errors => '{INVALID_CREDENTIALS, ACCOUNT_LOCKED, CAPTCHA_REQUIRED, FORBIDDEN, SECOND_FACTOR_REQUIRED, INVALID_TOKEN}',
    examples => '{"request": {"email": "ada@example.com", "password": "correct horse battery staple"}}'
);

select keelson.route(
    'POST auth/refresh',
    'keelson.session_refresh',
    is_public => true,
    returns => 'keelson.token_pair',
    errors => '{UNAUTHENTICATED, TOKEN_EXPIRED, TOKEN_REUSED, CSRF_FAILED}'
);

select keelson.route(
    'POST auth/logout',
    'keelson.session_logout',
    is_public => true,
    returns => 'keelson.logout',
    errors => '{UNAUTHENTICATED, CSRF_FAILED}',
    examples => '{"request": {"everywhere": true}, "response": {"endedSessions": 2}}'
);

select keelson.route(
    'GET auth/status',
    'keelson.auth_status',
    is_public => true,
    examples => '{"response": {"authenticated": false, "user": null, "expiresAt": null}}'
);

select keelson.route(
    'GET auth/sessions',
    'keelson.session_list',
    examples => '{"response": [{"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "current": true, "createdAt": "2025-01-15T00:00:00Z", "lastSeenAt": "2025-01-15T08:30:00Z", "expiresAt": "2025-01-29T08:30:00Z", "ipAddress": "192.0.2.1", "userAgent": "curl/8.5.0"}]}'
);

select keelson.route(
    'DELETE auth/sessions/:id',
    'keelson.session_end',
    rate_class => 'api',
    returns => 'keelson.logout',
    errors => '{NOT_FOUND}',
    examples => '{"response": {"endedSessions": 1}}'
);
