-- What users see of their usage.

do $types$
begin
    if pg_catalog.to_regtype('keelson.usage_period') is null then
        create type keelson.usage_period as (
            tier text,
            minutes_used numeric,
            minutes_limit numeric,
            minutes_remaining numeric,
            percent_used numeric,
            period_end timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.usage_feature_total') is null then
        create type keelson.usage_feature_total as (
            feature text,
            total_minutes numeric,
            request_count bigint,
            avg_minutes_per_request numeric
        );
    end if;
    if pg_catalog.to_regtype('keelson.usage_day') is null then
        create type keelson.usage_day as (
            date date,
            minutes numeric,
            requests bigint
        );
    end if;
    if pg_catalog.to_regtype('keelson.usage_all_time') is null then
        create type keelson.usage_all_time as (
            total_minutes numeric,
            total_requests bigint
        );
    end if;
    if pg_catalog.to_regtype('keelson.usage_analytics') is null then
        create type keelson.usage_analytics as (
            current_period keelson.usage_period,
            feature_breakdown keelson.usage_feature_total[],
            timeline keelson.usage_day[],
            all_time keelson.usage_all_time
        );
    end if;
    if pg_catalog.to_regtype('keelson.usage_live') is null then
        create type keelson.usage_live as (
            current_period keelson.usage_period,
            feature_breakdown keelson.usage_feature_total[],
            all_time keelson.usage_all_time
        );
    end if;
    if pg_catalog.to_regtype('keelson.usage_forecast') is null then
        create type keelson.usage_forecast as (
            period_start timestamptz,
            period_end timestamptz,
            minutes_used numeric,
            minutes_limit numeric,
            predicted_minutes numeric,
            lower_minutes numeric,
            upper_minutes numeric,
            confidence numeric,
            days_observed integer,
            limit_reached_at timestamptz
        );
    end if;
end
$types$;
comment on type keelson.usage_period is
    'A user''s usage in the current period.';
comment on column keelson.usage_period.tier is 'The user''s tier.';
comment on column keelson.usage_period.minutes_used is 'Exact, to the last event.';
comment on column keelson.usage_period.minutes_limit is 'What the tier allows; null for no limit.';
comment on column keelson.usage_period.minutes_remaining is 'What is left, not below 0; null for no limit.';
comment on column keelson.usage_period.percent_used is 'Of the limit, to two places, over 100 where a soft limit is passed; null for no limit.';
comment on column keelson.usage_period.period_end is 'When the next period begins.';
comment on type keelson.usage_feature_total is
    'A feature''s usage in the current period.';
comment on column keelson.usage_feature_total.feature is 'The feature''s name.';
comment on column keelson.usage_feature_total.total_minutes is 'What was used.';
comment on column keelson.usage_feature_total.request_count is 'In how many requests.';
comment on column keelson.usage_feature_total.avg_minutes_per_request is 'Rounded to four places.';
comment on type keelson.usage_day is
    'A day''s usage.';
comment on column keelson.usage_day.date is 'The day in the user''s time zone.';
comment on column keelson.usage_day.minutes is 'What was used, 0 on a day without.';
comment on column keelson.usage_day.requests is 'In how many requests.';
comment on type keelson.usage_all_time is
    'All that a user ever used.';
comment on column keelson.usage_all_time.total_minutes is 'What was used.';
comment on column keelson.usage_all_time.total_requests is 'In how many requests.';
comment on type keelson.usage_analytics is
    'A user''s usage: the current period as a whole and by feature, 30 days, all time.';
comment on column keelson.usage_analytics.current_period is 'The current period.';
comment on column keelson.usage_analytics.feature_breakdown is 'The current period by feature, the most used first.';
comment on column keelson.usage_analytics.timeline is 'The last 30 days with today, each of them, in the user''s time zone.';
comment on column keelson.usage_analytics.all_time is 'From the beginning.';
comment on type keelson.usage_live is
    'A user''s usage as it grows.';
comment on column keelson.usage_live.current_period is 'The current period.';
comment on column keelson.usage_live.feature_breakdown is 'The current period by feature, the most used first.';
comment on column keelson.usage_live.all_time is 'From the beginning.';
comment on type keelson.usage_forecast is
    'What a user''s usage will be at the end of the period, if it goes on as before.';
comment on column keelson.usage_forecast.period_start is 'When the period began.';
comment on column keelson.usage_forecast.period_end is 'When it ends.';
comment on column keelson.usage_forecast.minutes_used is 'So far.';
comment on column keelson.usage_forecast.minutes_limit is 'What the tier allows; null for no limit.';
comment on column keelson.usage_forecast.predicted_minutes is 'At the end of the period.';
comment on column keelson.usage_forecast.lower_minutes is 'The lower end of the interval, not below what is used; null with less than 7 days observed.';
comment on column keelson.usage_forecast.upper_minutes is 'The upper end of the interval; null with less than 7 days observed.';
comment on column keelson.usage_forecast.confidence is 'How likely it is, in the model, that the interval holds what will be: 0.9.';
comment on column keelson.usage_forecast.days_observed is 'Of how many whole days, up to 28, the prediction is made.';
comment on column keelson.usage_forecast.limit_reached_at is 'When the limit is reached at the predicted rate; null if not in this period.';

create or replace function keelson.user_analytics()
returns keelson.usage_analytics
language c
stable
as 'MODULE_PATHNAME', 'ks_user_analytics';
comment on function keelson.user_analytics() is
    'The usage of the user who is signed in: current period, features, the last 30 days without gaps, all time. Exact to the last event.';
grant execute on function keelson.user_analytics() to keelson_app;

create or replace function keelson.user_usage()
returns keelson.usage_live
language c
stable
as 'MODULE_PATHNAME', 'ks_user_usage';
comment on function keelson.user_usage() is
    'The usage of the user who is signed in, as an event stream: the current period, features and all time, whenever they have changed.';
grant execute on function keelson.user_usage() to keelson_app;

create or replace function keelson._usage_minutes(user_id uuid, feature text, since timestamptz, until timestamptz)
returns numeric
language c
stable
as 'MODULE_PATHNAME', 'ks_usage_minutes';
comment on function keelson._usage_minutes(uuid, text, timestamptz, timestamptz) is
    'The minutes that the user used of the feature (null: of all) from since until until, both taken down to the quarter of an hour; exact, what the transaction itself has recorded included.';

create or replace function keelson._usage_timeline(user_id uuid, time_zone text, moment timestamptz)
returns keelson.usage_day[]
language c
stable
strict
as 'MODULE_PATHNAME', 'ks_usage_timeline';
comment on function keelson._usage_timeline(uuid, text, timestamptz) is
    'The user''s usage in each of the 30 days of the time zone up to the one of the moment. A zone that the server does not know counts as UTC.';

create or replace function keelson.user_usage_export(since date default null, until date default null)
returns setof bytea
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    if since > until then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the first day is after the last', field => 'since');
    end if;
    return next convert_to(E'id,occurredAt,recordedAt,feature,minutes,requests\r\n', 'UTF8');
    -- A feature's name and all else is of letters, digits and few signs: nothing to be quoted, nothing a table would calculate.
    return query
    select convert_to(concat_ws(',',
        e.id,
        to_char(e.occurred_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        to_char(keelson._uuid7_time(e.id) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        e.feature, e.minutes, e.requests
    ) || E'\r\n', 'UTF8')
    from keelson.usage_events as e
    where e.user_id = keelson.current_user_id()
        and (since is null or e.occurred_at >= since::timestamp at time zone 'UTC')
        and (until is null or e.occurred_at < (until + 1)::timestamp at time zone 'UTC')
    order by e.id;
end
$$;
comment on function keelson.user_usage_export(date, date) is
    'The usage events of the user who is signed in as CSV (RFC 4180), those from day to day, UTC, or all that are kept.';
grant execute on function keelson.user_usage_export(date, date) to keelson_app;

create or replace function keelson.user_usage_forecast()
returns keelson.usage_forecast
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    forecast keelson.usage_forecast;
    me uuid := keelson.acting_user_id();
    -- Two-sided 90 % quantiles of Student's t for 1 to 27 degrees of freedom.
    quantiles constant numeric[] := '{6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771,
        1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703}';
    today date := (now() at time zone 'UTC')::date;
    first_day date;
    mean numeric;
    deviation numeric;
    days_left numeric;
    margin numeric;
begin
    select p.period_start, p.period_end, p.minutes_limit
    into forecast.period_start, forecast.period_end, forecast.minutes_limit
    from keelson._subscription_of(me) as p;
    forecast.minutes_used := keelson._usage_minutes(me, null, forecast.period_start, forecast.period_end);
    -- Whole days that lie back, from the first on which anything was used.
    select min(d.day) into first_day from keelson.usage_days as d where d.user_id = me and d.day >= today - 28;
    forecast.days_observed := coalesce(today - first_day, 0);
    if forecast.days_observed > 0 then
        select avg(coalesce(d.minutes, 0)), coalesce(stddev_samp(coalesce(d.minutes, 0)), 0)
        into mean, deviation
        from generate_series(1, forecast.days_observed) as n
        left join (
            select u.day, sum(u.minutes) as minutes from keelson.usage_days as u
            where u.user_id = me and u.day between first_day and today - 1
            group by u.day
        ) as d on d.day = today - n;
    else
        -- The first day: at its own rate.
        mean := keelson._usage_minutes(me, null, today::timestamp at time zone 'UTC', now() + interval '1 day');
        mean := mean / greatest(extract(epoch from now() - (today::timestamp at time zone 'UTC')) / 86400, 1.0 / 24);
    end if;
    days_left := greatest(extract(epoch from forecast.period_end - now()) / 86400, 0);
    forecast.predicted_minutes := round(forecast.minutes_used + mean * days_left, 2);
    forecast.confidence := 0.9;
    if forecast.days_observed >= 7 then
        -- For the sum of the days that are left: their own spread, and that of the mean of those observed.
        margin := quantiles[forecast.days_observed - 1] * deviation
            * sqrt(days_left + days_left * days_left / forecast.days_observed);
        forecast.lower_minutes := greatest(round(forecast.predicted_minutes - margin, 2), forecast.minutes_used);
        forecast.upper_minutes := round(forecast.predicted_minutes + margin, 2);
    end if;
    if forecast.minutes_limit <= forecast.minutes_used then
        forecast.limit_reached_at := now();
    elsif mean > 0 and forecast.predicted_minutes >= forecast.minutes_limit then
        forecast.limit_reached_at := date_trunc('minute', now()
            + make_interval(secs => ((forecast.minutes_limit - forecast.minutes_used) / mean * 86400)::double precision));
    end if;
    return forecast;
end
$$;
comment on function keelson.user_usage_forecast() is
    'What the usage of the user who is signed in will be at the end of the period: what is used, and the mean of the last 28 days for each day that is left, with a 90 % interval.';
grant execute on function keelson.user_usage_forecast() to keelson_app;

create or replace function keelson._usage_counters(out recorded bigint, out duplicates bigint, out folded bigint)
language c
volatile
as 'MODULE_PATHNAME', 'ks_usage_counters';
comment on function keelson._usage_counters() is
    'Events that were recorded, duplicates that were not counted again, and events that the keeper has folded, since the server started.';

create or replace function keelson._usage_unfolded_since()
returns timestamptz
language plpgsql
stable
as $$
declare
    mark keelson.usage_watermark;
    oldest uuid;
begin
    select * into mark from keelson.usage_watermark;
    -- The first of the tail, by the index that folding reads.
    select e.id into oldest
    from keelson.usage_events as e
    where e.id >= keelson._uuid7_floor(mark.tail_from::timestamp at time zone 'UTC')
        and (e.era, e.xid, e.id) > (mark.era, mark.xid, mark.event_id)
    order by e.era, e.xid, e.id
    limit 1;
    return keelson._uuid7_time(oldest);
end
$$;
comment on function keelson._usage_unfolded_since() is
    'When the first event was recorded that is not folded yet; null when all are.';

create or replace function keelson._alert_usage_behind(threshold numeric, since timestamptz)
returns text
language plpgsql
stable
as $$
declare
    waiting interval := pg_catalog.clock_timestamp() - keelson._usage_unfolded_since();
begin
    if extract(epoch from waiting) >= threshold then
        return pg_catalog.format('usage has not been folded for %s seconds', extract(epoch from waiting)::bigint);
    end if;
    return null;
end
$$;
comment on function keelson._alert_usage_behind(numeric, timestamptz) is
    'Usage events have waited for so many seconds, or more, to be folded.';

create or replace function keelson._usage_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language plpgsql
volatile
as $$
declare
    counted record := keelson._usage_counters();
begin
    return query values
        ('keelson_usage_events_total', null::jsonb, counted.recorded::double precision, 'counter', 'Usage events that were recorded.'),
        ('keelson_usage_duplicates_total', null, counted.duplicates, 'counter', 'Usage events that had been counted before, by their key.'),
        ('keelson_usage_folded_total', null, counted.folded, 'counter', 'Usage events that the keeper has folded into the rollups.'),
        ('keelson_usage_fold_lag_seconds', null,
            coalesce(greatest(extract(epoch from pg_catalog.clock_timestamp() - keelson._usage_unfolded_since()), 0), 0)::double precision,
            'gauge', 'How old the first usage event is that is not folded yet; 0 when all are.');
end
$$;
comment on function keelson._usage_metrics() is
    'Samples of metering: events, duplicates, and how far folding is behind.';
