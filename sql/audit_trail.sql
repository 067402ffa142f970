-- The sealed trail: verifying, proofs, reading, retention, erasure.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;
select keelson.audit_event_type('regress.trail', 'Something happened in a test of the trail.');
select keelson.audit_event_type('regress.brief', 'Something that is not kept for long.');
select keelson.user_create('ada@trail.example.com') as ada, keelson.user_create('ben@trail.example.com') as ben \gset
reset client_min_messages;
create function pg_temp.seal() returns bigint language plpgsql as $$
declare
    unsealed bigint;
begin
    -- The keeper seals too; other sessions' transactions may still be open.
    for i in 1..200 loop
        perform keelson.audit_seal();
        select count(*) into unsealed from keelson.audit_events as e
        where (e.era, e.xid, e.id) > (select c.era, c.xid, c.event_id from keelson.audit_checkpoints as c order by c.size desc limit 1);
        exit when unsealed = 0;
        perform pg_sleep(0.05);
    end loop;
    return unsealed;
end $$;

select clock_timestamp() as began \gset
select count(keelson.audit('regress.trail', jsonb_build_object('n', n), user_id => :'ada')) from generate_series(1, 600) as n;
select pg_temp.seal();
select clock_timestamp() as ended \gset
create function pg_temp.verify(began timestamptz, ended timestamptz)
returns table (finding text, n jsonb, detail text)
language sql
as $$
    select v.finding, e.data -> 'n', regexp_replace(v.detail, '[0-9a-f-]{36}|[0-9]+', '…', 'g')
    from keelson.audit_verify(began, ended) as v
    left join keelson.audit_events as e on e.id = v.event_id
    order by 1, 2, 3
$$;

-- What is whole is found whole; then each thing that can be done to it is named.
select * from pg_temp.verify(:'began', :'ended');
begin;
update keelson.audit_events set data = '{"n": 0}' where user_id = :'ada' and data = '{"n": 17}';
select * from pg_temp.verify(:'began', :'ended');
rollback;
begin;
update keelson.audit_events set outcome = 'failure' where user_id = :'ada' and data = '{"n": 17}';
select * from pg_temp.verify(:'began', :'ended');
rollback;
begin;
update keelson.audit_events set user_id = :'ben' where user_id = :'ada' and data = '{"n": 17}';
select * from pg_temp.verify(:'began', :'ended');
rollback;
begin;
delete from keelson.audit_events where user_id = :'ada' and data = '{"n": 18}' returning data;
select * from pg_temp.verify(:'began', :'ended');
rollback;
begin;
insert into keelson.audit_events (user_id, id, era, xid, event_type, outcome, actor, data)
select user_id, keelson._uuid7_floor(:'began'::timestamptz + interval '1 ms'), era, xid, event_type, outcome, actor, '{"n": -1}' from keelson.audit_events
where user_id = :'ada' and data = '{"n": 19}';
select * from pg_temp.verify(:'began', :'ended');
rollback;
begin;
update keelson.audit_events as e set data = other.data from keelson.audit_events as other
where e.user_id = :'ada' and other.user_id = :'ada' and (e.data, other.data) in (('{"n": 20}', '{"n": 30}'), ('{"n": 30}', '{"n": 20}'));
select * from pg_temp.verify(:'began', :'ended');
rollback;
begin;
delete from keelson.audit_events where user_id = :'ada' and (data ->> 'n')::int > 597;
select * from pg_temp.verify(:'began', :'ended');
rollback;
-- The tree and its checkpoints.
begin;
delete from keelson.audit_tiles where level = 0 and number = (select max(number) from keelson.audit_tiles where level = 0);
select distinct finding, detail from pg_temp.verify(:'ended', :'ended') order by 1, 2;
rollback;
begin;
update keelson.audit_tiles set hashes = overlay(hashes placing sha256('x') from 33) where level = 0 and number = 0;
select count(*) > 0 as is_noticed from keelson.audit_verify('1970-01-02', now()) where finding in ('tree', 'checkpoint');
rollback;
begin;
update keelson.audit_checkpoints set root = sha256('x') where size = (select max(size) from keelson.audit_checkpoints);
select distinct finding, detail from pg_temp.verify(:'ended', :'ended') order by 1, 2;
rollback;
-- A history that was cut off or written anew as a whole shows by a checkpoint that was kept.
select signature as kept from keelson.audit_checkpoints order by size desc limit 1 \gset
select finding, detail from keelson.audit_verify(:'ended', :'ended', :'kept');
begin;
delete from keelson.audit_checkpoints where size = (select max(size) from keelson.audit_checkpoints);
select distinct finding from keelson.audit_verify(:'ended', :'ended', :'kept') order by finding;
rollback;
select finding, detail from keelson.audit_verify(:'ended', :'ended', 'nonsense');
select finding, detail from keelson.audit_verify(:'ended', :'ended', :'kept' || 'x');

