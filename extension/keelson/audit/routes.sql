-- Reading the audit trail.

select keelson.route(
    'GET user/activity',
    'keelson.user_activity',
    examples => '{"response": [{"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "type": "auth.login", "outcome": "success", "userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d70", "actor": "user", "actorId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d70", "data": {}, "ipAddress": "192.0.2.1", "userAgent": "curl/8.5.0", "requestId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d71", "createdAt": "2025-01-15T00:00:00Z"}]}'
);

select keelson.route(
    'GET admin/audit',
    'keelson.admin_audit',
    permission => 'audit.read'
);

select keelson.route(
    'GET admin/audit/summary',
    'keelson.admin_audit_summary',
    permission => 'audit.read',
    rate_class => 'api'
);

select keelson.route(
    'GET audit/checkpoint',
    'keelson.audit_checkpoint',
    permission => 'audit.read',
    errors => '{NOT_FOUND}'
);
