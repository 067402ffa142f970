-- The second factors' part in the core's jobs.

select keelson.job_step('housekeeping', 'loginChallenges', 'keelson._challenges_purge');