-- A proof: the leaf is what it says, and the path leads to the root that was signed.
select id as proven from keelson.audit_events where user_id = :'ada' and data = '{"n": 300}' \gset
create function pg_temp.root_of(proof jsonb)
returns bytea
language plpgsql
as $$
declare
    hash bytea := sha256('\x00'::bytea || decode(proof ->> 'leaf', 'base64'));
    place bigint := (proof ->> 'leafIndex')::bigint;
    last bigint := (proof ->> 'treeSize')::bigint - 1;
    sibling bytea;
begin
    -- RFC 9162, 2.1.3.2.
    for sibling in select decode(p, 'base64') from jsonb_array_elements_text(proof -> 'proof') as p loop
        if place % 2 = 1 or place = last then
            hash := sha256('\x01'::bytea || sibling || hash);
            while place % 2 = 0 and place <> 0 loop
                place := place / 2;
                last := last / 2;
            end loop;
        else
            hash := sha256('\x01'::bytea || hash || sibling);
        end if;
        place := place / 2;
        last := last / 2;
    end loop;
    return hash;
end $$;
select jsonb_object_keys(keelson.audit_proof(:'proven')) as member;
select encode(pg_temp.root_of(p), 'hex') = keelson._audit_signed(p ->> 'checkpoint', 'audit-checkpoint') ->> 'root' as leads_to_the_root,
    convert_from(decode(p ->> 'leaf', 'base64'), 'UTF8') ~ '^keelson\.audit\.1\n[0-9a-f-]{36}\n[0-9a-f-]{36}\n\d+\n\d+\nregress\.trail\nsuccess\nadmin\n\n\n\{"n": 300\}\n$' as is_the_event
from keelson.audit_proof(:'proven') as p;
select count(*), bool_and(encode(pg_temp.root_of(p), 'hex') = keelson._audit_signed(p ->> 'checkpoint', 'audit-checkpoint') ->> 'root')
from keelson.audit_events as e, keelson.audit_proof(e.id) as p
where e.user_id = :'ada' and (e.data ->> 'n')::int % 50 = 0;
select keelson.audit_proof(keelson.uuid7());
begin;
select keelson.audit('regress.trail') as fresh \gset
select keelson.audit_proof(:'fresh');
rollback;

-- The tree is RFC 6962's: the known roots of the known leaves.
begin;
delete from keelson.audit_tiles;
insert into keelson.audit_tiles (level, number, hashes, event_ids, event_times)
select 0, 0, string_agg(sha256('\x00'::bytea || leaf), ''::bytea order by n), decode(repeat('00', 16 * 8), 'hex'), int8range(0, 1)
from unnest(array[
    '', '\x00', '\x10', '\x2021', '\x3031', '\x40414243', '\x5051525354555657', '\x606162636465666768696a6b6c6d6e6f'
]::bytea[]) with ordinality as l (leaf, n);
select size, encode(keelson._audit_root(size), 'hex') as root from generate_series(0, 8) as size;
select keelson._audit_root(9) is null as is_missing;
rollback;

