-- Referrals: who brought whom.

create or replace function keelson._referral_code_new()
returns text
language sql
volatile
as $$
-- Ten of Crockford's 32 signs, 50 random bits: bytes of a UUID that hold nothing else.
select pg_catalog.string_agg(
    pg_catalog.substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (pg_catalog.get_byte(made.bytes, i) & 31) + 1, 1), '' order by i
)
from (select pg_catalog.uuid_send(pg_catalog.gen_random_uuid())) as made (bytes)
cross join pg_catalog.unnest(array[0, 1, 2, 3, 4, 5, 9, 10, 11, 12]) as i
$$;
comment on function keelson._referral_code_new() is
    'A random referral code. It is not a secret: it leads to nobody''s name.';

create or replace function keelson._referral_open(user_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    made text;
begin
    if exists (select from keelson.referrals as r where r.user_id = _referral_open.user_id) then
        return;
    end if;
    loop
        made := keelson._referral_code_new();
        insert into keelson.referral_codes (code, user_id) values (made, _referral_open.user_id)
        on conflict on constraint referral_codes_pkey do nothing;
        exit when found;
    end loop;
    insert into keelson.referrals (user_id, code) values (_referral_open.user_id, made);
end
$$;
alter function keelson._referral_open(uuid) owner to keelson_system;
comment on function keelson._referral_open(uuid) is
    'Give the user a referral code, unless they have one.';

create or replace function keelson._referral_redeem(user_id uuid, code text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- As Crockford has it: small letters, and the signs that look like others.
    meant text := translate(upper(code collate "C"), 'OIL- ', '011');
    referrer uuid;
begin
    select c.user_id into referrer
    from keelson.referral_codes as c
    join keelson.users as u on u.id = c.user_id and u.status = 'active'
    where c.code = meant;
    if referrer is null or referrer = _referral_redeem.user_id then
        perform keelson.raise(
            400, 'VALIDATION_FAILED',
            case when referrer is null then 'there is no such referral code' else 'this referral code is your own' end,
            field => 'referral_code'
        );
    end if;
    insert into keelson.referral_redemptions (user_id, referrer_id, code) values (_referral_redeem.user_id, referrer, meant)
    on conflict on constraint referral_redemptions_pkey do nothing;
    if not found then
        perform keelson.raise(409, 'CONFLICT', 'a referral code has been redeemed already', field => 'referral_code');
    end if;
    update keelson.referrals as r set redemptions = r.redemptions + 1 where r.user_id = referrer;
    perform keelson.audit('referral.redeem', jsonb_build_object('code', meant, 'referrerId', referrer), user_id => _referral_redeem.user_id);
end
$$;
alter function keelson._referral_redeem(uuid, text) owner to keelson_system;
comment on function keelson._referral_redeem(uuid, text) is
    'Write down by whose code the user came: one at most, and not their own.';

create or replace function keelson.referral_redeem(referral_code text)
returns keelson.referral
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._require(referral_code, 'referral_code');
    perform keelson.acting_user_id();
    if not exists (
        select from keelson.users as u where u.id = keelson.current_user_id() and u.created_at > now() - interval '30 days'
    ) then
        perform keelson.raise(409, 'CONFLICT', 'referral codes are for new users', field => 'referral_code');
    end if;
    perform keelson._referral_redeem(keelson.current_user_id(), referral_code);
    return keelson._referral_shown(keelson.current_user_id());
end
$$;
comment on function keelson.referral_redeem(text) is
    'Redeem a referral code that was not given when registering: within 30 days, once, not one''s own.';
grant execute on function keelson.referral_redeem(text) to keelson_app;

create or replace function keelson._referral_shown(user_id uuid)
returns keelson.referral
language plpgsql
stable
as $$
declare
    shown keelson.referral;
begin
    select r.code, r.redemptions into shown from keelson.referrals as r where r.user_id = _referral_shown.user_id;
    return shown;
end
$$;
comment on function keelson._referral_shown(uuid) is
    'The user''s referral code as clients see it; null where there is none.';
