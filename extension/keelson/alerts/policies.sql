-- Rules are data, for administrators; they are set by functions.

insert into keelson.alert_rules (name, description, function, threshold)
values
    ('reset-failures', 'More than so many per cent of today''s resets of passwords have failed.', 'keelson._alert_reset_failures', 50),
    ('unseal-failures', 'So many sealed values could not be opened.', 'keelson._alert_unseal_failures', 1),
    ('webhooks-exhausted', 'So many deliveries of webhooks were given up.', 'keelson._alert_webhooks_exhausted', 10),
    ('mails-failed', 'So many mails were refused, or could not be sent in time.', 'keelson._alert_mails_failed', 10),
    ('incoming-exhausted', 'So many incoming webhook events were given up today.', 'keelson._alert_incoming_exhausted', 6),
    ('large-cleanups', 'A run of a job has taken so many rows.', 'keelson._alert_large_cleanups', 100000),
    ('jobs-failed', 'The last runs of so many jobs have failed.', 'keelson._alert_jobs_failed', 1),
    ('jobs-missed', 'So many jobs were due and have not run.', 'keelson._alert_jobs_missed', 1),
    ('usage-behind', 'Usage events have waited for so many seconds to be folded.', 'keelson._alert_usage_behind', 600),
    ('issuer-keys', 'The keys of an issuer could not be fetched so many times in a row.', 'keelson._alert_issuer_keys', 5),
    ('upstreams-open', 'So many services that requests call do not answer.', 'keelson._alert_upstreams_open', 1)
on conflict on constraint alert_rules_pkey do update
set description = excluded.description, function = excluded.function
where (alert_rules.description, alert_rules.function) is distinct from (excluded.description, excluded.function);

insert into keelson.webhook_event_types (name, description, schema, sample, is_reserved)
values ('alert.raised', 'Something is wrong that administrators are told of; to the endpoints of those.',
    '{"type": "object", "properties": {"alertId": {"type": "string", "format": "uuid"}, "rule": {"type": "string"}, "message": {"type": "string"}}}',
    '{"alertId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "rule": "jobs-failed", "message": "jobs whose last run failed: erasure (failed)"}', true)
on conflict (name) do update
set description = excluded.description, schema = excluded.schema, sample = excluded.sample, is_reserved = excluded.is_reserved
where (webhook_event_types.description, webhook_event_types.schema, webhook_event_types.sample, webhook_event_types.is_reserved)
    is distinct from (excluded.description, excluded.schema, excluded.sample, excluded.is_reserved);

insert into keelson.audit_event_types (name, category, description, is_reserved)
values ('alert.raise', 'security', 'Administrators were told that something is wrong.', true)
on conflict (name) do update
set category = excluded.category, description = excluded.description, is_reserved = excluded.is_reserved
where (audit_event_types.category, audit_event_types.description, audit_event_types.is_reserved)
    is distinct from (excluded.category, excluded.description, excluded.is_reserved);

grant select on keelson.alert_rules, keelson.alerts to keelson_admin;
