-- The users' own API keys for other services.

select keelson.route(
    'GET user/api-keys',
    'keelson.user_api_keys',
    examples => '{"response": [{"service": "openai", "keyName": "mine", "maskedKey": "sk-…abcd", "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "lastUsedAt": null}]}'
);

select keelson.route(
    'POST user/api-keys',
    'keelson.user_api_key_store',
    rate_class => 'api',
    examples => '{"request": {"service": "openai", "apiKey": "sk-examplekeyexamplekey", "keyName": "mine"}, "response": {"service": "openai", "keyName": "mine", "maskedKey": "sk-…ekey", "createdAt": "2025-01-15T00:00:00Z", "updatedAt": "2025-01-15T00:00:00Z", "lastUsedAt": null}}'
);

select keelson.route(
    'DELETE user/api-keys',
    'keelson.user_api_key_delete',
    rate_class => 'api',
    errors => '{NOT_FOUND}'
);
