-- External issuers.

select keelson.route(
    'GET user/external-identities',
    'keelson.user_external_identities',
    examples => '{"response": [{"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "issuer": "https://login.example.com/", "subject": "248289761001", "createdAt": "2025-01-15T00:00:00Z"}]}'
);

select keelson.route(
    'DELETE user/external-identities/:id',
    'keelson.user_external_identity_remove',
    rate_class => 'api',
    errors => '{NOT_FOUND, CONFLICT}'
);

select keelson.route(
    'GET admin/issuers',
    'keelson.admin_issuers',
    permission => 'issuers.read'
);

select keelson.route(
    'POST admin/issuers/:id/disable',
    'keelson.admin_issuer_disable',
    permission => 'issuers.write',
    rate_class => 'api',
    errors => '{NOT_FOUND}'
);

select keelson.route(
    'POST admin/issuers/:id/enable',
    'keelson.admin_issuer_enable',
    permission => 'issuers.write',
    rate_class => 'api',
    errors => '{NOT_FOUND}'
);
