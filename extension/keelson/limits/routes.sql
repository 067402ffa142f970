-- Administration of rate limits and blocks.

select keelson.route(
    'GET admin/rate-limits',
    'keelson.admin_rate_limits',
    permission => 'limits.read'
);

select keelson.route(
    'GET admin/rate-limits/violations',
    'keelson.admin_rate_limit_violations',
    permission => 'limits.read'
);

select keelson.route(
    'GET admin/rate-limits/top',
    'keelson.admin_rate_limit_top',
    permission => 'limits.read'
);

select keelson.route(
    'GET admin/blocks',
    'keelson.admin_blocks',
    permission => 'limits.read'
);

select keelson.route(
    'POST admin/blocks',
    'keelson.admin_block_add',
    permission => 'limits.write',
    rate_class => 'api',
    status => 201,
    errors => '{CONFLICT}'
);

select keelson.route(
    'DELETE admin/blocks',
    'keelson.admin_block_remove',
    permission => 'limits.write',
    rate_class => 'api',
    errors => '{NOT_FOUND}'
);
