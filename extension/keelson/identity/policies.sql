-- Who may see what of users. Writing is left to the capability's functions.

select keelson._user_policies('keelson.users', 'id');

-- Nobody but keelson_system reads addresses across users: row-level security
-- without a policy shows no row to anyone else.
alter table keelson.user_emails enable row level security;
alter table keelson.user_emails force row level security;

grant select (
    id, kind, status, name, email, email_verified_at, preferences, created_at, updated_at, deleted_at
) on keelson.users to keelson_app;
