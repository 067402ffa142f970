-- The users' own API keys for other services.

select keelson.route(
    'GET user/api-keys',
    'keelson.user_api_keys',
    examples => '{"response": [{"service": "openai", "keyName": "mine", "maskedKey": "sk-…abcd", "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "lastUsedAt": null, "verified": null, "verifiedAt": null}]}'
);

select keelson.route(
    'POST user/api-keys',
    'keelson.user_api_key_store',
    rate_class => 'api',
    pool => 'upstream',
    errors => '{UPSTREAM_FAILED}',
    examples => '{"request": {"service": "openai", "apiKey": "sk-examplekeyexamplekey", "keyName": "mine"}, "response": {"service": "openai", "keyName": "mine", "maskedKey": "sk-…ekey", "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "lastUsedAt": null, "verified": null, "verifiedAt": null}}'
);

select keelson.route(
    'DELETE user/api-keys',
    'keelson.user_api_key_delete',
    rate_class => 'api',
    errors => '{NOT_FOUND}'
);

select keelson.route(
    'GET user/api-keys/services',
    'keelson.user_api_key_services',
    examples => '{"response": [{"service": "openai", "title": "OpenAI", "hint": "begins with sk-, and has letters, digits, _ and - alone", "prefix": "sk-", "minLength": 23, "maxLength": 256, "canVerify": true, "isStored": false}]}'
);

select keelson.route(
    'POST user/api-keys/verify',
    'keelson.user_api_key_verify',
    rate_class => 'api',
    pool => 'upstream',
    errors => '{NOT_FOUND, CONFLICT, UPSTREAM_FAILED}',
    examples => '{"request": {"service": "openai"}, "response": {"service": "openai", "keyName": "mine", "maskedKey": "sk-…abcd", "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "lastUsedAt": "2025-01-15T00:00:00Z", "verified": true, "verifiedAt": "2025-01-15T00:00:00Z"}}'
);
