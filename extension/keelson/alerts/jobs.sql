-- The evaluation of rules, and figures of a day.

select keelson.job('alerts', '*/5 * * * *', 'Tell administrators of what is wrong.');
select keelson.job_step('alerts', 'told', 'keelson._alerts_evaluate');
select keelson.job_step('housekeeping', 'alerts', 'keelson._alerts_purge');
select keelson.job_step('statistics', 'dailyCounts', 'keelson._daily_counts_take');
