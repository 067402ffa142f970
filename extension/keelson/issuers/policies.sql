-- Who may see what of issuers; types of audit events.

-- Nobody but keelson_system reads identities across users: row-level security
-- without a policy shows no row to anyone else.
alter table keelson.external_identities enable row level security;
alter table keelson.external_identities force row level security;

create or replace trigger issuers_changed
after insert or update or delete or truncate on keelson.issuers
for each statement execute function keelson._issuers_changed();

insert into keelson.permissions (name, description)
values
    ('issuers.read', 'See whose tokens are taken'),
    ('issuers.write', 'Switch issuers of tokens on and off')
on conflict (name) do update set description = excluded.description
where permissions.description <> excluded.description;

-- Only what is new with this version of the code is granted.
insert into keelson.role_permissions (role, permission)
select granted.role, granted.permission
from (
    values
        ('admin', 'issuers.read'),
        ('admin', 'issuers.write')
) as granted (role, permission)
where not exists (select from keelson.installation)
    or not exists (select from keelson.role_permissions as held where held.permission = granted.permission)
on conflict do nothing;

insert into keelson.role_permissions (role, permission)
values ('owner', 'issuers.read'), ('owner', 'issuers.write')
on conflict do nothing;

insert into keelson.audit_event_types (name, category, description, is_reserved)
values
    ('identity.link', 'authentication', 'A subject of an external issuer was linked to a user.', true),
    ('identity.unlink', 'authentication', 'A subject of an external issuer was taken from a user.', true)
on conflict (name) do update
set category = excluded.category, description = excluded.description, is_reserved = excluded.is_reserved
where (audit_event_types.category, audit_event_types.description, audit_event_types.is_reserved)
    is distinct from (excluded.category, excluded.description, excluded.is_reserved);

grant select on keelson.issuers, keelson.issuer_fetches to keelson_admin;
comment on column keelson.issuers.jwks_url is 'Where the keys are published, and fetched from: see keelson.issuer_fetches.';
