-- Who may see what of access keys; the core's own scopes.

select keelson._user_policies('keelson.access_keys');

-- All but the hash.
grant select (
    user_id, id, name, prefix, environment, scopes, allowed_networks, expires_at, replaced_by, revoked_at, last_used_at, created_at
) on keelson.access_keys to keelson_app;

insert into keelson.scopes (name, description)
values
    ('usage.write', 'Record one''s own usage')
on conflict (name) do update set description = excluded.description
where scopes.description <> excluded.description;

create or replace trigger scopes_changed
after insert or update or delete or truncate on keelson.scopes
for each statement execute function keelson._routes_changed();

grant select on keelson.scopes to keelson_app;
grant select, insert, update, delete on keelson.scopes to keelson_admin;
