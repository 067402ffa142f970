-- Rules, evaluating them, telling administrators; figures of a day.

-- Rules. Each looks at what has happened since it was last evaluated, or at what is so now.

create or replace function keelson._alert_reset_failures(threshold numeric, since timestamptz)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    done bigint;
    failed bigint;
begin
    select coalesce(sum(d.count) filter (where d.what = 'reset_done'), 0), coalesce(sum(d.count) filter (where d.what = 'reset_failed'), 0)
    into done, failed
    from keelson.recovery_days as d
    where d.day = (now() at time zone 'UTC')::date;
    -- A handful of mistyped links is nobody's attack.
    if done + failed >= 10 and failed * 100 > threshold * (done + failed) then
        return format('%s of %s resets of a password have failed today', failed, done + failed);
    end if;
    return null;
end
$$;
comment on function keelson._alert_reset_failures(numeric, timestamptz) is
    'More than so many per cent of today''s resets of passwords have failed, of ten at least.';

create or replace function keelson._alert_unseal_failures(threshold numeric, since timestamptz)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    failures bigint;
begin
    select count(*) into failures
    from keelson.audit_events as e
    where e.id >= keelson._uuid7_floor(since) and e.outcome <> 'success' and e.event_type = 'security.unseal_failed';
    if failures >= threshold then
        return format('%s sealed values could not be opened', failures);
    end if;
    return null;
end
$$;
comment on function keelson._alert_unseal_failures(numeric, timestamptz) is
    'So many sealed values, or more, could not be opened: the keyring is not the right one, or somebody has tampered.';

create or replace function keelson._alert_webhooks_exhausted(threshold numeric, since timestamptz)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    exhausted bigint;
begin
    select count(*) into exhausted
    from keelson.deliveries_log as l
    where l.state = 'exhausted' and l.finished_at >= since and l.kind = 'webhook';
    if exhausted >= threshold then
        return format('%s deliveries of webhooks were given up', exhausted);
    end if;
    return null;
end
$$;
comment on function keelson._alert_webhooks_exhausted(numeric, timestamptz) is
    'So many deliveries of webhooks, or more, were given up.';

create or replace function keelson._alert_mails_failed(threshold numeric, since timestamptz)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    failed bigint;
begin
    select count(*) into failed
    from keelson.mail_messages as m
    where m.settled_at >= since and m.state in ('failed', 'expired');
    if failed >= threshold then
        return format('%s mails could not be sent', failed);
    end if;
    return null;
end
$$;
comment on function keelson._alert_mails_failed(numeric, timestamptz) is
    'So many mails, or more, were refused or could not be sent in time.';

create or replace function keelson._alert_incoming_exhausted(threshold numeric, since timestamptz)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    exhausted integer := (select d.exhausted from keelson.webhook_exhaustions as d where d.day = (now() at time zone 'UTC')::date);
begin
    if exhausted >= threshold then
        return format('%s incoming webhook events were given up today', exhausted);
    end if;
    return null;
end
$$;
comment on function keelson._alert_incoming_exhausted(numeric, timestamptz) is
    'So many incoming webhook events, or more, were given up on the day of now (UTC).';

create or replace function keelson._alert_large_cleanups(threshold numeric, since timestamptz)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select string_agg(format('the job %s has taken %s rows', r.job, r.total), '; ' order by r.job)
        from (
            select run.job, max(taken.total) as total
            from keelson.job_runs as run
            cross join lateral (select sum(c.value::numeric) as total from jsonb_each_text(run.counts) as c) as taken
            -- A run takes an hour at most.
            where run.id >= keelson._uuid7_floor(since - interval '1 hour') and run.finished_at >= since
                and run.outcome <> 'running' and taken.total >= threshold
            group by run.job
        ) as r
    );
end
$$;
comment on function keelson._alert_large_cleanups(numeric, timestamptz) is
    'A run of a job has taken so many rows, or more.';

