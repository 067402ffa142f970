-- The core's jobs. Capabilities add their steps in jobs.sql files of their own.

select keelson.job('expire-trials', '0 0 * * *', 'End the trials whose time is over.', counts => '{trials}');

select keelson.job('cleanup-database', '0 2 * * *',
    'Remove used and expired reset tokens, remnants of rate limits, processed webhook events, audit events past retention, resolved failed webhooks.',
    batch => 5000,
    counts => '{passwordResetTokens, rateLimits, processedWebhooks, auditLogs, resolvedFailedWebhooks}');

-- One at a time: each is a transaction.
select keelson.job('retry-failed-webhooks', '*/15 * * * *', 'Process incoming webhook events again that have failed and are due.', batch => 1,
    counts => '{retried}');

select keelson.job('partitions', '20 1 * * *', 'Make partitions ahead; the keeper does so too.');

select keelson.job('rotation', '40 3 * * *', 'Re-seal under the newest master key.');

select keelson.job('erasure', '10 3 * * *', 'Erase users whose retention period is over.');

select keelson.job('statistics', '50 1 * * *', 'Refresh the planner''s statistics of the partitioned tables, which autovacuum leaves alone; count what metrics tell of a day.');
select keelson.job_step('statistics', 'tables', 'keelson._statistics_refresh');

select keelson.job('housekeeping', '30 3 * * *', 'Remove the records of old runs of jobs, one-time tokens that are spent, old mails and alerts.');
select keelson.job_step('housekeeping', 'jobRuns', 'keelson._job_runs_purge');
select keelson.job_step('housekeeping', 'cronRuns', 'keelson._cron_history_purge');
