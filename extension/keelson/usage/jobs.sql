-- Metering's part in the core's jobs.

select keelson.job_step('partitions', 'usageEvents', 'keelson._usage_partitions_ahead');
