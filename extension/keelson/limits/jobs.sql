-- The limits' part in the core's jobs.

select keelson.job_step('cleanup-database', 'rateLimits', 'keelson._limits_remnants_purge');
