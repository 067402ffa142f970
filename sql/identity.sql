-- Users: fields, profile, isolation, administration.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

-- Whether a value fits a domain.
create function pg_temp.fits(value text, domain regtype) returns boolean language plpgsql as $$
begin
    execute format('select %L::%s', value, domain);
    return true;
exception when check_violation or invalid_text_representation then
    return false;
end
$$;

-- Addresses.
select value, pg_temp.fits(value, 'keelson.email_address') as fits
from unnest(array[
    'ada@example.com', 'Ada.Lovelace+notes@Mail.Example.co', 'o''neil_{x}@example.com', 'a@b.cd',
    'ada@xn--mnchen-3ya.example.com', '1@1.example',
    '', 'ada', 'ada@', '@example.com', 'ada@example', 'ada@@example.com', 'a b@example.com', 'ada@exa mple.com',
    ' ada@example.com', 'ada@example.com ', E'ada@example.com\n', E'ada\t@example.com', '.ada@example.com',
    'ada.@example.com', 'ada..l@example.com', 'ada@.example.com', 'ada@example..com', 'ada@-example.com',
    'ada@example-.com', 'ada@example.com.', 'ada@127.0.0.1', 'ada@[127.0.0.1]', '"ada"@example.com',
    'ada,b@example.com', 'ada@exämple.com', 'adä@example.com', 'ada@example.c', 'Ada <ada@example.com>'
]) with ordinality as tried (value, n)
order by n;
select pg_temp.fits(repeat('a', 64) || '@example.com', 'keelson.email_address') as local_64,
       pg_temp.fits(repeat('a', 65) || '@example.com', 'keelson.email_address') as local_65,
       pg_temp.fits('a@' || repeat('a', 63) || '.com', 'keelson.email_address') as label_63,
       pg_temp.fits('a@' || repeat('a', 64) || '.com', 'keelson.email_address') as label_64,
       pg_temp.fits('a@' || repeat('abcdefghi.', 25) || 'de', 'keelson.email_address') as whole_254,
       pg_temp.fits('a@' || repeat('abcdefghi.', 25) || 'def', 'keelson.email_address') as whole_255;

-- Names. Unaligned, since how wide psql takes a character to be depends on its version.
\pset format unaligned
select value, pg_temp.fits(value, 'keelson.display_name') as fits
from unnest(array[
    'Ada', 'Ada Lovelace', 'Zoë', '王小明', 'أحمد', 'O''Neil-Smith, Jr.', '👩‍🔬 Ada', '<b>Ada</b>', repeat('x', 100),
    '', ' ', ' Ada', 'Ada ', E'Ada\nLovelace', E'Ada\x7f', U&'Ada\202e', U&'Ada\200b', U&'\00a0Ada', U&'Ada\3000',
    repeat('x', 101)
]) with ordinality as tried (value, n)
order by n;
\pset format aligned

-- Preferences.
select value, pg_temp.fits(value, 'keelson.preferences') as fits
from unnest(array[
    '{}', '{"theme": "dark"}', '{"theme": "system", "language": "pt-BR", "notifications": true}',
    '{"notifications": {"email": true, "push.mobile": false, "sms": null}}', '{"theme": null}', '{"language": "zh-Hant-TW"}',
    'null', '[]', '"dark"', '1', '{"theme": "pink"}', '{"theme": true}', '{"language": "e"}', '{"language": "en_GB"}',
    '{"language": 1}', '{"notifications": "all"}', '{"notifications": [true]}', '{"notifications": {"email": "yes"}}',
    '{"notifications": {"": true}}', '{"notifications": {"a b": true}}', '{"colour": "red"}', '{"theme": "dark", "x": null}', '{'
]) with ordinality as tried (value, n)
order by n;
select most, pg_temp.fits(jsonb_build_object('notifications', jsonb_object_agg('n' || n, true))::text, 'keelson.preferences') as fits
from generate_series(32, 33) as most, generate_series(1, most) as n
group by most
order by most;

-- Each domain tells its violator what it wants.
select t.typname, obj_description(t.oid, 'pg_type') as message
from pg_type as t
where t.typnamespace = 'keelson'::regnamespace
    and t.typname in ('email_address', 'display_name', 'password', 'preferences')
order by 1;

-- A change of preferences is merged.
select keelson._preferences_merge(present, change) as after
from (values
    ('{}'::jsonb, '{"theme": "dark"}'::jsonb),
    ('{"theme": "dark", "language": "en"}', '{"theme": "light"}'),
    ('{"theme": "dark", "language": "en"}', '{"theme": null}'),
    ('{"notifications": {"email": true, "push": true}}', '{"notifications": {"push": false, "sms": true}}'),
    ('{"notifications": {"email": true, "push": true}}', '{"notifications": {"push": null}}'),
    ('{"notifications": {"email": true}}', '{"notifications": false}'),
    ('{"notifications": true}', '{"notifications": {"email": true}}'),
    ('{"notifications": {"email": true}}', '{}')
) as changes (present, change);

-- Administration: a user with a password, an imported one, one without.
create role regress_identity_admin nologin in role keelson_admin;
set role regress_identity_admin;
select keelson.user_create('Ada@Identity.Example.com', 'correct horse battery staple', 'Ada') is not null as made;
select keelson.user_create('bob@identity.example.com',
    password_hash => '$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy') is not null as made;
