-- Users from psql: as a database administrator, as somebody, as nobody.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

create role regress_users_admin nologin in role keelson_admin;
create role regress_users_nobody nologin;
select count(keelson.user_create(name || '@users.example.com', name => initcap(name) || ' Example')) as made
from (values ('ada'), ('ben'), ('cleo')) as given (name);
select user_id as ada from keelson.user_emails where email = 'ada@users.example.com' \gset
select user_id as ben from keelson.user_emails where email = 'ben@users.example.com' \gset
select user_id as cleo from keelson.user_emails where email = 'cleo@users.example.com' \gset

-- A database administrator needs no permission.
set role regress_users_admin;
select email, status, roles, block_reason from keelson.admin_users(email => 'ADA@users');
select email from keelson.admin_users(q => 'example', "limit" => 100) where email like '%@users.example.com';
select email, name, email_verified from keelson.admin_user_update(:'ben', name => 'Ben Changed', email => 'Benjamin@users.example.com', email_verified => true);
select email, status, block_reason, blocked_at is not null as since from keelson.admin_user_block(:'ben', 'Spam');
select email, status, block_reason from keelson.admin_user_unblock(:'ben');
select roles from keelson.admin_user_roles(:'ben', '{support, user}');
select ended_sessions from keelson.admin_user_end_sessions(:'ben');
select id = :'ben' as is_ben, erasure_due_at - deleted_at as kept_for from keelson.admin_user_delete(:'ben');
begin;
select keelson.act_as('benjamin@users.example.com');
rollback;
select status from keelson.admin_user_restore(:'ben');
select keelson.admin_user_block(:'ben', E'two\x01');
select keelson.admin_user('00000000-0000-7000-8000-000000000000');
select keelson.admin_user_update(:'ben', email => 'ada@users.example.com');
select keelson.admin_users(status => 'gone');
select keelson.admin_users(sort => 'name; drop table keelson.users');
select keelson.admin_users("limit" => 0);
select keelson.admin_users(cursor => 'x');
select keelson.admin_users_bulk('block', array[:'ben'::uuid]);
select keelson.users_erase(0);
select keelson.identity_purge(null);
reset role;

-- Roles of one's own, as data.
set role regress_users_admin;
select keelson.permission_set('regress.read', 'Read what is tested');
select keelson.permission_set('regress', 'One word');
select * from keelson.role_set('regress_reader', 'Reads what is tested', '{regress.read, users.read}');
select * from keelson.role_set('regress_reader', 'Reads what is tested', '{regress.read}');
select keelson.role_set('Regress', 'Capital', '{}');
select keelson.role_set('regress_reader', 'x', '{regress.none}');
select keelson.role_set('owner', 'x', '{}');
select keelson.role_remove('support');
select keelson.role_grant('cleo@users.example.com', 'regress_reader');
reset role;

-- As somebody: no more than they may, changed from one statement to the next.
begin;
select keelson.act_as('cleo@users.example.com') = :'cleo' as is_cleo;
select keelson.has_permission('regress.read') as reads, keelson.has_permission('users.read') as sees, keelson.has_permission('users.write') as writes;
savepoint here;
select keelson.admin_users();
rollback to here;
select keelson.user_read(:'ada');
rollback to here;
select (keelson.user_read(:'cleo')).email;
select keelson.user_update(:'ada', name => 'Eve');
rollback to here;
select keelson.user_delete(:'ada');
rollback to here;
select keelson.role_set('regress_reader', 'Reads', '{}');
rollback to here;
select keelson.permission_set('regress.more', 'More');
rollback to here;
select keelson.users_erase();
rollback to here;
select count(*) > 0 as exported, bool_or(data::text like '%' || :'ada' || '%') as of_others from keelson.user_export();
select id from keelson.users where id <> :'cleo';
select image from keelson.avatars;
rollback to here;
select * from keelson.bulk_items;
rollback;
select keelson.role_remove('regress_reader');
begin;
select keelson.act_as('cleo@users.example.com') = :'cleo' as is_cleo;
select keelson.has_permission('regress.read') as reads;
rollback;

-- Nobody may nothing: not without an identity, not by the private functions.
set role regress_users_nobody;
select keelson.admin_users();
reset role;
set role keelson_app;
select keelson._user_set_status(:'ada', 'deleted');
select keelson._user_export(:'ada');
reset role;

