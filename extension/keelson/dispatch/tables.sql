-- migration 1: routes, roles and permissions, idempotency keys
-- What a caller may do. A permission is also the name of a scope.
create table keelson.permissions (
    name text not null,
    description text not null,
    constraint permissions_pkey primary key (name),
    constraint permissions_name_check check (name ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$')
);
comment on table keelson.permissions is
    'What a route may demand and a role may hold; a product adds its own.';

create table keelson.roles (
    name text not null,
    description text not null,
    constraint roles_pkey primary key (name),
    constraint roles_name_check check (name ~ '^[a-z][a-z0-9_]*$')
);
comment on table keelson.roles is
    'Named sets of permissions for users; not to be confused with the database''s roles. Everybody signed in holds the role user.';

create table keelson.role_permissions (
    role text not null,
    permission text not null,
    constraint role_permissions_pkey primary key (role, permission),
    constraint role_permissions_role_fkey foreign key (role)
        references keelson.roles (name) on update cascade on delete cascade,
    constraint role_permissions_permission_fkey foreign key (permission)
        references keelson.permissions (name) on update cascade on delete cascade
);
comment on table keelson.role_permissions is
    'The permissions that each role holds.';
create index role_permissions_permission_idx on keelson.role_permissions (permission);

create table keelson.user_roles (
    user_id uuid not null,
    role text not null,
    granted_by uuid,
    granted_at timestamptz not null default pg_catalog.now(),
    constraint user_roles_pkey primary key (user_id, role),
    constraint user_roles_role_fkey foreign key (role)
        references keelson.roles (name) on update cascade on delete cascade,
    constraint user_roles_role_check check (role <> 'user')
);
comment on table keelson.user_roles is
    'The roles that users hold besides user, which needs no row.';
comment on column keelson.user_roles.granted_by is
    'The user who granted it; null when a database administrator did.';
create index user_roles_role_idx on keelson.user_roles (role);

-- One row for each endpoint. The shape is the template with its parameters
-- made anonymous: two templates of one shape would answer the same paths.
create table keelson.routes (
    id integer generated always as identity,
    owner text not null,
    method text not null,
    template text not null,
    shape text not null,
    version text not null,
    function text not null,
    role name not null,
    permission text,
    scope text,
    is_public boolean not null,
    rate_class text not null,
    timeout_ms integer not null,
    body_limit integer not null,
    pool text not null,
    kind text not null,
    is_raw boolean not null,
    content_types text[],
    status integer not null,
    returns text,
    errors text[] not null,
    examples jsonb,
    description text not null,
    deprecated_at timestamptz,
    sunset_at timestamptz,
    successor text,
    is_stale boolean not null default false,
    created_at timestamptz not null default pg_catalog.now(),
    updated_at timestamptz not null default pg_catalog.now(),
    constraint routes_pkey primary key (id),
    constraint routes_method_shape_version_key unique (method, shape, version),
    constraint routes_permission_fkey foreign key (permission) references keelson.permissions (name) on update cascade,
    constraint routes_method_check check (method in ('GET', 'POST', 'PUT', 'PATCH', 'DELETE')),
    constraint routes_version_check check (version ~ '^v[1-9][0-9]{0,2}$'),
    constraint routes_rate_class_check check (rate_class in ('general', 'api', 'auth', 'reset')),
    constraint routes_timeout_ms_check check (timeout_ms between 1 and 3600000),
    constraint routes_body_limit_check check (body_limit between 0 and 10485760),
    constraint routes_pool_check check (pool in ('fast', 'slow', 'upstream')),
    constraint routes_kind_check check (kind = 'once' or kind in ('rows', 'watch') and method = 'GET'),
    constraint routes_status_check check (status between 200 and 299),
    constraint routes_sunset_at_check check (sunset_at >= deprecated_at)
);
comment on table keelson.routes is
    'The endpoints. Written by keelson.route(); an operator''s changes stand in keelson.route_overrides.';
comment on column keelson.routes.owner is
    'The extension, or else the schema, that the endpoint''s function belongs to.';
comment on column keelson.routes.function is
    'The qualified name of the function, looked up when the route is first called.';
comment on column keelson.routes.is_stale is
    'Set while an owner''s routes are applied anew: those that are not named again go.';

create index routes_permission_idx on keelson.routes (permission);

create table keelson.route_overrides (
    method text not null,
    shape text not null,
    version text not null,
    is_enabled boolean,
    rate_class text,
    timeout_ms integer,
    body_limit integer,
    pool text,
    deprecated_at timestamptz,
    sunset_at timestamptz,
    updated_at timestamptz not null default pg_catalog.now(),
    constraint route_overrides_pkey primary key (method, shape, version),
    constraint route_overrides_rate_class_check check (rate_class in ('general', 'api', 'auth', 'reset')),
    constraint route_overrides_timeout_ms_check check (timeout_ms between 1 and 3600000),
    constraint route_overrides_body_limit_check check (body_limit between 0 and 10485760),
    constraint route_overrides_pool_check check (pool in ('fast', 'slow', 'upstream'))
);
comment on table keelson.route_overrides is
    'What an operator wants otherwise than the route''s owner; null columns leave the owner''s word. Survives upgrades.';

-- The replies of requests that came with an Idempotency-Key.
create table keelson.idempotency_keys (
    user_id uuid not null,
    key text not null,
    fingerprint bytea not null,
    reply bytea not null,
    created_at timestamptz not null default pg_catalog.now(),
    expires_at timestamptz not null,
    constraint idempotency_keys_pkey primary key (user_id, key)
);
comment on table keelson.idempotency_keys is
    'The first reply to each Idempotency-Key, for 24 hours.';
comment on column keelson.idempotency_keys.fingerprint is
    'SHA-256 of the request: endpoint, path, query and body.';
comment on column keelson.idempotency_keys.reply is
    'The reply, sealed under the user''s key since it may hold secrets.';
create index idempotency_keys_expires_at_idx on keelson.idempotency_keys (expires_at);

-- migration 2: what a request costs, and how long it may wait
alter table keelson.routes
    add column rate_cost integer not null default 1,
    add column rate_wait_ms integer not null default 0,
    add constraint routes_rate_cost_check check (rate_cost between 1 and 1000000),
    add constraint routes_rate_wait_ms_check check (rate_wait_ms between 0 and 30000);
comment on column keelson.routes.rate_cost is
    'As how many requests rate limits count one of this endpoint.';
comment on column keelson.routes.rate_wait_ms is
    'How long the gateway may hold a request that is over a rate limit, instead of refusing it.';

-- migration 3: endpoints for a tier
alter table keelson.routes add column tier text;
comment on column keelson.routes.tier is
    'The lowest tier whose users may call it; null: any.';

-- migration 4: roles that demand a second factor

alter table keelson.roles add column factor_since timestamptz;
alter table keelson.roles add column factor_grace interval;
alter table keelson.roles add constraint roles_factor_grace_check
    check (factor_grace between interval '0' and interval '90 days' and (factor_since is null) = (factor_grace is null));
comment on column keelson.roles.factor_since is
    'Since when the role demands a second factor: it then gives its permissions to sessions of assurance level 2 alone. Null: it does not.';
comment on column keelson.roles.factor_grace is
    'How long its holders have to enrol one, from the later of factor_since and their coming.';

-- migration 5: endpoints that demand a verified address, or a second factor shown lately

alter table keelson.routes
    add column needs_verified_email boolean not null default false,
    add column factor_within_s integer,
    add constraint routes_factor_within_s_check check (factor_within_s between 1 and 86400);
comment on column keelson.routes.needs_verified_email is
    'Whether only users may call it whose e-mail address is verified.';
comment on column keelson.routes.factor_within_s is
    'How many seconds ago, at most, the session has shown a second factor; null: it need not have.';

-- migration 6: the description of the API as it was last made

create unlogged table keelson.openapi_kept (
    is_only boolean not null default true,
    version text not null,
    tag text not null,
    document bytea not null,
    constraint openapi_kept_pkey primary key (is_only),
    constraint openapi_kept_is_only_check check (is_only)
);
-- Read far more often than written: as it is, not compressed.
alter table keelson.openapi_kept alter column document set storage external;
comment on table keelson.openapi_kept is
    'One row, or none: the description of the API as it was last made. Made anew when it is lost.';
comment on column keelson.openapi_kept.version is
    'What it was made of: keelson._openapi_version() of that time.';
comment on column keelson.openapi_kept.tag is
    'The entity tag: SHA-256 of the document, in hexadecimal.';
