-- Rate limits: what database administrators set.

create or replace function keelson.rate_limit_set(
    name text,
    max_requests integer default null,
    time_window interval default null,
    rate_class text default null,
    counted_by text default null,
    is_enabled boolean default null,
    is_shadow boolean default null,
    is_adaptive boolean default null,
    description text default null
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted keelson.rate_limits;
begin
    select * into wanted from keelson.rate_limits as l where l.name = rate_limit_set.name;
    if not found then
        wanted.name := name;
        wanted.rate_class := 'custom';
        wanted.counted_by := 'key';
        wanted.is_enabled := true;
        wanted.is_shadow := false;
        wanted.is_adaptive := false;
        wanted.description := '';
        if max_requests is null or time_window is null then
            perform keelson.raise(400, 'VALIDATION_FAILED', 'a new rate limit needs a number of requests and a window');
        end if;
    end if;
    wanted.max_requests := coalesce(max_requests, wanted.max_requests);
    wanted.time_window := coalesce(time_window, wanted.time_window);
    wanted.rate_class := coalesce(rate_class, wanted.rate_class);
    wanted.counted_by := coalesce(counted_by, wanted.counted_by);
    wanted.is_enabled := coalesce(is_enabled, wanted.is_enabled);
    wanted.is_shadow := coalesce(is_shadow, wanted.is_shadow);
    wanted.is_adaptive := coalesce(is_adaptive, wanted.is_adaptive);
    wanted.description := coalesce(description, wanted.description);
    wanted.updated_at := now();
    perform keelson._limit_check(wanted.max_requests, wanted.time_window);
    insert into keelson.rate_limits as l select wanted.*
    on conflict on constraint rate_limits_pkey do update
    set max_requests = excluded.max_requests,
        time_window = excluded.time_window,
        rate_class = excluded.rate_class,
        counted_by = excluded.counted_by,
        is_enabled = excluded.is_enabled,
        is_shadow = excluded.is_shadow,
        is_adaptive = excluded.is_adaptive,
        description = excluded.description,
        updated_at = excluded.updated_at;
    -- What the decision of one request takes at most, with room for those that its function takes.
    if (
        select max(of_class.met)
        from (
            select count(*) filter (where l.rate_class = 'general') + greatest(
                count(*) filter (where l.rate_class = 'api'),
                count(*) filter (where l.rate_class = 'auth'),
                count(*) filter (where l.rate_class = 'reset')
            ) as met
            from keelson.rate_limits as l
            where l.is_enabled
        ) as of_class
    ) > 12 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a request would meet more than 12 rate limits');
    end if;
    perform keelson._limits_audit('rate limit', to_jsonb(wanted) - 'updated_at');
end
$$;
comment on function keelson.rate_limit_set(text, integer, interval, text, text, boolean, boolean, boolean, text) is
    'Change a rate limit, or make one; what is null stays as it is. A new one is of the class custom unless it says otherwise. Holds for the next request.';
grant execute on function keelson.rate_limit_set(text, integer, interval, text, text, boolean, boolean, boolean, text) to keelson_admin;

create or replace function keelson._limit_check(max_requests integer, time_window interval)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if max_requests not between 1 and 1000000000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a rate limit allows 1 to 1,000,000,000 requests', field => 'max_requests');
    end if;
    if time_window not between '1 second' and '31 days' or time_window <> date_trunc('second', time_window) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the window of a rate limit lasts from a second to 31 days, in whole seconds',
            field => 'time_window');
    end if;
end
$$;
comment on function keelson._limit_check(integer, interval) is
    'Raise 400 unless a limit can say this.';

create or replace function keelson._limits_audit(what text, detail jsonb, user_id uuid default null)
returns void
language plpgsql
as $$
begin
    perform keelson.audit(
        'config.change', pg_catalog.jsonb_build_object('what', what, 'databaseRole', session_user) || pg_catalog.jsonb_strip_nulls(detail),
        user_id => user_id
    );
end
$$;
comment on function keelson._limits_audit(text, jsonb, uuid) is
    'Record a change of the rules in the audit trail.';