-- Erasing a user's key erases what tells of the person; every proof holds, and nothing is missed.
select keelson.audit('regress.trail', '{"email": "ada@trail.example.com", "n": 1000}', user_id => :'ada') as personal \gset
select pg_temp.seal();
select data from (select (keelson._audit_event(id, event_type, outcome, user_id, actor, actor_id, data, personal, request_id)).* from keelson.audit_events where id = :'personal') as e;
select keelson.audit_proof(:'personal') - '{checkpoint,proof,treeSize,key}'::text[] as before \gset
begin;
select keelson._user_keys_erase(:'ada') as erased, keelson._audit_forget(:'ada') as forgotten;
select data from (select (keelson._audit_event(id, event_type, outcome, user_id, actor, actor_id, data, personal, request_id)).* from keelson.audit_events where id = :'personal') as e;
select keelson.audit_proof(:'personal') - '{checkpoint,proof,treeSize,key}'::text[] = :'before' as same_leaf;
select * from pg_temp.verify(:'began', now());
rollback;

-- Reading: one's own, page by page, and nobody else's.
begin;
select keelson.act_as(:'ada') = :'ada' as acts;
select count(*), count(distinct user_id) from keelson.user_activity("limit" => 100);
select type, outcome, actor, data from keelson.user_activity("limit" => 3);
select keelson.user_activity("limit" => 0);
rollback;
begin;
select keelson.act_as(:'ada') = :'ada' as acts;
select keelson.admin_audit();
rollback;
select keelson.user_activity();
select keelson.role_grant('ben@trail.example.com', 'support');
begin;
select keelson.act_as(:'ben') = :'ben' as acts;
select data -> 'n' as n from keelson.admin_audit(type => 'regress.trail', user_id => :'ada', "limit" => 3);
select count(*) from keelson.admin_audit(type => 'regress.trail', user_id => :'ben', "limit" => 3);
select count(*) from keelson.admin_audit(user_id => :'ada', outcome => 'failure', "limit" => 3);
select type, data ->> 'role' as role from keelson.admin_audit(type => 'admin.role_grant', user_id => :'ben', actor => 'admin', "limit" => 3);
select count(*) from keelson.admin_audit(user_id => :'ada', "from" => '2001-01-01', "to" => '2002-01-01');
-- Reading is not itself recorded, what is sealed of persons neither.
select count(*) as before from keelson.admin_audit(user_id => :'ben', "limit" => 100) \gset
select count(*) > 0 as has_opened from keelson.admin_audit(user_id => :'ada', "limit" => 100) as e where e.data ? 'email' or e.ip_address is not null;
select count(*) = :before as is_unrecorded from keelson.admin_audit(user_id => :'ben', "limit" => 100);
rollback;
begin;
select keelson.act_as(:'ben') = :'ben' as acts;
select (e ->> 'events')::int >= 601 as are_counted, e ->> 'outcome' as outcome
from jsonb_array_elements(keelson.admin_audit_summary() -> 'types') as e
where e ->> 'type' = 'regress.trail';
select jsonb_object_keys(keelson.audit_checkpoint(1)) as member;
rollback;
select keelson.audit('regress.trail', '{"n": "bad"}', 'denied', :'ben') is not null as recorded;
select type, outcome, data from keelson.security_events(1);
select keelson.security_events(0);

-- Searching: a page may be short, but page after page finds all that fits and nothing else, in days that are indexed and
-- in those that are looked through.
begin;
set local client_min_messages = warning;
select keelson.audit_partitions_make(2, '2021-05-02 12:00Z') as days;
insert into keelson.audit_events (user_id, id, era, xid, event_type, outcome, actor, address_hash, data)
select case when n % 2 = 0 then :'ada' else :'ben' end::uuid,
    overlay(keelson._uuid7_floor(timestamptz '2021-05-01 00:00Z' + make_interval(mins => 14 * n))::text placing '7' from 15 for 1)::uuid,
    keelson._current_era(), pg_current_xact_id(), case when n % 3 = 0 then 'regress.brief' else 'regress.trail' end,
    case when n % 5 = 0 then 'denied' when n % 7 = 0 then 'failure' else 'success' end, 'system',
    case when n % 4 = 0 then keelson._audit_address_hash((select max(k.key_id) from keelson._keyring_loaded() as k), '192.0.2.7') end,
    jsonb_build_object('n', n)
