-- Tables of a product: keelson.user_table() makes their rows their users' own.
\set VERBOSITY default
\set SHOW_CONTEXT never
set client_min_messages = warning;

create schema regress_product;
create role regress_product_role;
create role regress_product_admin in role keelson_admin;
grant all on schema regress_product to regress_product_admin with grant option;
select keelson.user_create('ann@product.example.com') as ann \gset
select keelson.user_create('ben@product.example.com') as ben \gset

-- What is no table whose rows belong to users.
create table regress_product.plain (id uuid primary key);
create table regress_product.typed (user_id text not null, id uuid, primary key (user_id, id));
create table regress_product.nullable (user_id uuid, id uuid primary key);
create table regress_product.slow (user_id uuid not null, id uuid primary key);
create view regress_product.seen as select * from regress_product.slow;
select keelson.user_table('regress_product.plain');
select keelson.user_table('regress_product.typed');
select keelson.user_table('regress_product.nullable');
select keelson.user_table('regress_product.slow');
select keelson.user_table('regress_product.seen');
select keelson.user_table('regress_product.none');
select keelson.user_table('keelson.sessions');
select keelson.user_table(null);

-- Who may: an administrator, for a table of their own.
create table regress_product.notes (
    user_id uuid not null,
    id uuid not null default keelson.uuid7(),
    body text not null,
    constraint notes_pkey primary key (user_id, id)
);
set role regress_product_role;
select keelson.user_table('regress_product.notes');
set role regress_product_admin;
select keelson.user_table('regress_product.notes');
create table regress_product.parts (user_id uuid not null, id uuid not null, primary key (user_id, id)) partition by hash (user_id);
select keelson.user_table('regress_product.parts', role => 'regress_product_role');
reset role;
select keelson.user_table('regress_product.notes', role => 'regress_none');
select relrowsecurity, (select count(*) from pg_policy where polrelid = 'regress_product.notes'::regclass) as policies
from pg_class where oid = 'regress_product.notes'::regclass;

-- Again changes nothing.
select keelson.user_table('regress_product.notes');
select keelson.user_table('regress_product.notes');
select c.relname, c.relrowsecurity, c.relforcerowsecurity, p.polname, pg_get_expr(p.polqual, p.polrelid) as using, pg_get_expr(p.polwithcheck, p.polrelid) as "check"
from pg_class as c
join pg_policy as p on p.polrelid = c.oid
where c.relnamespace = 'regress_product'::regnamespace
order by c.relname, p.polname;
select c.relname, g.grantee::regrole, string_agg(g.privilege_type, ', ' order by g.privilege_type) as privileges
from pg_class as c
cross join aclexplode(c.relacl) as g
where c.relname in ('notes', 'parts') and c.relnamespace = 'regress_product'::regnamespace and g.grantee <> c.relowner
group by c.relname, g.grantee
order by c.relname, g.grantee::regrole::text;

-- Everybody has their own rows.
begin;
select keelson.act_as('ann@product.example.com') = :'ann' as is_ann;
insert into regress_product.notes (user_id, body) values (keelson.current_user_id(), 'of Ann');
insert into regress_product.notes (user_id, body) values (:'ben', 'slipped to Ben');
rollback;
begin;
select keelson.act_as('ann@product.example.com') = :'ann' as is_ann;
insert into regress_product.notes (user_id, body) values (keelson.current_user_id(), 'of Ann');
commit;
begin;
select keelson.act_as('ben@product.example.com') = :'ben' as is_ben;
select count(*) from regress_product.notes;
update regress_product.notes set body = 'of Ben';
delete from regress_product.notes;
commit;
select body from regress_product.notes;

-- They are in the export, and go with their user.
select * from keelson.user_data_tables() where relation like 'regress_product.%' order by relation;
begin;
select keelson.act_as('ann@product.example.com') = :'ann' as is_ann;
select data - 'id' as data from keelson.user_export() where "table" = 'regress_product.notes';
commit;
update keelson.users set status = 'deleted', deleted_at = '2020-01-01' where id = :'ann';
select keelson.users_erase() > 0 as is_erased;
select count(*) from regress_product.notes;

-- What a table has somebody's code do runs as its owner, not as who exports and erases: a trigger, a cast, what the planner computes.
create table regress_product.log (what text, done_as name);
grant insert on regress_product.log to public;
grant usage, create on schema regress_product to regress_product_role;
grant usage on schema regress_product to keelson_system;
set role regress_product_role;
create function regress_product.tell(what text) returns text language plpgsql as $$
begin
    insert into regress_product.log values (what, current_user);
    return what;
end
$$;
create function regress_product.surely(what text) returns text language plpgsql immutable as $$
begin
    return regress_product.tell(what);
end
$$;
create type regress_product.state as enum ('new', 'old');
create function regress_product.state_json(regress_product.state) returns json language sql as $$ select to_json(regress_product.tell('cast')) $$;
create cast (regress_product.state as json) with function regress_product.state_json(regress_product.state);
create table regress_product.traps (
    user_id uuid not null,
    id integer not null,
    state regress_product.state default 'new',
    made_at timestamptz default '2026-01-02 03:04:05Z',
    constraint traps_pkey primary key (user_id, id)
);
create index on regress_product.traps (id) where regress_product.surely('predicate') <> '';
create function regress_product.going() returns trigger language plpgsql as $$
begin
    perform regress_product.tell('trigger');
    insert into regress_product.late values (1);
    return old;
end
$$;
create trigger going before delete on regress_product.traps for each row execute function regress_product.going();
create table regress_product.late (id integer);
create function regress_product.later() returns trigger language plpgsql as $$
begin
    perform regress_product.tell('deferred trigger');
    return null;
end
$$;
create constraint trigger later after insert on regress_product.late deferrable initially deferred for each row execute function regress_product.later();
reset role;
select keelson.user_create('eve@product.example.com') as eve \gset
set role regress_product_role;
insert into regress_product.traps (user_id, id) values (:'eve', 1), (:'ben', 2);
reset role;
select keelson.user_table('regress_product.traps', role => 'regress_product_role');
truncate regress_product.log;
begin;
select keelson.act_as('eve@product.example.com') = :'eve' as is_eve;
select data from keelson.user_export() where "table" = 'regress_product.traps';
commit;
update keelson.users set status = 'deleted', deleted_at = '2020-01-01' where id = :'eve';
select keelson.users_erase() > 0 as is_erased;
select keelson.current_user_id() is null as is_nobody;
select user_id = :'ben' as of_ben from regress_product.traps;
select distinct what, done_as from regress_product.log where done_as <> 'postgres' and what <> 'predicate' order by what;
select count(*) from regress_product.log where what = 'predicate' and done_as = 'keelson_system';

delete from keelson.user_emails where email like '%@product.example.com';
delete from keelson.users where id = :'ben';
drop schema regress_product cascade;
drop role regress_product_admin, regress_product_role;
