-- migration 1: rules and alerts

create table keelson.alert_rules (
    name text not null,
    description text not null,
    function text not null,
    threshold numeric not null,
    quiet_for interval not null default '6 hours',
    is_enabled boolean not null default true,
    evaluated_at timestamptz,
    alerted_at timestamptz,
    constraint alert_rules_pkey primary key (name),
    constraint alert_rules_name_check check (name ~ '^[a-z][a-z0-9]*(-[a-z0-9]+)*$' and pg_catalog.char_length(name) <= 48),
    constraint alert_rules_threshold_check check (threshold >= 0),
    constraint alert_rules_quiet_for_check check (quiet_for between interval '0' and interval '30 days')
);
comment on table keelson.alert_rules is
    'What administrators are told of. The job alerts evaluates each rule; threshold, quiet_for and is_enabled are the operator''s to set, by keelson.alert_rule_set().';
comment on column keelson.alert_rules.function is
    'A function of (threshold numeric, since timestamptz): what is wrong, in words, or null.';
comment on column keelson.alert_rules.threshold is 'From how much on it is wrong; of what, the description says.';
comment on column keelson.alert_rules.quiet_for is
    'After an alert nobody is told of another of this rule for so long; one that goes on is told once.';
comment on column keelson.alert_rules.evaluated_at is 'When it was last evaluated: what has happened since is looked at next.';
comment on column keelson.alert_rules.alerted_at is 'When administrators were last told.';

create table keelson.alerts (
    id uuid not null,
    rule text not null,
    message text not null,
    raised_at timestamptz not null default pg_catalog.now(),
    told_at timestamptz,
    resolved_at timestamptz,
    constraint alerts_pkey primary key (id),
    constraint alerts_rule_fkey foreign key (rule) references keelson.alert_rules (name) on delete cascade
);
create unique index alerts_rule_idx on keelson.alerts (rule) where resolved_at is null;
create index alerts_resolved_at_idx on keelson.alerts (resolved_at) where resolved_at is not null;
comment on table keelson.alerts is
    'What was found wrong, for 90 days. A rule has one alert at a time that goes on.';
comment on column keelson.alerts.message is 'What was wrong when it was found.';
comment on column keelson.alerts.told_at is 'When administrators were told; null: the rule was quiet.';
comment on column keelson.alerts.resolved_at is 'When it was found to be over; null: it goes on.';

-- migration 2: what is looked for, and counted once a day

create index deliveries_log_finished_at_idx on keelson.deliveries_log (finished_at) where state = 'exhausted';
comment on index keelson.deliveries_log_finished_at_idx is 'What was given up lately.';

create table keelson.daily_counts (
    day date not null,
    what text not null,
    label text not null,
    count bigint not null,
    constraint daily_counts_pkey primary key (what, label, day)
);
comment on table keelson.daily_counts is
    'What is too much to be counted whenever somebody asks: counted once a day, for metrics.';
comment on column keelson.daily_counts.day is 'In UTC, the day that was counted.';
comment on column keelson.daily_counts.what is
    'api_keys: the users'' keys by service, of that day. webhooks_failed, webhooks_recovered: deliveries of that day that were given up, or succeeded after a failure, by type of event.';
