-- The signed-in user.

select keelson.route(
    'GET auth/me',
    'keelson.auth_me',
    examples => '{"response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": false, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {"theme": "dark"}, "roles": ["user"], "createdAt": "2025-01-15T00:00:00Z"}}'
);

select keelson.route(
    'GET user/profile',
    'keelson.user_profile',
    examples => '{"response": {"user": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": false, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {"theme": "dark"}, "roles": ["user"], "createdAt": "2025-01-15T00:00:00Z"}, "subscription": {"tier": "pro", "status": "active", "minutesUsed": 12.5, "minutesLimit": 1000, "periodEnd": "2025-02-15T00:00:00Z", "trial": null}, "referral": {"code": "P4D8W1TS0H", "redemptions": 0}, "memberSince": "2025-01-15T00:00:00Z"}}'
);

-- On the slow pool: a change of password hashes.
select keelson.route(
    'PUT user/profile',
    'keelson.user_profile_update',
    rate_class => 'api',
    pool => 'slow',
    returns => 'keelson.profile',
    errors => '{INVALID_CREDENTIALS, ACCOUNT_LOCKED, EMAIL_TAKEN, CONFLICT}',
    examples => '{"request": {"name": "Ada Lovelace", "preferences": {"theme": "dark", "language": "en", "notifications": {"email": true}}}, "response": {"user": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": false, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {"theme": "dark", "language": "en", "notifications": {"email": true}}, "roles": ["user"], "createdAt": "2025-01-15T00:00:00Z"}, "subscription": {"tier": "pro", "status": "active", "minutesUsed": 12.5, "minutesLimit": 1000, "periodEnd": "2025-02-15T00:00:00Z", "trial": null}, "referral": {"code": "P4D8W1TS0H", "redemptions": 0}, "memberSince": "2025-01-15T00:00:00Z"}}'
);

select keelson.route(
    'PUT user/avatar',
    'keelson.user_avatar_put',
    rate_class => 'api',
    is_raw => true,
    content_types => '{image/png, image/jpeg, image/webp}',
    returns => 'keelson.user_object',
    examples => '{"response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": false, "name": "Ada Lovelace", "avatarUrl": "http://127.0.0.1:8080/api/users/019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e/avatar?v=5feceb66ffc86f38", "preferences": {"theme": "dark"}, "roles": ["user"], "createdAt": "2025-01-15T00:00:00Z"}}'
);

select keelson.route(
    'GET user/avatar',
    'keelson.user_avatar_get',
    is_raw => true,
    content_types => '{image/png, image/jpeg, image/webp}',
    errors => '{NOT_FOUND}'
);

select keelson.route(
    'DELETE user/avatar',
    'keelson.user_avatar_delete',
    rate_class => 'api'
);

-- All that is known of them, which may be much: read by rows, on the slow pool.

select keelson.route(
    'GET user/export',
    'keelson.user_export',
    rate_class => 'api',
    rate_cost => 5,
    pool => 'slow',
    kind => 'rows',
    timeout => '5 minutes',
    examples => '{"response": [{"table": "users", "data": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "name": "Ada Lovelace", "createdAt": "2025-01-15T00:00:00Z"}}]}'
);

-- A user by id: oneself, or with a permission that the function asks for.

select keelson.route(
    'GET users/:id',
    'keelson.user_read',
    errors => '{NOT_FOUND}',
    examples => '{"response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": false, "name": "Ada Lovelace", "avatarUrl": "http://127.0.0.1:8080/api/users/019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e/avatar?v=5feceb66ffc86f38", "preferences": {"theme": "dark"}, "roles": ["user"], "createdAt": "2025-01-15T00:00:00Z"}}'
);

select keelson.route(
    'PUT users/:id',
    'keelson.user_update',
    rate_class => 'api',
    pool => 'slow',
    returns => 'keelson.user_object',
    errors => '{INVALID_CREDENTIALS, ACCOUNT_LOCKED, FORBIDDEN, NOT_FOUND, EMAIL_TAKEN, CONFLICT}',
    examples => '{"request": {"name": "Ada Lovelace"}, "response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": false, "name": "Ada Lovelace", "avatarUrl": "http://127.0.0.1:8080/api/users/019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e/avatar?v=5feceb66ffc86f38", "preferences": {"theme": "dark"}, "roles": ["user"], "createdAt": "2025-01-15T00:00:00Z"}}'
);

select keelson.route(
    'DELETE users/:id',
    'keelson.user_delete',
    rate_class => 'api',
    errors => '{FORBIDDEN, NOT_FOUND, CONFLICT}',
    examples => '{"response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "deletedAt": "2025-01-15T00:00:00Z", "erasureDueAt": "2025-02-14T00:00:00Z"}}'
);

select keelson.route(
    'GET users/:id/avatar',
    'keelson.user_avatar_read',
    is_raw => true,
    content_types => '{image/png, image/jpeg, image/webp}',
    errors => '{NOT_FOUND}'
);

-- Administration.

select keelson.route(
    'GET admin/users',
    'keelson.admin_users',
    permission => 'users.read',
    examples => '{"response": [{"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": true, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {}, "roles": ["user", "support"], "status": "active", "blockReason": null, "blockedAt": null, "deletedAt": null, "erasureDueAt": null, "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "tier": "free"}]}'
);

select keelson.route(
    'GET admin/users/:id',
    'keelson.admin_user',
    errors => '{NOT_FOUND}',
    permission => 'users.read',
    examples => '{"response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": true, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {}, "roles": ["user", "support"], "status": "active", "blockReason": null, "blockedAt": null, "deletedAt": null, "erasureDueAt": null, "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "tier": "free"}}'
);