from generate_series(1, 400) as n;
create function pg_temp.found(filter jsonb, page integer) returns integer[] language plpgsql as $$
declare
    n integer[] := '{}';
    got record;
    before_id uuid;
begin
    loop
        got := keelson._audit_search(filter || '{"from": "2021-05-01T00:00:00Z", "to": "2021-05-05T00:00:00Z"}', page, before_id);
        n := n || array(select (m.data ->> 'n')::int from unnest(got.matches) as m);
        exit when got.next_id is null;
        if got.next_id >= before_id then
            raise exception 'a page does not go on';
        end if;
        before_id := got.next_id;
    end loop;
    return n;
end $$;
create function pg_temp.misfound() returns table (filter jsonb, events integer) language sql as $$
    select f.filter, cardinality(w.n)
    from (values ('{}'::jsonb), ('{"type": "regress.brief"}'), ('{"ip": "192.0.2.7"}'), ('{"ip": "192.0.2.8"}'),
        ('{"ip": "192.0.2.7", "type": "regress.brief"}'), ('{"type": "regress.trail", "outcome": "denied"}'),
        ('{"type": "regress.trail", "actor": "user"}'), ('{"outcome": "failure"}'), ('{"ip": "192.0.2.7", "outcome": "success"}')) as f (filter)
    cross join lateral (
        select coalesce(array_agg((e.data ->> 'n')::int order by e.id desc), '{}') from keelson.audit_events as e
        where e.id >= keelson._uuid7_floor('2021-05-01 00:00Z') and e.id < keelson._uuid7_floor('2021-05-06 00:00Z')
            and e.event_type = coalesce(f.filter ->> 'type', e.event_type) and e.outcome = coalesce(f.filter ->> 'outcome', e.outcome)
            and e.actor = coalesce(f.filter ->> 'actor', e.actor)
            and (f.filter ->> 'ip' is null or f.filter ->> 'ip' = '192.0.2.7' and e.address_hash is not null)
    ) as w (n)
    cross join generate_series(1, 40, 13) as page
    where pg_temp.found(f.filter, page) is distinct from w.n
$$;
select * from pg_temp.misfound();
-- A day is indexed once it is over, and once.
select keelson._audit_partitions_index(10, '2021-05-03 00:30Z'), keelson._audit_partitions_index(10, '2021-05-03 01:00Z'), keelson._audit_partitions_index(10, '2021-05-03 01:00Z');
select p.name, count(i.indexname) from keelson.audit_partitions as p
left join pg_indexes as i on i.schemaname = 'keelson' and i.tablename = p.name
where p.from_at between '2021-05-01 00:00Z' and '2021-05-04 00:00Z' group by p.name order by p.name;
select * from pg_temp.misfound();
select cardinality(pg_temp.found('{"type": "regress.brief"}', 100)), cardinality(pg_temp.found('{"ip": "192.0.2.7"}', 100));
rollback;

-- A day of many events that no index but that of ranges tells of is looked through by spans of time, of which some hold more
-- than a page may look at, and some nothing; whether the index knows of its pages or does not; and of events that have moved.
begin;
set local client_min_messages = warning;
select keelson.audit_partitions_make(0, '2021-06-01 12:00Z') as days;
create function pg_temp.add(from_n integer, until_n integer, who uuid) returns void language sql as $$
    insert into keelson.audit_events (user_id, id, era, xid, event_type, outcome, actor, data, address_hash)
    select who,
        -- Six thousand within a second, then nothing for two hours; each millisecond has twelve.
        overlay(keelson._uuid7_floor(timestamptz '2021-06-01 01:00Z' + make_interval(hours => 2 * (n / 6000), secs => n % 6000 / 12 * 0.002))::text
            placing '7' || lpad(to_hex(n % 12), 3, '0') || '-8' || lpad(to_hex(n % 12), 3, '0') || '-' || lpad(to_hex(n), 12, '0') from 15)::uuid,
        keelson._current_era(), pg_current_xact_id(), case when n % 5000 = 0 then 'regress.brief' else 'regress.trail' end,
        case when n % 1000 = 0 then 'failure' else 'success' end, 'system', jsonb_build_object('n', n, 'much', repeat('x', 100)), '\x01'
    from generate_series(from_n, until_n) as n order by n
