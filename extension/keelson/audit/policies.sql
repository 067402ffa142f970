-- Who may see what of the audit trail; types and how long events are kept.

-- By time, for administrators and for verifying; by transaction, for sealing: both rise with the place in the table, but
-- for what is late. Its class of operators is the extension's. All wait while this is made: of the days that are there only
-- those have it at once to which requests write; the keeper makes that of the others, one after the other.
do $$
begin
    if pg_catalog.to_regclass('keelson.audit_events_id_era_xid_idx') is null then
        perform keelson._audit_ranges_make('audit_events');
        perform keelson._audit_ranges_make(p.name) from keelson.audit_partitions as p where p.dropped_at is null and p.until_at > now();
    end if;
end
$$;

select keelson._user_policies('keelson.audit_events');
select keelson._user_policies('keelson.legal_holds');

insert into keelson.audit_event_types (name, category, description, is_reserved)
values
    ('auth.register', 'authentication', 'Somebody registered.', true),
    ('auth.login', 'authentication', 'A login, or one that failed.', true),
    ('auth.refresh', 'authentication', 'A session was given its next tokens.', true),
    ('auth.token_reused', 'authentication', 'A spent refresh token came back, and its session was ended.', true),
    ('auth.logout', 'authentication', 'Sessions were ended by their user.', true),
    ('auth.sessions_ended', 'authentication', 'Sessions were ended by somebody else.', true),
    ('password.change', 'passwords', 'A password was changed, or the present one was given wrong.', true),
    ('password.reset_request', 'passwords', 'A reset of the password was asked for.', true),
    ('password.reset', 'passwords', 'A password was reset.', true),
    ('email.verify', 'email', 'An e-mail address was shown to be the user''s.', true),
    ('email.change', 'email', 'An e-mail address was changed.', true),
    ('user.create', 'users', 'An administrator added a user.', true),
    ('user.update', 'users', 'A profile was changed.', true),
    ('user.delete', 'users', 'A user was deleted.', true),
    ('user.erase', 'users', 'What tells of a person was erased.', true),
    ('key.create', 'keys', 'A key was made or stored.', true),
    ('key.rotate', 'keys', 'A key was replaced.', true),
    ('key.revoke', 'keys', 'A key was revoked or removed.', true),
    ('key.use', 'keys', 'A key was used.', true),
    ('subscription.change', 'subscription', 'A tier or subscription was changed.', true),
    ('payment.receive', 'payment', 'A payment came, or failed.', true),
    ('referral.redeem', 'referral', 'A referral code was redeemed.', true),
    ('security.unauthenticated', 'security', 'A request was refused: nobody was known.', true),
    ('security.forbidden', 'security', 'A request was refused: it was not allowed.', true),
    ('security.locked', 'security', 'A request was refused: the account is locked.', true),
    ('security.rate_limited', 'security', 'A request was refused: there were too many.', true),
    ('security.unseal_failed', 'security', 'A sealed value could not be opened.', true),
    ('security.failed', 'security', 'A request of a security endpoint failed.', true),
    ('admin.act_as', 'admin', 'An administrator acted as a user.', true),
    ('admin.role_grant', 'admin', 'A role was given.', true),
    ('admin.role_revoke', 'admin', 'A role was taken.', true),
    ('admin.block', 'admin', 'A user or an address was blocked.', true),
    ('admin.unblock', 'admin', 'A user or an address was unblocked.', true),
    ('admin.legal_hold', 'admin', 'A legal hold was placed or released.', true),
    ('webhook.change', 'webhooks', 'A webhook endpoint was added, changed or removed.', true),
    ('config.change', 'configuration', 'A setting or a secret of the server was changed.', true),
    ('audit.expire', 'configuration', 'Retention took events.', true),
    ('jobs.large_cleanup', 'configuration', 'A cleanup took more than 10,000 rows.', true)
on conflict (name) do update
set category = excluded.category, description = excluded.description, is_reserved = excluded.is_reserved
where (audit_event_types.category, audit_event_types.description, audit_event_types.is_reserved)
    is distinct from (excluded.category, excluded.description, excluded.is_reserved);

insert into keelson.retention_policies (event_type, keep_for)
values ('*', '90 days')
on conflict do nothing;

insert into keelson.seal_purposes (name, scope, description)
values
    ('audit', 'user', 'The personal part of audit events that concern a user.'),
    ('audit-nobody', 'server', 'The personal part of audit events that concern nobody known.')
on conflict (name) do update
set scope = excluded.scope, description = excluded.description
where (seal_purposes.scope, seal_purposes.description) is distinct from (excluded.scope, excluded.description);

insert into keelson.keyring_uses (name, kind, relation, loss)
values ('audit events', 'events', 'keelson.audit_events',
    'Address and user agent in events that concern nobody known, and finding events by address.')
on conflict (name) do update
set kind = excluded.kind, relation = excluded.relation, loss = excluded.loss;

grant select on keelson.audit_event_types to keelson_app, keelson_admin;
grant select on keelson.retention_policies, keelson.audit_tombstones, keelson.audit_checkpoints, keelson.audit_tiles,
    keelson.audit_totals, keelson.audit_partitions, keelson.legal_holds to keelson_admin;

select keelson.audit_partitions_make();
