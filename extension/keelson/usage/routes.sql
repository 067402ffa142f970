-- Metering.

select keelson.route(
    'POST usage',
    'keelson.usage_post',
    scope => 'usage.write',
    rate_class => 'api',
    status => 202,
    returns => 'keelson.usage_receipt',
    errors => '{IDEMPOTENCY_CONFLICT, QUOTA_EXCEEDED}',
    examples => '{"request": {"feature": "speech", "minutes": 2.5, "key": "call-1815"}, "response": {"accepted": 1, "duplicates": 0}}'
);

select keelson.route(
    'GET user/analytics',
    'keelson.user_analytics',
    examples => '{"response": {"currentPeriod": {"tier": "pro", "minutesUsed": 125.5, "minutesLimit": 1000, "minutesRemaining": 874.5, "percentUsed": 12.55, "periodEnd": "2025-02-01T00:00:00Z"}, "featureBreakdown": [{"feature": "speech", "totalMinutes": 125.5, "requestCount": 50, "avgMinutesPerRequest": 2.51}], "timeline": [{"date": "2025-01-15", "minutes": 125.5, "requests": 50}], "allTime": {"totalMinutes": 125.5, "totalRequests": 50}}}'
);

select keelson.route(
    'GET user/usage/stream',
    'keelson.user_usage',
    kind => 'watch'
);

select keelson.route(
    'GET user/usage/forecast',
    'keelson.user_usage_forecast'
);

select keelson.route(
    'GET user/usage/export',
    'keelson.user_usage_export',
    kind => 'rows',
    is_raw => true,
    content_types => '{text/csv}',
    rate_class => 'api',
    pool => 'slow',
    timeout => '5 minutes'
);
