-- Webhook endpoints and their deliveries.

select keelson.route(
    'GET webhooks',
    'keelson.webhook_list'
);

select keelson.route(
    'POST webhooks',
    'keelson.webhook_create',
    rate_class => 'api',
    status => 201,
    errors => '{CONFLICT}',
    examples => '{"request": {"url": "https://example.com/hooks", "events": ["user.*"], "filter": "exists($.changed[*] ? (@ == \"name\"))"}}'
);

select keelson.route(
    'GET webhooks/event-types',
    'keelson.webhook_event_types'
);

select keelson.route(
    'GET webhooks/:id',
    'keelson.webhook_get',
    errors => '{NOT_FOUND}'
);

select keelson.route(
    'PUT webhooks/:id',
    'keelson.webhook_update',
    rate_class => 'api',
    errors => '{NOT_FOUND, CONFLICT}',
    examples => '{"request": {"enabled": false}}'
);

select keelson.route(
    'DELETE webhooks/:id',
    'keelson.webhook_delete',
    rate_class => 'api',
    status => 204,
    errors => '{NOT_FOUND}'
);

select keelson.route(
    'POST webhooks/:id/rotate-secret',
    'keelson.webhook_rotate_secret',
    rate_class => 'api',
    errors => '{NOT_FOUND}'
);

select keelson.route(
    'POST webhooks/:id/test',
    'keelson.webhook_test',
    rate_class => 'api',
    status => 202,
    errors => '{NOT_FOUND, CONFLICT}'
);

select keelson.route(
    'POST webhooks/:id/dry-run',
    'keelson.webhook_dry_run',
    rate_class => 'api',
    errors => '{NOT_FOUND}',
    examples => '{"request": {"type": "user.updated"}}'
);

select keelson.route(
    'GET webhooks/:id/deliveries',
    'keelson.webhook_deliveries',
    errors => '{NOT_FOUND}'
);

select keelson.route(
    'GET webhooks/:id/deliveries/:deliveryId',
    'keelson.webhook_delivery_get',
    errors => '{NOT_FOUND}'
);

select keelson.route(
    'POST webhooks/:id/deliveries/:deliveryId/replay',
    'keelson.webhook_delivery_replay',
    rate_class => 'api',
    status => 202,
    errors => '{NOT_FOUND, CONFLICT}'
);

select keelson.route(
    'POST webhooks/:id/replay',
    'keelson.webhook_replay',
    rate_class => 'api',
    status => 202,
    errors => '{NOT_FOUND, CONFLICT}',
    examples => '{"request": {"since": "2025-01-15T00:00:00Z"}, "response": {"replayed": 12, "more": false}}'
);