-- The last owner.
select keelson.role_grant('ada@users.example.com', 'owner');
select keelson.role_revoke('ada@users.example.com', 'owner');
select keelson.admin_user_roles(:'ada', '{}');
select keelson.admin_user_block(:'ada');
select keelson.admin_user_delete(:'ada');
select keelson.role_grant('cleo@users.example.com', 'owner'), keelson.role_revoke('ada@users.example.com', 'owner');
-- Who may less does nothing to who may more.
select keelson.role_grant('ada@users.example.com', 'admin');
begin;
select keelson.act_as('ada@users.example.com') = :'ada' as is_ada;
savepoint here;
select keelson.admin_user_update(:'cleo', email => 'mine@users.example.com');
rollback to here;
select keelson.admin_user_delete(:'cleo');
rollback to here;
select keelson.admin_user_block(:'ada');
rollback to here;
select (keelson.admin_user_block(:'ben')).status;
select operation, total, succeeded, failed, array(select r.outcome || coalesce(' ' || r.code, '') from unnest(results) as r) as outcomes
from keelson.admin_users_bulk('unblock', array[:'ben', '00000000-0000-7000-8000-000000000000']::uuid[]);
rollback;
delete from keelson.user_roles where user_id in (:'ada', :'ben', :'cleo');

-- Entity tags.
select header, keelson._etag_matches(header, 'abc') as matches
from unnest(array[null, '', '*', '"abc"', 'W/"abc"', '"x", "abc"', '"x" , W/"abc"', 'abc', '"ab"', '"abcd"']) with ordinality as h (header, n)
order by n;

-- Pictures of each kind: what they say of themselves, and what does not fit together.
select what, read.*
from (values
    ('jpeg with filling, restarts and stuffed bytes', '\xffd8ffffc0000b080002000301011100ffda000212ff0034ffd056ffffd9'::bytea),
    ('jpeg with two heads', '\xffd8ffc0000b080002000301011100ffc0000b080002000301011100ffda00021234ffd9'),
    ('jpeg that ends in its scan', '\xffd8ffc0000b080002000301011100ffda00021234ff00'),
    ('png with a palette', '\x89504e470d0a1a0a0000000d49484452000000030000000204030000006f5a7b2900000001494441547876e684e60000000049454e44ae426082'),
    ('png with a palette of 65,536', '\x89504e470d0a1a0a0000000d4948445200000003000000021003000000fa3a4a6b00000001494441547876e684e60000000049454e44ae426082'), ('png of no colour type', '\x89504e470d0a1a0a0000000d49484452000000030000000208050000008fc1c9f400000001494441547876e684e60000000049454e44ae426082'),
    ('webp lossless', '\x5249464612000000574542505650384c050000002f0240000000'),
    ('webp lossless of another version', '\x5249464612000000574542505650384c050000002f024000e000'),
    ('webp lossy', '\x524946461600000057454250565038200a0000000000009d012a03000200'),
    ('webp lossy, no key frame', '\x524946461600000057454250565038200a0000000100009d012a03000200'),
    ('webp extended', '\x524946462400000057454250565038580a000000000000000200000100005650384c050000002f0240000000'),
    ('webp extended without data', '\x524946461600000057454250565038580a00000000000000020000010000'),
    ('webp cut in a chunk', '\x524946460c000000574542505650384cff000000'), ('webp cut before one', '\x5249464608000000574542505650384c')
) as picture (what, bytes)
cross join lateral keelson._image_read(bytes) as read
order by what;

-- Pictures that are none, or not whole.
select what, fault
from (values
    ('empty', ''::bytea), ('text', 'hello'), ('half a magic', '\x89504e47'), ('png without a head', '\x89504e470d0a1a0a'),
    ('jpeg without a frame', '\xffd8ffd9'), ('jpeg of tables', '\xffd8ffdb00430000'), ('riff of sound', convert_to('RIFF', 'UTF8') || '\x04000000' || convert_to('WAVE', 'UTF8')),
    ('webp of nothing', convert_to('RIFF', 'UTF8') || '\x04000000' || convert_to('WEBP', 'UTF8')), ('gif', 'GIF89a')
) as picture (what, bytes)
cross join lateral keelson._image_read(bytes) as read
order by what;

-- What is done with each table of users, and why not all: a list.
select * from keelson.user_data_tables() where relation like 'keelson.%' and not (is_exported and is_erased);

-- The columns that an export leaves out: a list to read with care.
select t.relation, a.attname as left_out
from keelson._user_tables() as t
join pg_attribute as a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
where t.relation like 'keelson.%' and not t.is_hidden and a.attname <> t.user_column
    and not coalesce(keelson._export_columns(t.relation, t.oid, t.user_column) like '%"' || a.attname || '"%'
        or keelson._export_columns(t.relation, t.oid, t.user_column) ~ (' as ' || quote_ident(a.attname) || '(,|$)'), false)
order by 1, 2;

-- What has been left for long goes; what has not stays.
insert into keelson.user_emails (email, user_id, reserved_until)
values ('long@users.example.com', :'ada', now() - interval '1 second'), ('short@users.example.com', :'ada', now() + interval '1 hour');
select keelson.identity_purge() >= 1 as purged;
select email from keelson.user_emails where user_id = :'ada' order by email;

delete from keelson.permissions where name = 'regress.read';
delete from keelson.users where id in (:'ada', :'ben', :'cleo');
delete from keelson.user_emails where user_id in (:'ada', :'ben', :'cleo');
drop role regress_users_admin;
drop role regress_users_nobody;
