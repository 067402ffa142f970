-- Jobs: how they are, and running them by a scheduler outside of the database.

select keelson.route(
    'GET admin/jobs',
    'keelson.admin_jobs',
    permission => 'jobs.read',
    rate_class => 'api'
);

select keelson.route(
    'GET admin/jobs/:name/runs',
    'keelson.admin_job_runs',
    permission => 'jobs.read',
    errors => '{NOT_FOUND}'
);

-- By GET too: schedulers of hosting platforms know nothing else.
do $routes$
declare
    endpoint record;
begin
    for endpoint in
        select method, template, function
        from (values ('POST'), ('GET')) as methods (method)
        cross join (values
            ('cron/expire-trials', 'keelson.cron_expire_trials'),
            ('cron/cleanup-database', 'keelson.cron_cleanup_database'),
            ('cron/retry-failed-webhooks', 'keelson.cron_retry_failed_webhooks')
        ) as jobs (template, function)
    loop
        perform keelson.route(
            endpoint.method || ' ' || endpoint.template,
            endpoint.function,
            scope => 'jobs.run',
            timeout => '10 minutes',
            pool => 'slow',
            errors => '{CONFLICT}'
        );
    end loop;
end
$routes$;
