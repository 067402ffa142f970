-- Figures that are counted once a day, and the samples of them.

create or replace function keelson._daily_counts_take(batch integer)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    today date := (now() at time zone 'UTC')::date;
    yesterday date := today - 1;
begin
    delete from keelson.daily_counts as c where c.day < today - 400;
    insert into keelson.daily_counts as c (day, what, label, count)
    select today, 'api_keys', s.service, count(k.service)
    from keelson.api_key_services as s
    left join keelson.user_api_keys as k on k.service = s.service
    group by s.service
    on conflict on constraint daily_counts_pkey do update set count = excluded.count;
    -- The day that is over: its partition does not change any more.
    insert into keelson.daily_counts as c (day, what, label, count)
    select yesterday, case when l.state = 'exhausted' then 'webhooks_failed' else 'webhooks_recovered' end, e.event_type, count(*)
    from keelson.deliveries_log as l
    join keelson.webhook_events as e on e.user_id = l.user_id and e.id = l.ref
    where l.kind = 'webhook'
        and l.id >= keelson._uuid7_floor(yesterday::timestamp at time zone 'UTC')
        and l.id < keelson._uuid7_floor(today::timestamp at time zone 'UTC')
        and (l.state = 'exhausted' or l.state = 'delivered' and l.attempts > 1)
    group by 2, 3
    on conflict on constraint daily_counts_pkey do update set count = excluded.count;
    return 0;
end
$$;
alter function keelson._daily_counts_take(integer) owner to keelson_system;
comment on function keelson._daily_counts_take(integer) is
    'Count what metrics tell of a day: keys per service today, webhooks of yesterday that failed or succeeded in the end. Again: the same. A step of the job statistics.';

create or replace function keelson._alert_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language sql
stable
as $$
select 'keelson_alerts_active', pg_catalog.jsonb_build_object('rule', r.name), count(a.id)::double precision, 'gauge',
    'Whether what the rule looks for is wrong now.'
from keelson.alert_rules as r
left join keelson.alerts as a on a.rule = r.name and a.resolved_at is null
where r.is_enabled
group by r.name
union all
select 'keelson_password_resets_total', pg_catalog.jsonb_build_object('outcome', pg_catalog.substr(d.what, 7)), sum(d.count)::double precision, 'counter',
    'Resets of passwords: requested, done, failed (a token that was none), expired.'
from keelson.recovery_days as d
group by d.what
union all
select 'keelson_mails', pg_catalog.jsonb_build_object('state', 'pending'), count(*)::double precision, 'gauge', 'Mails that wait to be sent.'
from (select from keelson.mail_messages as m where m.state = 'pending' limit 10000) as waiting
union all
select 'keelson_api_keys', pg_catalog.jsonb_build_object('service', c.label), c.count::double precision, 'gauge',
    'The users'' API keys by service, as of the last night.'
from keelson.daily_counts as c
where c.what = 'api_keys' and c.day = (select max(latest.day) from keelson.daily_counts as latest where latest.what = 'api_keys')
union all
select 'keelson_' || c.what || '_total', pg_catalog.jsonb_build_object('event', c.label), sum(c.count)::double precision, 'counter',
    case c.what when 'webhooks_failed' then 'Deliveries of webhooks that were given up, by type of event, until the last night.'
        else 'Deliveries of webhooks that succeeded after a failure, by type of event, until the last night.' end
from keelson.daily_counts as c
where c.what in ('webhooks_failed', 'webhooks_recovered')
group by c.what, c.label
$$;
comment on function keelson._alert_metrics() is
    'Samples of alerts, resets of passwords, mails, API keys and webhooks.';