create or replace function keelson.rate_limit_override(
    name text,
    max_requests integer default null,
    time_window interval default null,
    tier text default null,
    who text default null,
    access_key_id uuid default null,
    is_exempt boolean default false,
    reason text default '',
    expires_at timestamptz default null
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from keelson.rate_limits as l where l.name = rate_limit_override.name) then
        perform keelson.raise(404, 'NOT_FOUND', format('rate limit "%s" does not exist', name), field => 'name');
    end if;
    if (tier is null) = (who is null) or (who is null and access_key_id is not null) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an override is for a tier or for a user, who may have an access key');
    end if;
    if is_exempt <> (max_requests is null) or (is_exempt and time_window is not null) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an override says how many requests, or that there is no limit', field => 'max_requests');
    end if;
    perform keelson._limit_check(max_requests, time_window);
    if expires_at <= now() then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'it would have expired already', field => 'expires_at');
    end if;
    if tier is not null then
        if expires_at is not null then
            perform keelson.raise(400, 'VALIDATION_FAILED', 'what holds for a tier does not expire', field => 'expires_at');
        end if;
        insert into keelson.tier_rate_limits (tier, name, max_requests, time_window)
        values (
            rate_limit_override.tier, rate_limit_override.name, rate_limit_override.max_requests,
            rate_limit_override.time_window
        )
        on conflict on constraint tier_rate_limits_pkey do update
        set max_requests = excluded.max_requests, time_window = excluded.time_window, updated_at = now();
    else
        insert into keelson.user_rate_limits
            (user_id, access_key_id, name, max_requests, time_window, reason, created_by, expires_at)
        values (
            keelson._user_find(who),
            coalesce(rate_limit_override.access_key_id, '00000000-0000-0000-0000-000000000000'),
            rate_limit_override.name, rate_limit_override.max_requests, rate_limit_override.time_window,
            coalesce(rate_limit_override.reason, ''), keelson.current_user_id(), rate_limit_override.expires_at
        )
        on conflict on constraint user_rate_limits_pkey do update
        set max_requests = excluded.max_requests,
            time_window = excluded.time_window,
            reason = excluded.reason,
            created_by = excluded.created_by,
            created_at = now(),
            expires_at = excluded.expires_at;
        perform keelson._user_rate_limits_changed();
    end if;
    perform keelson._limits_audit('override of a rate limit', jsonb_build_object(
        'name', name, 'tier', tier, 'maxRequests', max_requests, 'timeWindow', time_window, 'isExempt', is_exempt,
        'accessKeyId', access_key_id, 'reason', reason, 'expiresAt', expires_at
    ), case when who is not null then keelson._user_find(who) end);
end
$$;
comment on function keelson.rate_limit_override(text, integer, interval, text, text, uuid, boolean, text, timestamptz) is
    'Say what a rate limit is for a tier, for a user (e-mail address or id) or for one of the user''s access keys instead; is_exempt: none at all. Replaces what was said before.';
alter function keelson.rate_limit_override(text, integer, interval, text, text, uuid, boolean, text, timestamptz) owner to keelson_system;
grant execute on function keelson.rate_limit_override(text, integer, interval, text, text, uuid, boolean, text, timestamptz) to keelson_admin;

create or replace function keelson.rate_limit_override_remove(
    name text,
    tier text default null,
    who text default null,
    access_key_id uuid default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    removed integer;
begin
    if (tier is null) = (who is null) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an override is for a tier or for a user, who may have an access key');
    end if;
    if tier is not null then
        delete from keelson.tier_rate_limits as t
        where t.tier = rate_limit_override_remove.tier and t.name = rate_limit_override_remove.name;
        get diagnostics removed = row_count;
    else
        delete from keelson.user_rate_limits as u
        where u.user_id = keelson._user_find(who)
            and u.access_key_id = coalesce(rate_limit_override_remove.access_key_id, '00000000-0000-0000-0000-000000000000')
            and u.name = rate_limit_override_remove.name;
        get diagnostics removed = row_count;
        perform keelson._user_rate_limits_changed();
    end if;
    if removed > 0 then
        perform keelson._limits_audit('override of a rate limit', jsonb_build_object(
            'name', name, 'tier', tier, 'accessKeyId', access_key_id, 'isRemoved', true
        ), case when who is not null then keelson._user_find(who) end);
    end if;
    return removed > 0;
end
$$;
comment on function keelson.rate_limit_override_remove(text, text, text, uuid) is
    'Take the override away; false when there is none.';
alter function keelson.rate_limit_override_remove(text, text, text, uuid) owner to keelson_system;
grant execute on function keelson.rate_limit_override_remove(text, text, text, uuid) to keelson_admin;

create or replace function keelson._network_parse(network text)
returns cidr
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    parsed inet;
begin
    begin
        parsed := network::inet;
    exception when invalid_text_representation then
        parsed := null;
    end;
    if parsed is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'this is not an address or a network',
            'Write it as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/48.', 'network');
    elsif parsed <> pg_catalog.network(parsed) then
        perform keelson.raise(400, 'VALIDATION_FAILED',
            format('the network has bits to the right of its mask: write %s', pg_catalog.network(parsed)), field => 'network');
    end if;
    -- An IPv4 address in IPv6's clothes is the IPv4 address.
    if parsed <<= inet '::ffff:0:0/96' then
        parsed := set_masklen(
            (inet '0.0.0.0') + (set_masklen(parsed, 128) - inet '::ffff:0:0'), masklen(parsed) - 96
        );
    end if;
    if masklen(parsed) < (case family(parsed) when 4 then 8 else 16 end) or parsed >>= inet '::ffff:0:0/96' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the network is too wide: /8 is the widest for IPv4, /16 for IPv6',
            field => 'network');
    end if;
    return parsed::cidr;