select keelson.user_create('cy@identity.example.com') is not null as made;
select keelson.user_create('ada@identity.example.com');
select keelson.user_create('nobody', 'correct horse battery staple');
select keelson.user_create('dan@identity.example.com', 'short');
select keelson.user_create('dan@identity.example.com', 'correct horse battery staple', password_hash => 'x');
select keelson.user_create('dan@identity.example.com', password_hash => 'x');
select keelson.user_create('dan@identity.example.com', password_hash => '$2b$31$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy');
select keelson.user_create('dan@identity.example.com', name => E'D\nan');
select keelson.user_create(null);
reset role;
select count(*) as dans from keelson.user_emails where email like 'dan@%';
select u.email, e.email as folded, u.kind, u.status, u.name, u.email_verified_at, u.preferences,
    split_part(p.hash, '$', 2) as algorithm, p.pepper_key_id > 0 as is_peppered, p.normalisation
from keelson.user_emails as e
join keelson.users as u on u.id = e.user_id
left join keelson.passwords as p on p.user_id = u.id
where e.email like '%@identity.example.com'
order by e.email;

-- The profile from psql.
begin;
select keelson.act_as('ADA@identity.example.com') is not null as is_ada;
select (keelson.auth_me()).email, (keelson.auth_me()).roles, (keelson.auth_me()).email_verified, (keelson.auth_me()).avatar_url;
select (keelson.user_profile())."user" = keelson.auth_me() as same, (keelson.user_profile()).member_since = (keelson.auth_me()).created_at as since;
select status from keelson.user_profile_update(name => U&'A\0064\0061 E\0301', preferences => '{"theme": "dark", "language": "en"}');
select (keelson.auth_me()).name = U&'Ada \00c9' as is_composed, (keelson.auth_me()).preferences;
-- What is not given stays.
select status from keelson.user_profile_update(preferences => '{"theme": null, "notifications": {"email": true}}');
select (keelson.auth_me()).name = U&'Ada \00c9' as is_there, (keelson.auth_me()).preferences;
select status from keelson.user_profile_update();
select (keelson.auth_me()).name is not null as is_there, (keelson.auth_me()).preferences;
savepoint here;
select keelson.user_profile_update(preferences => '{"theme": "pink"}');
rollback to here;
select keelson.user_profile_update(new_password => 'a whole new sentence');
rollback to here;
select keelson.user_profile_update(current_password => 'correct horse battery staple', new_password => 'short');
rollback to here;
select keelson.user_profile_update(current_password => 'correct horse battery staple', new_password => 'correct horse battery staple');
rollback to here;
select status, convert_from(body, 'UTF8')::jsonb ->> 'code' as code, convert_from(body, 'UTF8')::jsonb -> 'details' -> 0 ->> 'field' as field
from keelson.user_profile_update(current_password => 'not this one, I think', new_password => 'a whole new sentence');
select status from keelson.user_profile_update(current_password => 'correct horse battery staple', new_password => 'a whole new sentence');
select status from keelson.user_profile_update(current_password => 'correct horse battery staple', new_password => 'another new sentence');
rollback;

-- Nobody is acting: there is no one to show or change.
select keelson.auth_me();
select keelson.user_profile();
select keelson.user_profile_update(name => 'Eve');
select keelson.acting_user_id();

-- Isolation: one sees oneself and changes nothing but by the functions.
begin;
select keelson.act_as('bob@identity.example.com') is not null as is_bob;
select keelson.acting_user_id() = keelson.current_user_id() as is_known;
select count(*) as users, min(email) as email from keelson.users;
savepoint here;
select keelson.user_get(keelson.uuid7());
rollback to here;
update keelson.users set name = 'Eve';
rollback to here;
insert into keelson.users (id, email) values (keelson.current_user_id(), 'eve@identity.example.com');
rollback to here;
delete from keelson.users;
rollback to here;
select * from keelson.passwords;
rollback to here;
select * from keelson.user_emails;
rollback to here;
select refresh_key_id from keelson.sessions;
rollback to here;
select keelson._credential_find('ada@identity.example.com');
rollback to here;
select keelson.user_create('eve@identity.example.com');
rollback;

-- Roles are shown, user first.
select keelson.role_grant('cy@identity.example.com', 'support') as granted;
begin;
select keelson.act_as('cy@identity.example.com') is not null as is_cy;
select (keelson.auth_me()).roles;
rollback;

-- Private functions are granted to nobody else.
select p.oid::regprocedure as granted_to_strangers
from pg_proc as p, aclexplode(p.proacl) as granted
where p.pronamespace = 'keelson'::regnamespace
    and p.proname in ('_user_add', '_credential_find', '_credential_of', '_password_set', '_password_rehash', '_user_lock',
        '_session_open', '_sessions_end', '_session_is_live', '_email_require_free', '_refresh_token', '_access_token')
    and granted.grantee::regrole::text not in ('keelson_owner', 'keelson_system', pg_get_userbyid(p.proowner));

-- The table keeps its own promises.
insert into keelson.users (id, kind, email) values (keelson.uuid7(), 'robot', 'x@identity.example.com');
insert into keelson.users (id, kind) values (keelson.uuid7(), 'person');
insert into keelson.users (id, email, status) values (keelson.uuid7(), 'x@identity.example.com', 'deleted');
insert into keelson.users (id, email, preferences) values (keelson.uuid7(), 'x@identity.example.com', '[]');
insert into keelson.user_emails (email, user_id) values ('X@identity.example.com', keelson.uuid7());
insert into keelson.passwords (user_id, hash) select user_id, 'secret' from keelson.user_emails where email = 'cy@identity.example.com';

delete from keelson.user_roles where user_id in (select user_id from keelson.user_emails where email like '%@identity.example.com');
delete from keelson.users where id in (select user_id from keelson.user_emails where email like '%@identity.example.com');
delete from keelson.user_emails where email like '%@identity.example.com';
drop role regress_identity_admin;
