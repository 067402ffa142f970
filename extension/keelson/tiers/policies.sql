-- Who may see what of tiers, subscriptions, quotas and referrals. Writing is the functions' alone.

select keelson._user_policies('keelson.subscriptions');
select keelson._user_policies('keelson.quota_counters');
select keelson._user_policies('keelson.quota_reservations');
select keelson._user_policies('keelson.referrals');
select keelson._user_policies('keelson.referral_redemptions');

alter table keelson.referral_codes enable row level security;
alter table keelson.referral_codes force row level security;

grant select on keelson.tiers, keelson.tier_limits to keelson_app, keelson_admin;
grant select on keelson.subscriptions, keelson.quota_counters, keelson.quota_reservations, keelson.referrals to keelson_app;

create or replace trigger tiers_changed
after insert or update or delete or truncate on keelson.tiers
for each statement execute function keelson._tiers_changed();
create or replace trigger tier_limits_changed
after insert or update or delete or truncate on keelson.tier_limits
for each statement execute function keelson._tiers_changed();