create or replace function keelson._alert_jobs_failed(threshold numeric, since timestamptz)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    failing text[];
begin
    select array_agg(format('%s (%s)', j.name, j.last_outcome) order by j.name) into failing
    from keelson.job_states() as j
    where j.is_enabled and j.last_outcome in ('failed', 'crashed');
    if cardinality(failing) >= threshold then
        return 'jobs whose last run failed: ' || array_to_string(failing, ', ');
    end if;
    return null;
end
$$;
comment on function keelson._alert_jobs_failed(numeric, timestamptz) is
    'The last runs of so many jobs, or more, have failed or crashed.';

create or replace function keelson._alert_jobs_missed(threshold numeric, since timestamptz)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missed text[];
begin
    select array_agg(j.name order by j.name) into missed from keelson.job_states() as j where j.is_missed;
    if cardinality(missed) >= threshold then
        return 'jobs that were due and have not run: ' || array_to_string(missed, ', ');
    end if;
    return null;
end
$$;
comment on function keelson._alert_jobs_missed(numeric, timestamptz) is
    'So many jobs, or more, were due more than ten minutes ago and have not begun since.';

create or replace function keelson._alert_issuer_keys(threshold numeric, since timestamptz)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select 'issuers whose keys cannot be fetched: ' || string_agg(format('%s (%s)', i.issuer, f.error), ', ' order by i.issuer)
        from keelson.issuers as i
        join keelson.issuer_fetches as f on f.id = i.id
        where i.is_enabled and f.failures >= threshold
    );
end
$$;
comment on function keelson._alert_issuer_keys(numeric, timestamptz) is
    'The keys of an issuer could not be fetched so many times in a row, or more; those known before stay.';

create or replace function keelson._alert_upstreams_open(threshold numeric, since timestamptz)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    silent text[];
begin
    select array_agg(s.upstream order by s.upstream) into silent from keelson.upstream_status() as s where s.breaker <> 'closed';
    if cardinality(silent) >= threshold then
        return 'services that do not answer, so that calls are refused: ' || array_to_string(silent, ', ');
    end if;
    return null;
end
$$;
comment on function keelson._alert_upstreams_open(numeric, timestamptz) is
    'The circuit breakers of so many services that requests call, or more, are open.';

-- Evaluating.

create or replace function keelson._alerts_evaluate(batch integer)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    rule keelson.alert_rules;
    found_wrong text;
    told bigint := 0;
begin
    for rule in
        select r.* from keelson.alert_rules as r order by r.name for update
    loop
        begin
            found_wrong := null;
            if rule.is_enabled then
                execute format('select %s($1, $2)', rule.function)
                into found_wrong
                using rule.threshold, coalesce(rule.evaluated_at, now() - interval '5 minutes');
            end if;
            if keelson._alert_settle(rule.name, found_wrong) then
                told := told + 1;
            end if;
            update keelson.alert_rules as r set evaluated_at = now() where r.name = rule.name;
        exception when others then
            raise warning 'the alert rule "%" could not be evaluated: %', rule.name, sqlerrm;
        end;
    end loop;
    return told;
end
$$;
alter function keelson._alerts_evaluate(integer) owner to keelson_system;
comment on function keelson._alerts_evaluate(integer) is
    'Evaluate all rules, tell administrators of what is wrong and has not been told; returns of how many. A step of the job alerts.';

create or replace function keelson._alert_settle(rule_name text, message text)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    rule keelson.alert_rules;
    present keelson.alerts;
begin
    if message is null then
        update keelson.alerts as a set resolved_at = now() where a.rule = rule_name and a.resolved_at is null;
        return false;
    end if;
    select * into rule from keelson.alert_rules as r where r.name = rule_name;
    select * into present from keelson.alerts as a where a.rule = rule_name and a.resolved_at is null;
    if present.id is null then
        present.id := keelson.uuid7();
        insert into keelson.alerts (id, rule, message) values (present.id, rule_name, left(_alert_settle.message, 1000));
    end if;
    -- What goes on has been told; or it began while the rule was quiet, and that may be over.
    if present.told_at is not null or coalesce(rule.alerted_at > now() - rule.quiet_for, false) then
        return false;
    end if;
    update keelson.alerts as a set told_at = now() where a.id = present.id;
    update keelson.alert_rules as r set alerted_at = now() where r.name = rule_name;
    perform keelson._alert_tell(present.id, rule_name, message, rule.quiet_for);
    return true;
