-- Verification and recovery. What hashes a password runs on the slow pool.

select keelson.route(
    'POST auth/verify',
    'keelson.email_verify',
    is_public => true,
    rate_class => 'auth',
    returns => 'keelson.verification',
    errors => '{INVALID_TOKEN}',
    examples => '{"request": {"token": "ksv_0194e0a000007000800000000000000047DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}, "response": {"email": "ada@example.com", "emailVerified": true}}'
);

select keelson.route(
    'GET auth/verify',
    'keelson.email_verify_page',
    is_public => true,
    rate_class => 'auth',
    returns => 'keelson.verification',
    errors => '{INVALID_TOKEN}',
    content_types => '{text/html}'
);

select keelson.route(
    'POST auth/resend-verification',
    'keelson.verification_resend',
    is_public => true,
    rate_class => 'reset',
    returns => 'keelson.recovery_answer',
    examples => '{"request": {"email": "ada@example.com"}}'
);

select keelson.route(
    'POST auth/request-reset',
    'keelson.password_reset_request',
    is_public => true,
    rate_class => 'reset',
    returns => 'keelson.recovery_answer',
    examples => '{"request": {"email": "ada@example.com"}}'
);

select keelson.route(
    'POST auth/forgot-password',
    'keelson.password_reset_request',
    is_public => true,
    rate_class => 'reset',
    returns => 'keelson.recovery_answer',
    examples => '{"request": {"email": "ada@example.com"}}'
);

select keelson.route(
    'POST auth/reset-password',
    'keelson.password_reset',
    is_public => true,
    rate_class => 'auth',
    pool => 'slow',
    returns => 'keelson.password_reset',
    errors => '{INVALID_TOKEN}',
    examples => '{"request": {"token": "ksp_0194e0a000007000800000000000000047DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU", "password": "a beam bolted to the keel"}, "response": {"endedSessions": 1}}'
);

select keelson.route(
    'GET auth/reset-password',
    'keelson.password_reset_page',
    is_public => true,
    is_raw => true,
    content_types => '{text/html}'
);

select keelson.route(
    'POST auth/undo-email-change',
    'keelson.email_change_undo',
    is_public => true,
    rate_class => 'auth',
    returns => 'keelson.verification',
    errors => '{INVALID_TOKEN}',
    examples => '{"request": {"token": "ksu_0194e0a00000700080000000000000040194e0a000007000800000000000000547DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}, "response": {"email": "ada@example.com", "emailVerified": true}}'
);

select keelson.route(
    'GET auth/undo-email-change',
    'keelson.email_change_undo_page',
    is_public => true,
    is_raw => true,
    content_types => '{text/html}'
);

select keelson.route(
    'GET dev/mails',
    'keelson.mails_page',
    is_public => true,
    is_raw => true,
    content_types => '{text/html}',
    errors => '{NOT_FOUND}'
);

select keelson.route(
    'GET mail/unsubscribe',
    'keelson.mail_unsubscribe_page',
    is_public => true,
    is_raw => true,
    content_types => '{text/html}'
);

select keelson.route(
    'POST mail/unsubscribe',
    'keelson.mail_unsubscribe',
    is_public => true,
    is_raw => true,
    content_types => '{application/x-www-form-urlencoded,multipart/form-data}',
    returns => 'keelson.unsubscription',
    errors => '{INVALID_TOKEN}'
);