end
$$;
comment on function keelson._network_parse(text) is
    'The network; 400 when the text is none, or would take in too much.';

create type keelson.block as (
    network text,
    reason text,
    is_automatic boolean,
    created_by uuid,
    created_at timestamptz,
    expires_at timestamptz
);
comment on type keelson.block is
    'A blocked address or network.';

create or replace function keelson.block_add(network text, reason text, expires_at timestamptz default null)
returns keelson.block
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted cidr := keelson._network_parse(network);
    present cidr;
    made keelson.block;
begin
    if coalesce(btrim(reason), '') = '' or char_length(reason) > 1000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a reason of at most 1,000 characters is needed', field => 'reason');
    end if;
    if expires_at <= now() then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'it would have expired already', field => 'expires_at');
    end if;
    if keelson.current_ip() <<= wanted then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'this would block your own address', field => 'network');
    end if;
    delete from keelson.blocks as b where b.network && wanted and b.expires_at <= now();
    select b.network into present from keelson.blocks as b where b.network && wanted order by b.network limit 1;
    if found then
        perform keelson.raise(409, 'CONFLICT', format('it overlaps with %s, which is blocked already', present),
            'Remove that block first.', 'network');
    end if;
    if (select count(*) from keelson.blocks) >= 100000 then
        perform keelson.raise(409, 'CONFLICT', 'there are 100,000 blocks already', 'Block networks rather than single addresses.');
    end if;
    insert into keelson.blocks as b (network, reason, created_by, expires_at)
    values (wanted, block_add.reason, keelson.current_user_id(), block_add.expires_at)
    returning b.network::text, b.reason, b.is_automatic, b.created_by, b.created_at, b.expires_at into made;
    perform keelson.audit('admin.block', jsonb_build_object(
        'network', made.network, 'reason', made.reason, 'expiresAt', made.expires_at, 'databaseRole', session_user
    ));
    return made;
end
$$;
comment on function keelson.block_add(text, text, timestamptz) is
    'Refuse all requests from an address or network, until the time or for good. 409 when it overlaps with another block.';
grant execute on function keelson.block_add(text, text, timestamptz) to keelson_admin;

create or replace function keelson.block_remove(network text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted cidr := keelson._network_parse(network);
begin
    delete from keelson.blocks as b where b.network = wanted;
    if not found then
        return false;
    end if;
    perform keelson.audit('admin.unblock', jsonb_build_object('network', wanted, 'databaseRole', session_user));
    return true;
end
$$;
comment on function keelson.block_remove(text) is
    'Take the block of exactly this address or network away; false when there is none. A gateway that remembers it lets requests through after 5 seconds at the latest.';
grant execute on function keelson.block_remove(text) to keelson_admin;

create or replace function keelson.network_exempt(network text, reason text, expires_at timestamptz default null)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted cidr := keelson._network_parse(network);
    present cidr;
begin
    if expires_at <= now() then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'it would have expired already', field => 'expires_at');
    end if;
    delete from keelson.exempt_networks as e where e.network && wanted and (e.network = wanted or e.expires_at <= now());
    select e.network into present from keelson.exempt_networks as e where e.network && wanted order by e.network limit 1;
    if found then
        perform keelson.raise(409, 'CONFLICT', format('it overlaps with %s, which is exempt already', present), field => 'network');
    end if;
    insert into keelson.exempt_networks (network, reason, created_by, expires_at)
    values (wanted, network_exempt.reason, keelson.current_user_id(), network_exempt.expires_at);
    perform keelson._limits_audit('exempt network', jsonb_build_object('network', wanted, 'reason', reason, 'expiresAt', expires_at));
