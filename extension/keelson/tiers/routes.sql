-- Tiers, subscriptions, quotas, referrals.

select keelson.route(
    'GET tiers',
    'keelson.tiers_list',
    is_public => true,
    examples => '{"response": [{"id": "pro", "name": "Pro", "minutesLimit": 1000, "hardLimit": false, "features": ["export", "webhooks"], "limits": {"projects": 50}}]}'
);

select keelson.route(
    'GET user/tier',
    'keelson.user_tier',
    examples => '{"response": {"id": "pro", "name": "Pro", "minutesLimit": 1000, "hardLimit": false, "features": ["export", "webhooks"], "limits": {"projects": 50}}}'
);

select keelson.route(
    'GET user/quota',
    'keelson.user_quota',
    examples => '{"response": [{"unit": "minutes", "feature": null, "limit": 1000, "used": 12.5, "reserved": 0, "remaining": 987.5, "hard": false, "resetAt": "2025-02-15T09:00:00Z"}]}'
);

select keelson.route(
    'PUT admin/users/:id/tier',
    'keelson.admin_user_tier_set',
    permission => 'tiers.write',
    rate_class => 'api',
    errors => '{NOT_FOUND, CONFLICT}',
    examples => '{"request": {"tier": "pro", "trialDays": 14}, "response": {"tier": "pro", "status": "trialing", "minutesUsed": 0, "minutesLimit": 1000, "periodEnd": "2025-02-15T09:00:00Z", "trial": {"endsAt": "2025-01-29T09:12:00Z"}}}'
);

select keelson.route(
    'POST user/referral',
    'keelson.referral_redeem',
    rate_class => 'api',
    errors => '{CONFLICT}',
    examples => '{"request": {"referralCode": "7ZK3M9QX2B"}, "response": {"code": "P4D8W1TS0H", "redemptions": 0}}'
);
