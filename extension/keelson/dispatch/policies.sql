-- Roles and permissions of the core; a product adds its own by insert.
insert into keelson.permissions (name, description)
values
    ('users.read', 'See other users'),
    ('users.write', 'Change, block and delete other users'),
    ('roles.write', 'Grant and revoke roles'),
    ('tiers.write', 'Change users'' tiers'),
    ('usage.read', 'See other users'' usage'),
    ('usage.write', 'Record usage for other users'),
    ('audit.read', 'Read the audit log'),
    ('limits.read', 'See rate limits, violations and blocks'),
    ('limits.write', 'Block and unblock addresses and users'),
    ('webhooks.read', 'See failed incoming webhooks'),
    ('webhooks.write', 'Retry failed incoming webhooks'),
    ('jobs.read', 'See scheduled jobs and their runs'),
    ('jobs.run', 'Run scheduled jobs: the scope of the cron secret')
on conflict (name) do update set description = excluded.description
where permissions.description <> excluded.description;

insert into keelson.roles (name, description)
values
    ('user', 'Everybody who is signed in'),
    ('support', 'Sees users and what happened to them'),
    ('admin', 'Runs the product'),
    ('owner', 'May do everything')
on conflict (name) do update set description = excluded.description
where roles.description <> excluded.description;

-- Only what is new with this version of the code is granted: what an operator
-- has taken from a role stays taken.
insert into keelson.role_permissions (role, permission)
select granted.role, granted.permission
from (
    values
        ('support', 'users.read'),
        ('support', 'usage.read'),
        ('support', 'audit.read'),
        ('support', 'limits.read'),
        ('support', 'webhooks.read'),
        ('support', 'jobs.read'),
        ('admin', 'users.read'),
        ('admin', 'users.write'),
        ('admin', 'tiers.write'),
        ('admin', 'usage.read'),
        ('admin', 'usage.write'),
        ('admin', 'audit.read'),
        ('admin', 'limits.read'),
        ('admin', 'limits.write'),
        ('admin', 'webhooks.read'),
        ('admin', 'webhooks.write'),
        ('admin', 'jobs.read')
) as granted (role, permission)
where not exists (select from keelson.installation)
    or not exists (select from keelson.role_permissions as held where held.permission = granted.permission)
on conflict do nothing;

insert into keelson.role_permissions (role, permission)
select 'owner', permissions.name from keelson.permissions
on conflict do nothing;

select keelson._user_policies('keelson.user_roles');
select keelson._user_policies('keelson.idempotency_keys');

create or replace view keelson.effective_routes
with (security_barrier = true) as
select
    routes.id,
    routes.owner,
    routes.method,
    routes.template,
    routes.version,
    routes.function,
    routes.role,
    routes.permission,
    routes.scope,
    routes.is_public,
    coalesce(override.rate_class, routes.rate_class) as rate_class,
    coalesce(override.timeout_ms, routes.timeout_ms) as timeout_ms,
    coalesce(override.body_limit, routes.body_limit) as body_limit,
    coalesce(override.pool, routes.pool) as pool,
    routes.kind,
    routes.is_raw,
    routes.content_types,
    routes.status,
    routes.returns,
    routes.errors,
    routes.examples,
    routes.description,
    coalesce(override.deprecated_at, routes.deprecated_at) as deprecated_at,
    coalesce(override.sunset_at, routes.sunset_at) as sunset_at,
    routes.successor,
    routes.rate_cost,
    routes.rate_wait_ms,
    routes.tier,
    routes.needs_verified_email,
    routes.factor_within_s
from keelson.routes as routes
left join keelson.route_overrides as override using (method, shape, version)
where coalesce(override.is_enabled, true);
comment on view keelson.effective_routes is
    'The endpoints that are served, with the operator''s overrides in force.';

create or replace trigger routes_changed
after insert or update or delete or truncate on keelson.routes
for each statement execute function keelson._routes_changed();
create or replace trigger route_overrides_changed
after insert or update or delete or truncate on keelson.route_overrides
for each statement execute function keelson._routes_changed();

grant select on keelson.roles, keelson.permissions, keelson.role_permissions, keelson.user_roles to keelson_app;
grant select on keelson.routes, keelson.route_overrides, keelson.effective_routes, keelson.user_roles to keelson_admin;
grant select, insert, update, delete on keelson.roles, keelson.permissions, keelson.role_permissions to keelson_admin;

insert into keelson.keyring_uses (name, kind, lifetime, loss)
values ('cursors of lists', 'token', '1 day', 'Whoever pages through a list begins anew.')
on conflict (name) do update
set kind = excluded.kind, lifetime = excluded.lifetime, loss = excluded.loss;
