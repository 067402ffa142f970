-- The keyring's part in the core's jobs.

select keelson.job_step('rotation', 'values', 'keelson._keyring_rewrap_job');
