-- The recovery's part in the core's jobs.

select keelson.job_step('cleanup-database', 'passwordResetTokens', 'keelson._reset_tokens_purge');
select keelson.job_step('housekeeping', 'oneTimeTokens', 'keelson._recovery_tokens_purge');
select keelson.job_step('housekeeping', 'expiredMails', 'keelson._mails_expire');
select keelson.job_step('housekeeping', 'settledMails', 'keelson._mails_purge');
