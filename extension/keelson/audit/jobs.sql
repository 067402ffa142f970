-- The audit trail's part in the core's jobs.

select keelson.job_step('cleanup-database', 'auditLogs', 'keelson.audit_expire');
select keelson.job_step('partitions', 'auditEvents', 'keelson._audit_partitions_ahead');
select keelson.job_step('partitions', 'auditIndexes', 'keelson._audit_partitions_index');
