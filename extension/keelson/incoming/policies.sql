-- Who may see what of incoming webhooks; presets, the core's sources and handlers.

-- Nobody but keelson_system looks across users.
alter table keelson.stripe_links enable row level security;
alter table keelson.stripe_links force row level security;

grant select on keelson.webhook_presets, keelson.webhook_sources, keelson.webhook_handlers, keelson.webhook_rejections,
    keelson.incoming_events, keelson.failed_webhook_events, keelson.webhook_exhaustions, keelson.stripe_prices, keelson.stripe_subscriptions
    to keelson_admin;
grant select (source, id, expires_at, created_at) on keelson.webhook_source_secrets to keelson_admin;

insert into keelson.webhook_presets (name, description, settings)
values
    ('stripe', 'Stripe: HMAC-SHA-256 over time and body, under the whole secret.', '{
        "schemes": [{"algorithm": "hmac-sha256", "header": "stripe-signature", "format": "pairs", "signatureKey": "v1", "timestampKey": "t", "content": "{timestamp}.{body}"}],
        "id": ["body:id"], "type": "body:type", "occurredAt": "body:created"
    }'),
    ('github', 'GitHub: HMAC-SHA-256 over the body.', '{
        "schemes": [{"algorithm": "hmac-sha256", "header": "x-hub-signature-256", "prefix": "sha256="}],
        "id": ["header:x-github-delivery"], "type": "header:x-github-event", "headers": ["x-github-event", "x-github-delivery", "x-github-hook-id"]
    }'),
    ('shopify', 'Shopify: HMAC-SHA-256 over the body, in base64.', '{
        "schemes": [{"algorithm": "hmac-sha256", "header": "x-shopify-hmac-sha256", "encoding": "base64"}],
        "id": ["header:x-shopify-event-id", "header:x-shopify-webhook-id"], "type": "header:x-shopify-topic", "occurredAt": "header:x-shopify-triggered-at",
        "headers": ["x-shopify-topic", "x-shopify-shop-domain", "x-shopify-api-version", "x-shopify-triggered-at", "x-shopify-webhook-id"]
    }'),
    ('gohighlevel', 'GoHighLevel: Ed25519 over the body with the platform''s key, RSA until September 2026, or a shared secret in a header.', '{
        "schemes": [
            {"algorithm": "ed25519", "header": "x-ghl-signature", "encoding": "base64", "keys": ["MCowBQYDK2VwAyEAi2HR1srL4o18O8BRa7gVJY7G7bupbN3H9AwJrHCDiOg="]},
            {"algorithm": "rsa-sha256", "header": "x-wh-signature", "encoding": "base64", "unlessHeader": "x-ghl-signature", "until": "2026-09-01T00:00:00Z", "keys": ["MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEAokvo/r9tVgcfZ5DysOSCFrm602qYV0MaAiNnX9O8KxMbiyRKWeL9JpCpVpt4XHIcBOK4u3cLSqJGOLaPuXw6dO0t6Q/ZVdAV5Phz+ZtzPL16iCGeK9po6D6JHBpbi989mmzMryUnQJezlYJ3DVfBcsedpinheNnyYeFXolrJvcsjDtfAeRx5ByHQmTnSdFUzuAnC9/GepgLT9SM4nCpvuxmZMxrJt5Rw+VUaQ9B8JSvbMPpez4peKaJPZHBbU3OdeCVx5klVXXZQGNHOs8gF3kvoV5rTnXV0IknLBXlcKKAQLZcY/Q9rG6Ifi9c+5vqlvHPCUJFT5XUGG5RKgOKUJ062fRtN+rLYZUV+BjafxQauvC8wSWeYja63VSUruvmNj8xkx2zE/Juc+yjLjTXpIocmaiFeAO6fUtNjDeFVkhf5LNb59vECyrHD2SQIrhgXpO4Q3dVNA5rw576PwTzNh/AMfHKIjE4xQA1SZuYJmNnmVZLIZBlQAF9Ntd03rfadZ+yDiOXCCs9FkHibELhCHULgCsnuDJHcrGNd5/Ddm5hxGQ0ASitgHeMZ0kcIOwKDOzOU53lDza6/Y09T7sYJPQe7z0cvj7aE4B+Ax1ZoZGPzpJlZtGXCsu9aTEGEnKzmsFqwcSsnw3JB31IGKAykT1hhTiaCeIY/OwwwNUY2yvcCAwEAAQ=="]},
            {"algorithm": "token", "header": "x-webhook-secret"}
        ],
        "id": ["body:webhookId", "hash"], "type": "body:type", "occurredAt": "body:timestamp", "tolerance": 300
    }'),
    ('standard', 'Standard Webhooks 1.0: HMAC-SHA-256 (v1) or Ed25519 (v1a) over id, time and body.', '{
        "schemes": [
            {"algorithm": "hmac-sha256", "header": "webhook-signature", "format": "list", "signatureKey": "v1", "encoding": "base64", "key": "whsec", "content": "{id}.{timestamp}.{body}", "idHeader": "webhook-id", "timestampHeader": "webhook-timestamp"},
            {"algorithm": "ed25519", "header": "webhook-signature", "format": "list", "signatureKey": "v1a", "encoding": "base64", "content": "{id}.{timestamp}.{body}", "idHeader": "webhook-id", "timestampHeader": "webhook-timestamp"}
        ],
        "id": ["header:webhook-id"], "type": "body:type", "occurredAt": "body:timestamp"
    }'),
    ('hmac', 'HMAC-SHA-256 over the body, in hexadecimal, in X-Signature; a source''s settings say what is otherwise.', '{
        "schemes": [{"algorithm": "hmac-sha256", "header": "x-signature"}],
        "id": ["body:id", "hash"], "type": "body:type"
    }')