select keelson.route(
    'PUT admin/users/:id',
    'keelson.admin_user_update',
    errors => '{FORBIDDEN, NOT_FOUND, EMAIL_TAKEN, CONFLICT}',
    permission => 'users.write',
    rate_class => 'api',
    examples => '{"request": {"name": "Ada Lovelace", "emailVerified": true}, "response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": true, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {}, "roles": ["user", "support"], "status": "active", "blockReason": null, "blockedAt": null, "deletedAt": null, "erasureDueAt": null, "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "tier": "free"}}'
);

select keelson.route(
    'DELETE admin/users/:id',
    'keelson.admin_user_delete',
    errors => '{FORBIDDEN, NOT_FOUND, CONFLICT}',
    permission => 'users.write',
    rate_class => 'api',
    examples => '{"response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "deletedAt": "2025-01-15T00:00:00Z", "erasureDueAt": "2025-02-14T00:00:00Z"}}'
);

select keelson.route(
    'POST admin/users/:id/restore',
    'keelson.admin_user_restore',
    errors => '{FORBIDDEN, NOT_FOUND, CONFLICT}',
    permission => 'users.write',
    rate_class => 'api',
    examples => '{"response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": true, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {}, "roles": ["user", "support"], "status": "active", "blockReason": null, "blockedAt": null, "deletedAt": null, "erasureDueAt": null, "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "tier": "free"}}'
);

select keelson.route(
    'POST admin/users/:id/block',
    'keelson.admin_user_block',
    errors => '{FORBIDDEN, NOT_FOUND, CONFLICT}',
    permission => 'users.write',
    rate_class => 'api',
    examples => '{"request": {"reason": "Spam"}, "response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": true, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {}, "roles": ["user", "support"], "status": "blocked", "blockReason": "Spam", "blockedAt": "2025-01-16T00:00:00Z", "deletedAt": null, "erasureDueAt": null, "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "tier": "free"}}'
);

select keelson.route(
    'POST admin/users/:id/unblock',
    'keelson.admin_user_unblock',
    errors => '{FORBIDDEN, NOT_FOUND, CONFLICT}',
    permission => 'users.write',
    rate_class => 'api',
    examples => '{"response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": true, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {}, "roles": ["user", "support"], "status": "active", "blockReason": null, "blockedAt": null, "deletedAt": null, "erasureDueAt": null, "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "tier": "free"}}'
);

select keelson.route(
    'POST admin/users/:id/end-sessions',
    'keelson.admin_user_end_sessions',
    errors => '{FORBIDDEN, NOT_FOUND}',
    permission => 'users.write',
    rate_class => 'api',
    examples => '{"response": {"endedSessions": 3}}'
);

select keelson.route(
    'PUT admin/users/:id/roles',
    'keelson.admin_user_roles',
    permission => 'roles.write',
    rate_class => 'api',
    errors => '{FORBIDDEN, NOT_FOUND, CONFLICT}',
    examples => '{"request": {"roles": ["support"]}, "response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "email": "ada@example.com", "emailVerified": true, "name": "Ada Lovelace", "avatarUrl": null, "preferences": {}, "roles": ["user", "support"], "status": "active", "blockReason": null, "blockedAt": null, "deletedAt": null, "erasureDueAt": null, "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "tier": "free"}}'
);

select keelson.route(
    'POST admin/users/bulk',
    'keelson.admin_users_bulk',
    permission => 'users.write',
    rate_class => 'api',
    pool => 'slow',
    errors => '{FORBIDDEN}',
    examples => '{"request": {"operation": "block", "userIds": ["019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7f"], "reason": "Spam"}, "response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d80", "operation": "block", "status": "finished", "total": 2, "succeeded": 1, "failed": 1, "createdAt": "2025-01-15T00:00:00Z", "finishedAt": "2025-01-15T00:00:00Z", "results": [{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "outcome": "done", "code": null, "message": null}, {"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7f", "outcome": "failed", "code": "NOT_FOUND", "message": "There is no such user"}]}}'
);

select keelson.route(
    'GET admin/bulk/:id',
    'keelson.admin_bulk',
    permission => 'users.write',
    errors => '{NOT_FOUND}',
    examples => '{"response": {"id": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d80", "operation": "block", "status": "finished", "total": 2, "succeeded": 1, "failed": 1, "createdAt": "2025-01-15T00:00:00Z", "finishedAt": "2025-01-15T00:00:00Z", "results": [{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "outcome": "done", "code": null, "message": null}, {"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7f", "outcome": "failed", "code": "NOT_FOUND", "message": "There is no such user"}]}}'
);

select keelson.route(
    'GET admin/roles',
    'keelson.admin_roles',
    permission => 'users.read',
    examples => '{"response": [{"name": "editor", "description": "Looks after texts", "isBuiltin": false, "permissions": ["users.read"]}]}'
);

select keelson.route(
    'GET admin/permissions',
    'keelson.admin_permissions',
    permission => 'users.read',
    examples => '{"response": [{"name": "users.read", "description": "See other users"}]}'
);

select keelson.route(
    'PUT admin/roles/:name',
    'keelson.role_set',
    permission => 'roles.write',
    rate_class => 'api',
    errors => '{FORBIDDEN, CONFLICT}',
    examples => '{"request": {"description": "Looks after texts", "permissions": ["users.read"]}, "response": {"name": "editor", "description": "Looks after texts", "isBuiltin": false, "permissions": ["users.read"]}}'
);

select keelson.route(
    'DELETE admin/roles/:name',
    'keelson.role_remove',
    permission => 'roles.write',
    rate_class => 'api',
    errors => '{FORBIDDEN, NOT_FOUND, CONFLICT}'
);
