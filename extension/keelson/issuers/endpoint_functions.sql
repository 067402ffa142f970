-- External issuers: the endpoints.

do $types$
begin
    if pg_catalog.to_regtype('keelson.external_identity') is null then
        create type keelson.external_identity as (
            id uuid,
            issuer text,
            subject text,
            created_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.issuer') is null then
        create type keelson.issuer as (
            id uuid,
            issuer text,
            audience text[],
            algorithms text[],
            types text[],
            jwks_url text,
            keys_set_at timestamptz,
            creates_users boolean,
            links_by_email boolean,
            trusts_email boolean,
            is_enabled boolean,
            created_at timestamptz,
            updated_at timestamptz,
            keys_fetched_at timestamptz,
            next_fetch_at timestamptz,
            fetch_failures integer,
            fetch_error text
        );
    end if;
end
$types$;
comment on type keelson.external_identity is
    'As whom an external issuer knows a user.';
comment on column keelson.external_identity.subject is 'The claim sub of its tokens.';
comment on column keelson.external_identity.created_at is 'When it was first met, or linked.';
comment on type keelson.issuer is
    'An external issuer whose tokens are taken, as administrators see it.';
comment on column keelson.issuer.keys_set_at is 'When its keys were last set; null: it has none, and no token is good.';
comment on column keelson.issuer.keys_fetched_at is 'When its keys were last fetched from jwks_url; null: never.';
comment on column keelson.issuer.next_fetch_at is 'When they are fetched again, or earlier; null: not by themselves.';
comment on column keelson.issuer.fetch_failures is 'How often fetching has failed since; null where nothing is fetched.';
comment on column keelson.issuer.fetch_error is 'Why it failed last; null: it did not.';
comment on column keelson.issuer.is_enabled is 'False: none of its tokens is good.';

create or replace function keelson.user_external_identities()
returns setof keelson.external_identity
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    return query select * from keelson._external_identities(keelson.current_user_id());
end
$$;
comment on function keelson.user_external_identities() is
    'As whom external issuers know the user who is signed in, the latest first.';
grant execute on function keelson.user_external_identities() to keelson_app;

create or replace function keelson._external_identities(user_id uuid)
returns setof keelson.external_identity
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select e.id, e.issuer, e.subject, e.created_at
from keelson.external_identities as e
where e.user_id = _external_identities.user_id
order by e.id desc
limit 100
$$;
alter function keelson._external_identities(uuid) owner to keelson_system;
comment on function keelson._external_identities(uuid) is
    'The external identities of the user, at most 100.';

create or replace function keelson.user_external_identity_remove(id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
begin
    -- Two who go at once must not take each the other's way in.
    perform from keelson.users as u where u.id = me for no key update;
    if not exists (select from keelson.passwords as p where p.user_id = me)
        and exists (select from keelson._external_identities(me) as mine where mine.id = user_external_identity_remove.id)
        and not exists (
            select from keelson._external_identities(me) as other
            join keelson.issuers as i on i.issuer = other.issuer and i.is_enabled
            where other.id <> user_external_identity_remove.id
        )
    then
        perform keelson.raise(409, 'CONFLICT', 'there is no other way for you to sign in', 'Set a password first.');
    end if;
    if not keelson._external_identity_remove(me, id) then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such identity');
    end if;
end
$$;
comment on function keelson.user_external_identity_remove(uuid) is
    'Take an external identity from the user who is signed in: its tokens open the account no more. 409 for the last way to sign in.';
grant execute on function keelson.user_external_identity_remove(uuid) to keelson_app;

create or replace function keelson._issuers_shown()
returns setof keelson.issuer
language sql
stable
as $$
select i.id, i.issuer, i.audience, i.algorithms, i.types, i.jwks_url, i.keys_set_at,
    i.creates_users, i.links_by_email, i.trusts_email, i.is_enabled, i.created_at, i.updated_at,
    f.fetched_at, case when i.is_enabled then f.due_at end, f.failures, f.error
from keelson.issuers as i
left join keelson.issuer_fetches as f on f.id = i.id
$$;
comment on function keelson._issuers_shown() is
    'The issuers as administrators see them.';

create or replace function keelson.admin_issuers()
returns setof keelson.issuer
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('issuers.read');
    return query select * from keelson._issuers_shown() as shown order by shown.issuer;
end
$$;
comment on function keelson.admin_issuers() is
    'The external issuers whose tokens are taken. Needs the permission issuers.read.';
grant execute on function keelson.admin_issuers() to keelson_app;

create or replace function keelson._admin_issuer_switch(id uuid, on_or_off boolean)
returns keelson.issuer
language plpgsql
volatile
as $$
declare
    name text;
    result keelson.issuer;
begin
    perform keelson.permission_require('issuers.write');
    select i.issuer into name from keelson.issuers as i where i.id = _admin_issuer_switch.id;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such issuer');
    end if;
    perform keelson._issuer_switch(name, on_or_off);
    select * into result from keelson._issuers_shown() as shown where shown.id = _admin_issuer_switch.id;
    return result;
end
$$;
comment on function keelson._admin_issuer_switch(uuid, boolean) is
    'Switch the issuer for an administrator, and show it.';

create or replace function keelson.admin_issuer_disable(id uuid)
returns keelson.issuer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._admin_issuer_switch(id, false);
end
$$;
comment on function keelson.admin_issuer_disable(uuid) is
    'The kill switch: no token of the issuer is good any more, from the next request on. Needs the permission issuers.write.';
grant execute on function keelson.admin_issuer_disable(uuid) to keelson_app;

create or replace function keelson.admin_issuer_enable(id uuid)
returns keelson.issuer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._admin_issuer_switch(id, true);
end
$$;
comment on function keelson.admin_issuer_enable(uuid) is
    'Take tokens of the issuer again. Needs the permission issuers.write.';
grant execute on function keelson.admin_issuer_enable(uuid) to keelson_app;
