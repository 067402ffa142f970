-- The part of incoming webhooks in the core's jobs.

select keelson.job_step('retry-failed-webhooks', 'retried', 'keelson._failed_webhooks_retry');
select keelson.job_step('cleanup-database', 'processedWebhooks', 'keelson._processed_webhooks_purge');
select keelson.job_step('cleanup-database', 'resolvedFailedWebhooks', 'keelson._resolved_webhooks_purge');
select keelson.job_step('housekeeping', 'stripeSubscriptions', 'keelson._stripe_subscriptions_purge');
select keelson.job_step('housekeeping', 'exhaustedWebhooks', 'keelson._exhausted_webhooks_purge');
select keelson.job_step('housekeeping', 'webhookVersions', 'keelson._webhook_versions_purge');
