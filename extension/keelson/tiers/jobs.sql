-- The clockwork's part in the core's jobs.

select keelson.job_step('expire-trials', 'trials', 'keelson._trials_expire');

select keelson.job('roll-over-periods', '5 * * * *', 'Write down the periods and the changes of tier that have begun, and what trials and reservations have ended.');
select keelson.job_step('roll-over-periods', 'changes', 'keelson._tier_changes_apply');
select keelson.job_step('roll-over-periods', 'periods', 'keelson._periods_roll');
select keelson.job_step('roll-over-periods', 'reservations', 'keelson._quota_reservations_expire');