end
$$;
comment on function keelson._alert_settle(text, text) is
    'Take in what a rule has found, or null: whether administrators were told now. One cause is told once, and nothing while the rule is quiet.';

create or replace function keelson._alert_tell(alert_id uuid, rule text, message text, quiet_for interval)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    administrator record;
    words constant jsonb := jsonb_build_object('rule', rule, 'message', message, 'quiet', keelson._interval_words(quiet_for));
begin
    for administrator in
        select distinct u.id, u.email
        from keelson.user_roles as held
        join keelson.users as u on u.id = held.user_id
        where held.role in ('admin', 'owner') and u.kind = 'person' and u.status = 'active'
        order by u.id
    loop
        if administrator.email is not null then
            perform keelson._notice_to(administrator.id, administrator.email, 'alert', words, '1 day');
        end if;
        perform keelson.webhook_emit('alert.raised', jsonb_build_object(
            'alertId', alert_id, 'rule', rule, 'message', message
        ), administrator.id);
    end loop;
    perform keelson.audit('alert.raise', jsonb_build_object('alertId', alert_id, 'rule', rule, 'message', message));
end
$$;
comment on function keelson._alert_tell(uuid, text, text, interval) is
    'Tell every administrator and owner of an alert, by mail and by webhook.';

create or replace function keelson._interval_words(length interval)
returns text
language sql
immutable
strict
as $$
select case
    when seconds >= 172800 then pg_catalog.round(seconds / 86400) || ' days'
    when seconds >= 7200 then pg_catalog.round(seconds / 3600) || ' hours'
    else pg_catalog.round(seconds / 60) || ' minutes'
end
from (select pg_catalog.date_part('epoch', length)) as given (seconds)
$$;
comment on function keelson._interval_words(interval) is
    'A time as a person says it: 6 hours.';

create or replace function keelson.alert_rule_set(
    rule text,
    threshold numeric default null,
    quiet_for interval default null,
    is_enabled boolean default null
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._require(rule, 'rule');
    if threshold < 0 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a threshold is not negative', field => 'threshold');
    elsif quiet_for not between interval '0' and interval '30 days' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the quiet time is between nothing and 30 days', field => 'quiet_for');
    end if;
    update keelson.alert_rules as r
    set threshold = coalesce(alert_rule_set.threshold, r.threshold),
        quiet_for = coalesce(alert_rule_set.quiet_for, r.quiet_for),
        is_enabled = coalesce(alert_rule_set.is_enabled, r.is_enabled)
    where r.name = alert_rule_set.rule;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', format('there is no alert rule "%s"', rule),
            'select name from keelson.alert_rules lists them.', 'rule');
    end if;
    perform keelson.audit('config.change', jsonb_strip_nulls(jsonb_build_object(
        'what', 'alert rule', 'which', rule, 'threshold', threshold, 'quietFor', quiet_for::text, 'isEnabled', is_enabled,
        'databaseRole', session_user
    )));
end
$$;
comment on function keelson.alert_rule_set(text, numeric, interval, boolean) is
    'Change from how much on administrators are told, for how long they are not told again, or whether at all. What is not given stays.';
grant execute on function keelson.alert_rule_set(text, numeric, interval, boolean) to keelson_admin;

create or replace function keelson._alerts_purge(batch integer)
returns bigint
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$ select keelson._purge('keelson.alerts', 'resolved_at', now() - interval '90 days', batch) $$;
alter function keelson._alerts_purge(integer) owner to keelson_system;
comment on function keelson._alerts_purge(integer) is
    'Delete alerts that were over 90 days ago, at most so many; returns how many.';
