-- Webhooks that others send: stripe, ghl, and what is set up. A path of the API
-- has one name for its parameter, whatever the method: here it is the source.

select keelson.route(
    'POST webhooks/:id',
    'keelson.webhook_receive',
    is_public => true,
    is_raw => true,
    body_limit => 262144,
    errors => '{NOT_FOUND, BAD_REQUEST, MALFORMED_JSON}',
    examples => '{"response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "duplicate": false}}'
);

select keelson.route(
    'GET webhooks/health',
    'keelson.webhook_health',
    is_public => true,
    examples => '{"response": {"status": "ok", "pending": 0, "processed": 128, "failed": 1, "exhausted": 0, "resolved": 2, "oldestPendingAt": null}}'
);

-- Administration.

select keelson.route(
    'GET admin/webhooks/failed',
    'keelson.admin_webhooks_failed',
    permission => 'webhooks.read'
);

select keelson.route(
    'POST admin/webhooks/failed/:id/retry',
    'keelson.admin_webhook_retry',
    permission => 'webhooks.write',
    rate_class => 'api',
    status => 202,
    errors => '{NOT_FOUND, CONFLICT}'
);

select keelson.route(
    'POST admin/webhooks/failed/:id/dismiss',
    'keelson.admin_webhook_dismiss',
    permission => 'webhooks.write',
    rate_class => 'api',
    errors => '{NOT_FOUND, CONFLICT}'
);

select keelson.route(
    'GET admin/webhooks/sources',
    'keelson.admin_webhook_sources',
    permission => 'webhooks.read'
);

select keelson.route(
    'PUT admin/webhooks/sources/:source',
    'keelson.admin_webhook_source_set',
    permission => 'webhooks.configure',
    rate_class => 'api',
    examples => '{"request": {"preset": "github", "enabled": true}}'
);

select keelson.route(
    'DELETE admin/webhooks/sources/:source',
    'keelson.admin_webhook_source_remove',
    permission => 'webhooks.configure',
    rate_class => 'api',
    errors => '{NOT_FOUND, CONFLICT}'
);

select keelson.route(
    'GET admin/webhooks/sources/:source/secrets',
    'keelson.admin_webhook_secrets',
    permission => 'webhooks.read',
    errors => '{NOT_FOUND}'
);

select keelson.route(
    'POST admin/webhooks/sources/:source/secrets',
    'keelson.admin_webhook_secret_add',
    permission => 'webhooks.configure',
    rate_class => 'api',
    status => 201,
    errors => '{NOT_FOUND, CONFLICT}',
    examples => '{"request": {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "expireOthersIn": 86400}}'
);

select keelson.route(
    'DELETE admin/webhooks/sources/:source/secrets/:id',
    'keelson.admin_webhook_secret_remove',
    permission => 'webhooks.configure',
    rate_class => 'api',
    status => 204,
    errors => '{NOT_FOUND}'
);
