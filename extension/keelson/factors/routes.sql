-- Second factors.

select keelson.route(
    'GET auth/totp',
    'keelson.factor_state',
    examples => '{"response": {"isEnabled": true, "confirmedAt": "2025-01-15T00:00:00Z", "recoveryCodesLeft": 10, "requiredBy": null}}'
);

select keelson.route(
    'POST auth/totp/enroll',
    'keelson.totp_enroll',
    rate_class => 'auth',
    pool => 'slow',
    returns => 'keelson.totp_enrolment',
    errors => '{INVALID_CREDENTIALS, FORBIDDEN, CONFLICT, ACCOUNT_LOCKED}'
);

select keelson.route(
    'POST auth/totp/confirm',
    'keelson.totp_confirm',
    rate_class => 'auth',
    returns => 'keelson.totp_confirmation',
    errors => '{INVALID_CREDENTIALS, ACCOUNT_LOCKED, TOKEN_EXPIRED}',
    examples => '{"request": {"code": "123456"}}'
);

select keelson.route(
    'POST auth/totp/verify',
    'keelson.totp_verify',
    rate_class => 'auth',
    returns => 'keelson.token_pair',
    errors => '{INVALID_CREDENTIALS, ACCOUNT_LOCKED, TOKEN_EXPIRED}',
    examples => '{"request": {"code": "123456"}}'
);

select keelson.route(
    'POST auth/totp/disable',
    'keelson.totp_disable',
    rate_class => 'auth',
    pool => 'slow',
    errors => '{INVALID_CREDENTIALS, FORBIDDEN, ACCOUNT_LOCKED}',
    examples => '{"request": {"password": "a beam bolted to the keel", "code": "123456"}}'
);

select keelson.route(
    'POST auth/totp/recovery-codes',
    'keelson.recovery_codes_renew',
    rate_class => 'auth',
    returns => 'keelson.recovery_code_set',
    errors => '{INVALID_CREDENTIALS, ACCOUNT_LOCKED}',
    examples => '{"request": {"code": "123456"}}'
);
