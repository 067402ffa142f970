-- Registration, login, logout. What hashes a password runs on the slow pool.

select keelson.route(
    'POST auth/register',
    'keelson.user_register',
    is_public => true,
    rate_class => 'auth',
    pool => 'slow',
    status => 201,
    returns => 'keelson.registration',
    errors => '{EMAIL_TAKEN}',
    examples => '{"request": {"email": "ada@example.com", "password": "correct horse battery staple", "name": "Ada Lovelace"}}'
);

select keelson.route(
    'POST auth/login',
    'keelson.session_create',
    is_public => true,
    rate_class => 'auth',
    pool => 'slow',
    returns => 'keelson.session_tokens',
    errors => '{INVALID_CREDENTIALS, FORBIDDEN}',
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