end
$$;
comment on function keelson.network_exempt(text, text, timestamptz) is
    'Let no rate limit count requests from an address or network, until the time or for good. Replaces what was said of it before.';
grant execute on function keelson.network_exempt(text, text, timestamptz) to keelson_admin;

create or replace function keelson.network_exempt_remove(network text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted cidr := keelson._network_parse(network);
begin
    delete from keelson.exempt_networks as e where e.network = wanted;
    if not found then
        return false;
    end if;
    perform keelson._limits_audit('exempt network', jsonb_build_object('network', wanted, 'isRemoved', true));
    return true;
end
$$;
comment on function keelson.network_exempt_remove(text) is
    'End the exemption of exactly this address or network; false when there is none.';
grant execute on function keelson.network_exempt_remove(text) to keelson_admin;

create or replace function keelson.block_rule_set(
    signal text,
    max_count integer default null,
    time_window interval default null,
    block_for interval default null,
    is_enabled boolean default null
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._limit_check(max_count, time_window);
    if block_for not between '1 second' and '31 days' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an automatic block lasts from a second to 31 days', field => 'block_for');
    end if;
    update keelson.block_rules as b
    set max_count = coalesce(block_rule_set.max_count, b.max_count),
        time_window = coalesce(block_rule_set.time_window, b.time_window),
        block_for = coalesce(block_rule_set.block_for, b.block_for),
        is_enabled = coalesce(block_rule_set.is_enabled, b.is_enabled),
        updated_at = now()
    where b.signal = block_rule_set.signal;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', format('there is no automatic block for "%s"', signal),
            'They are the rows of keelson.block_rules.', 'signal');
    end if;
    perform keelson._limits_audit('automatic blocks', (
        select to_jsonb(b) - 'updated_at' from keelson.block_rules as b where b.signal = block_rule_set.signal
    ));
end
$$;
comment on function keelson.block_rule_set(text, integer, interval, interval, boolean) is
    'Change when addresses are blocked automatically, and for how long; what is null stays as it is.';
grant execute on function keelson.block_rule_set(text, integer, interval, interval, boolean) to keelson_admin;

create or replace function keelson.load_signal_set(
    signal text,
    calm_at double precision default null,
    full_at double precision default null,
    is_enabled boolean default null
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update keelson.load_signals as s
    set calm_at = coalesce(load_signal_set.calm_at, s.calm_at),
        full_at = coalesce(load_signal_set.full_at, s.full_at),
        is_enabled = coalesce(load_signal_set.is_enabled, s.is_enabled),
        updated_at = now()
    where s.signal = load_signal_set.signal;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', format('there is no signal "%s"', signal),
            'They are the rows of keelson.load_signals.', 'signal');
    end if;
    perform keelson._limits_audit('load signal', (
        select to_jsonb(l) - 'updated_at' from keelson.load_signals as l where l.signal = load_signal_set.signal
    ));
end
$$;
comment on function keelson.load_signal_set(text, double precision, double precision, boolean) is
    'Change a signal that makes adaptive limits shrink: at calm_at they begin to, at full_at they are at their least; what is null stays as it is.';
grant execute on function keelson.load_signal_set(text, double precision, double precision, boolean) to keelson_admin;

create or replace function keelson.tier_rank_set(tier text, rank integer)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if rank is null or rank not between 0 and 15 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a rank is 0 to 15', field => 'rank');
    end if;
    insert into keelson.tier_ranks (tier, rank)
    values (tier_rank_set.tier, tier_rank_set.rank)
    on conflict on constraint tier_ranks_pkey do update set rank = excluded.rank;
    perform keelson._limits_audit('rank of a tier', jsonb_build_object('tier', tier, 'rank', rank));
end
$$;
comment on function keelson.tier_rank_set(text, integer) is
    'Say when a tier loses under load: rank 0 first, the highest last.';
grant execute on function keelson.tier_rank_set(text, integer) to keelson_admin;