$$;
select pg_temp.add(1, 26000, :'ada');
create function pg_temp.pages(filter jsonb, page integer) returns table (events integer, is_exact boolean, pages integer) language plpgsql as $$
declare
    n integer[] := '{}';
    got record;
    before_id uuid;
    pages integer := 0;
begin
    loop
        got := keelson._audit_search(filter || '{"from": "2021-06-01T00:00:00Z", "to": "2021-06-01T23:59:59Z"}', page, before_id);
        n := n || array(select (m.data ->> 'n')::int from unnest(got.matches) as m);
        pages := pages + 1;
        exit when got.next_id is null;
        if got.next_id >= before_id then
            raise exception 'a page does not go on';
        end if;
        before_id := got.next_id;
    end loop;
    return query select cardinality(n), n = array(
        select m from generate_series(26000, 1, -1) as m where (filter ->> 'type' is null or m % 5000 = 0) and filter ->> 'actor' is null
    ), pages;
end $$;
create function pg_temp.ranges() returns oid language sql as $$
    select i.indexrelid from pg_index as i join pg_class as c on c.oid = i.indexrelid join pg_am as a on a.oid = c.relam
    where i.indrelid = 'keelson.audit_events_20210601'::regclass and a.amname = 'brin'
$$;
create function pg_temp.searched(for_all boolean) returns table (filter jsonb, events integer, is_exact boolean, is_few_pages boolean) language sql as $$
    select f.filter, p.events, p.is_exact, p.pages <= f.most
    from (values ('{}'::jsonb, 5000, 12), ('{"type": "regress.brief"}', 2, 8), ('{"actor": "user"}', 100, 6))
        as f (filter, page, most)
    cross join lateral pg_temp.pages(f.filter, f.page) as p
    where for_all or f.filter <> '{}'
$$;
-- Nothing but that index is asked; there are no statistics to advise it.
select * from pg_temp.searched(false);
select keelson._audit_days_summarise() > 10 as summarised, keelson._audit_days_summarise() as again;
select * from pg_temp.searched(false);
select pg_stat_get_xact_numscans(pg_temp.ranges()) > 0 as by_ranges, pg_stat_get_xact_numscans('keelson.audit_events_20210601_pkey'::regclass) as by_key;
-- Erasure moves what it changes to another page.
create temporary table moved as select e.id, e.ctid as was from keelson.audit_events_20210601 as e where (e.data ->> 'n')::int % 700 = 0;
select keelson._audit_forget(:'ada', 26000) >= 26000 as forgotten;
select count(*) > 30 as have_moved from moved as m join keelson.audit_events_20210601 as e using (id) where e.ctid <> m.was;
select * from pg_temp.searched(true);
-- And what is not sealed is found by its transaction, wherever it lies.
select keelson._audit_has_unsealed(array['audit_events_20210601'], keelson._current_era(), pg_current_xact_id(), max(e.id::text)::uuid) as after_the_last,
    keelson._audit_has_unsealed(array['audit_events_20210601'], keelson._current_era(), pg_current_xact_id(), max(e.id::text) filter (where e.data ->> 'n' <> '26000')::uuid) as before_the_last,
    keelson._audit_has_unsealed(array['audit_events_20210601'], keelson._current_era(), (pg_current_xact_id()::text::bigint - 1)::text::xid8, keelson.uuid7()) as before_them_all,
    keelson._audit_has_unsealed(array['audit_events_20210601'], keelson._current_era() + 1, '3', keelson.uuid7()) as after_their_era
from keelson.audit_events_20210601 as e;
rollback;

