-- The limits that a new installation has; what an operator has changed stays.
insert into keelson.rate_limits (name, rate_class, counted_by, max_requests, time_window, is_adaptive, description)
values
    ('general', 'general', 'caller', 100, '1 minute', true, 'All requests of a user, or of an address where nobody is signed in'),
    ('api', 'api', 'caller', 30, '1 minute', true, 'Requests that write or compute'),
    ('auth', 'auth', 'ip', 5, '15 minutes', false, 'Signing in and up; a login that succeeds is given back'),
    ('reset', 'reset', 'ip', 3, '10 minutes', false, 'Mails that anybody can ask for, by address of the client'),
    ('reset_email', 'reset', 'email', 3, '10 minutes', false, 'Mails that anybody can ask for, by address of the mail'),
    ('email_change', 'custom', 'key', 5, '1 hour', false, 'Changes that a user asks for of the own address: each mails to the new one'),
    ('captcha_login', 'custom', 'key', 10, '1 hour', false, 'Logins of an address that fail before a CAPTCHA is asked for, where one is configured'),
    ('captcha_register', 'custom', 'key', 3, '1 hour', false, 'Registrations of an address that need no CAPTCHA, where one is configured')
on conflict (name) do nothing;

insert into keelson.block_rules (signal, max_count, time_window, block_for, description)
values
    ('refusals', 300, '1 minute', '15 minutes', 'Went on although rate limits refused it'),
    ('accounts', 100, '1 hour', '1 hour', 'Tried too many accounts')
on conflict (signal) do nothing;

insert into keelson.load_signals (signal, calm_at, full_at, is_enabled, description)
values
    ('connections', 80, 100, false, 'How much of the gateways'' connections is busy, in percent'),
    ('latency', 50, 500, false, 'The mean time of a request in the dispatcher, in milliseconds'),
    ('queue', 16, 256, false, 'How many requests wait in the gateways')
on conflict (signal) do nothing;

create or replace trigger rate_limits_changed
after insert or update or delete or truncate on keelson.rate_limits
for each statement execute function keelson._limits_changed();
create or replace trigger tier_rate_limits_changed
after insert or update or delete or truncate on keelson.tier_rate_limits
for each statement execute function keelson._limits_changed();
create or replace trigger block_rules_changed
after insert or update or delete or truncate on keelson.block_rules
for each statement execute function keelson._limits_changed();
create or replace trigger tier_ranks_changed
after insert or update or delete or truncate on keelson.tier_ranks
for each statement execute function keelson._limits_changed();
create or replace trigger blocks_changed
after insert or update or delete or truncate on keelson.blocks
for each statement execute function keelson._limits_changed();
create or replace trigger exempt_networks_changed
after insert or update or delete or truncate on keelson.exempt_networks
for each statement execute function keelson._limits_changed();

select keelson._user_policies('keelson.user_rate_limits');
select keelson._user_policies('keelson.rate_limit_violations');

grant select on keelson.rate_limits, keelson.tier_rate_limits, keelson.tier_ranks, keelson.exempt_networks,
    keelson.blocks, keelson.block_rules, keelson.load_signals to keelson_admin;
