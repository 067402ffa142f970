-- Identity's part in the core's jobs.

select keelson.job_step('erasure', 'users', 'keelson.users_erase');
select keelson.job_step('erasure', 'leftBehind', 'keelson.identity_purge');