-- Retention: rules, holds, and what goes. Days of long ago stand in for the passing of time.
select keelson.retention_set('regress.unheard_of', '1 day');
select keelson.retention_set('regress.brief', '1 hour');
select keelson.retention_set('*', null);
select keelson.legal_hold_place('ben@trail.example.com', '');
select keelson.legal_hold_place('nobody@trail.example.com', 'x');
begin;
set local client_min_messages = warning;
select keelson.audit_partitions_make(0, '2020-03-01 12:00Z');
insert into keelson.audit_events (user_id, id, era, xid, event_type, outcome, actor, data)
select case when n % 2 = 0 then :'ada' else :'ben' end::uuid,
    overlay(keelson._uuid7_floor(timestamptz '2020-03-01 00:00Z' + make_interval(mins => n))::text placing '7' from 15 for 1)::uuid,
    keelson._current_era(), pg_current_xact_id(), case when n % 10 = 0 then 'regress.brief' else 'regress.trail' end, 'success', 'system', jsonb_build_object('n', n)
from generate_series(1, 100) as n;
commit;
select pg_temp.seal();
select keelson.legal_hold_place('ben@trail.example.com', 'a letter came'), keelson.legal_hold_place('ben@trail.example.com', 'again');
-- Nobody learns of being held.
begin;
select keelson.act_as(:'ben') = :'ben' as acts;
select count(*) from keelson.user_activity("limit" => 100) as a where a.type = 'admin.legal_hold';
select * from keelson.legal_holds;
rollback;
select count(*) from keelson.audit_events as e where e.event_type = 'admin.legal_hold' and e.data ->> 'heldUserId' = :'ben';
select keelson.retention_set('regress.brief', '30 days');
create function pg_temp.left_over() returns table (event_type text, user_name text, events bigint) language sql as $$
    select e.event_type, split_part(u.email, '@', 1), count(*) from keelson.audit_events as e join keelson.users as u on u.id = e.user_id
    where e.id < keelson._uuid7_floor('2020-03-02 00:00Z') and e.id >= keelson._uuid7_floor('2020-03-01 00:00Z') group by 1, 2 order by 1, 2
$$;
-- After 40 days the brief ones are due, in batches; after 90 all, but for the user who is held.
select keelson.audit_expire(4, '2020-04-12 00:00Z'), keelson.audit_expire(4, '2020-04-12 00:00Z'), keelson.audit_expire(4, '2020-04-12 00:00Z'), keelson.audit_expire(4, '2020-04-12 00:00Z');
select * from pg_temp.left_over();
select keelson.audit_expire(moment => '2020-07-01 00:00Z');
select * from pg_temp.left_over();
select finding, regexp_replace(detail, '[0-9]{8}', '…') as detail from keelson.audit_verify('2020-03-01 00:00Z', '2020-03-01 23:59Z') order by 2;
-- Released, the rest goes with its partition.
select keelson.legal_hold_release('ben@trail.example.com'), keelson.legal_hold_release('ben@trail.example.com');
select keelson.audit_expire(moment => '2020-07-01 00:00Z') > 0 as took_some;
select to_regclass('keelson.audit_events_20200301') is null as is_dropped;
select distinct finding from keelson.audit_verify('2020-03-01 00:00Z', '2020-03-01 23:59Z');
-- Only a tombstone that was signed is believed.
begin;
update keelson.audit_tombstones set reason = reason || '!' where from_id = keelson._uuid7_floor('2020-03-01 00:00Z');
select finding, count(*) from keelson.audit_verify('2020-03-01 00:00Z', '2020-03-01 23:59Z') group by finding order by finding;
rollback;
select keelson.retention_set('regress.brief', null);
select event_type, keep_for from keelson.retention_policies order by event_type;
select keelson.audit_expire(0);
select keelson.audit_partitions_make(-1);
select keelson.audit_partitions_make(0, '-infinity');
select keelson.audit_partitions_make(0, '1969-12-31 00:00Z');
select count(*) from keelson.audit_verify('-infinity', '1970-01-02');
select count(*) from keelson.audit_verify('2100-01-01', 'infinity');
select keelson.audit_verify('2021-01-01', '2020-01-01');
