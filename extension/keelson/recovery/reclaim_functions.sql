-- Whoever registers with a stranger's address can make ways back into the
-- account before the stranger takes it over by a reset. None of them stays.

create or replace function keelson._account_reclaim(user_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    why constant jsonb := '{"reason": "made before the address was verified"}';
begin
    -- First who would be told of the rest.
    perform keelson._webhook_remove(user_id, e.id, why) from keelson.webhook_endpoints as e where e.user_id = _account_reclaim.user_id;
    perform keelson._access_keys_revoke(user_id, why);
    perform keelson._api_key_remove(user_id, k.service, why) from keelson.user_api_keys as k where k.user_id = _account_reclaim.user_id;
    perform keelson._external_identity_remove(user_id, i.id, why) from keelson.external_identities as i where i.user_id = _account_reclaim.user_id;
    perform keelson._email_changes_forget(user_id, why);
    -- Who has a session and the password can change the address. That must not be the way around a factor of when another was verified.
    if not exists (
        select from keelson.totp_factors as f
        join keelson.email_changes as c on c.user_id = f.user_id and c.changed_at > f.confirmed_at
        where f.user_id = _account_reclaim.user_id and c.old_verified_at is not null
    ) and keelson._factor_remove(user_id) then
        perform keelson.audit('factor.change', '{"change": "removed"}' || why, user_id => user_id);
        perform keelson._notice(user_id, 'factor.changed', '{"change": "removed, since it was set up before anybody had verified this address,"}');
    end if;
end
$$;
alter function keelson._account_reclaim(uuid) owner to keelson_system;
comment on function keelson._account_reclaim(uuid) is
    'Take away whatever lets somebody into the account, or tells them of it, who has made it before its address was verified: webhooks, access keys, API keys for other services, external identities, undoing changes of unverified addresses, the second factor unless it is of when an address that can still undo the change was verified. Called with the user''s row locked, sessions ended.';