on conflict on constraint webhook_presets_pkey do update
set description = excluded.description, settings = excluded.settings
where (webhook_presets.description, webhook_presets.settings) is distinct from (excluded.description, excluded.settings);

insert into keelson.webhook_sources (name, preset, server_secret, is_enabled)
values
    ('stripe', 'stripe', 'stripe_webhook_secret', true),
    -- Its signatures say that GoHighLevel has sent it, not to whom: to be switched on by who looks at the location.
    ('ghl', 'gohighlevel', null, false)
on conflict on constraint webhook_sources_pkey do nothing;

insert into keelson.keyring_uses (name, kind, relation, key_column, id_column, purpose, loss)
values ('webhook secrets', 'sealed', 'keelson.webhook_source_secrets', 'secret', 'id', 'webhook-secret',
    'Secrets of incoming webhooks'' sources: they are to be set again.')
on conflict (name) do update
set kind = excluded.kind, relation = excluded.relation, key_column = excluded.key_column, id_column = excluded.id_column,
    purpose = excluded.purpose, loss = excluded.loss;

insert into keelson.keyring_uses (name, kind, lifetime, loss)
values ('checkout references', 'token', '31 days',
    'Who pays by a link that was made before and not followed since is not known: keelson.stripe_link() says who it is.')
on conflict (name) do update
set kind = excluded.kind, lifetime = excluded.lifetime, loss = excluded.loss;

insert into keelson.audit_event_types (name, category, description, is_reserved)
values
    ('webhook.exhausted', 'webhooks', 'More than five incoming webhook events were given up in a day.', true),
    ('webhook.failed', 'webhooks', 'An incoming webhook event that had failed was retried or dismissed by hand.', true)
on conflict (name) do update
set category = excluded.category, description = excluded.description, is_reserved = excluded.is_reserved
where (audit_event_types.category, audit_event_types.description, audit_event_types.is_reserved)
    is distinct from (excluded.category, excluded.description, excluded.is_reserved);

insert into keelson.permissions (name, description)
values ('webhooks.configure', 'Say who may send webhooks, and with which secrets')
on conflict (name) do update set description = excluded.description
where permissions.description <> excluded.description;

-- Only what is new with this version of the code is granted.
insert into keelson.role_permissions (role, permission)
select 'admin', 'webhooks.configure'
where not exists (select from keelson.installation)
    or not exists (select from keelson.role_permissions as held where held.permission = 'webhooks.configure')
on conflict do nothing;

insert into keelson.role_permissions (role, permission)
values ('owner', 'webhooks.configure')
on conflict do nothing;

select keelson.webhook_handler('stripe', h.event_type, h.function)
from (values
    ('checkout.session.completed', 'keelson._stripe_checkout'),
    ('customer.subscription.created', 'keelson._stripe_subscription'),
    ('customer.subscription.updated', 'keelson._stripe_subscription'),
    ('customer.subscription.deleted', 'keelson._stripe_subscription'),
    ('invoice.payment_failed', 'keelson._stripe_invoice'),
    ('invoice.payment_succeeded', 'keelson._stripe_invoice'),
    ('invoice.paid', 'keelson._stripe_invoice')
) as h (event_type, function);
