-- A product for the tests: endpoint functions that show what the dispatcher and the gateway do with them.

create schema product;
comment on schema product is 'A product for the tests';
grant usage on schema product to keelson_app;

create table product.notes (
    user_id uuid not null,
    id uuid not null default keelson.uuid7(),
    text text not null,
    constraint notes_pkey primary key (user_id, id),
    constraint notes_text_check check (text <> 'forbidden'),
    constraint notes_text_key unique (user_id, text)
);
comment on constraint notes_text_check on product.notes is 'this word is not allowed';
alter table product.notes enable row level security;
create policy own on product.notes using (user_id = keelson.current_user_id()) with check (user_id = keelson.current_user_id());
grant select, insert, update, delete on product.notes to keelson_app;

create table product.badges (
    user_id uuid not null,
    name text not null,
    constraint badges_pkey primary key (user_id, name)
);
grant select, insert on product.badges to keelson_app;

create domain product.colour as text
constraint colour_check check (value in ('red', 'green', 'blue'));
comment on domain product.colour is 'must be red, green or blue';

create domain product.short_name as text
constraint short_name_check check (char_length(value) between 2 and 20);
comment on domain product.short_name is 'must have 2 to 20 characters';

create type product.echoed as (
    flag boolean,
    small_count smallint,
    amount numeric,
    name product.short_name,
    colour product.colour,
    tags text[],
    payload jsonb,
    on_day date,
    at_time timestamptz,
    item_id uuid,
    given text[]
);
comment on type product.echoed is 'What arrived, as SQL saw it';

create function product.echo(
    flag boolean default null,
    small_count smallint default null,
    amount numeric default null,
    name product.short_name default null,
    colour product.colour default null,
    tags text[] default null,
    payload jsonb default null,
    on_day date default null,
    at_time timestamptz default null,
    item_id uuid default null
)
returns product.echoed
language plpgsql
as $$
declare
    present text[];
begin
    select array_agg(n order by n) into present
    from unnest(array['flag', 'small_count', 'amount', 'name', 'colour', 'tags', 'payload', 'on_day', 'at_time', 'item_id']) as n
    where keelson.given(n);
    return row(flag, small_count, amount, name, colour, tags, payload, on_day, at_time, item_id, present)::product.echoed;
end;
$$;
comment on function product.echo is 'Returns its arguments. Nothing is kept.';

create type product.caller as (
    user_id uuid,
    session_id uuid,
    actor text,
    role text,
    session_role text,
    ip inet,
    user_agent text,
    request_id uuid
);
comment on type product.caller is 'Who is calling, as SQL sees it';

create function product.whoami()
returns product.caller
language plpgsql
as $$
begin
    return row(keelson.current_user_id(), keelson.current_session_id(), keelson.current_actor(), current_user,
        session_user, keelson.current_ip(), keelson.current_user_agent(), keelson.current_request_id())::product.caller;
end;
$$;
comment on function product.whoami() is 'Tells who is calling.';

create type product.item as (id uuid, name text);
comment on type product.item is 'A thing';

create function product.item_show(id uuid)
returns product.item
language plpgsql
as $$
begin
    return row(id, 'by id')::product.item;
end;
$$;
comment on function product.item_show(uuid) is 'Shows a thing.';

create function product.item_first()
returns product.item
language plpgsql
as $$
begin
    return row(null, 'the first')::product.item;
end;
$$;
comment on function product.item_first() is 'Shows the first thing.';

create function product.items("limit" int default 20, cursor text default null)
returns setof product.item
language plpgsql
as $$
declare
    after int := coalesce((keelson.cursor_decode(cursor) ->> 'after')::int, 0);
    most int := 45;
begin
    if "limit" not between 1 and 100 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'limit is 1 to 100', field => 'limit');
    end if;
    return query
    select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'item ' || n
    from generate_series(after + 1, least(after + "limit", most)) as n
    order by n;
    perform keelson.page("limit", case
        when after + "limit" < most then keelson.cursor_encode(jsonb_build_object('after', after + "limit"))
    end);
end;
$$;
comment on function product.items is 'Lists things, page by page.';

create function product.note_add(text text)
returns product.item
language plpgsql
as $$
declare
    made product.item;
begin
    insert into product.notes (user_id, text)
    values (keelson.current_user_id(), note_add.text)
    returning notes.id, notes.text into made;
    return made;
end;
$$;
comment on function product.note_add(text) is 'Writes a note.';

create function product.notes_list()
returns setof product.item
language plpgsql
as $$
begin
    return query select n.id, n.text from product.notes as n order by n.id;
end;
$$;
comment on function product.notes_list() is 'Lists the caller''s notes.';

create function product.badge_add(name text)
returns void
language plpgsql
as $$
begin
    insert into product.badges values (keelson.current_user_id(), badge_add.name);
end;
$$;
comment on function product.badge_add(text) is 'Adds a badge; a second one of the name is a conflict that nobody explained.';

create function product.note_refused(text text)
returns keelson.reply
language plpgsql
as $$
begin
    insert into product.notes (user_id, text) values (keelson.current_user_id(), note_refused.text);
    return keelson.refuse(403, 'NOT_TODAY', 'not today', extra => '{"challenge": "abc"}', headers => '{"Retry-After": "7"}');
end;
$$;
comment on function product.note_refused(text) is 'Writes a note and refuses: the note stays.';

create function product.note_slow(text text, seconds float8)
returns product.item
language plpgsql
as $$
declare
    made product.item := product.note_add(text);
begin
    perform pg_sleep(seconds);
    return made;
end;
$$;
comment on function product.note_slow(text, float8) is 'Writes a note and takes its time.';

create function product.fail(how text)
returns void
language plpgsql
as $$
begin
    case how
        when 'division' then perform 1 / 0;
        when 'table' then perform * from product.secret_place;
        when 'grant' then perform * from keelson.passwords;
        when 'raise' then raise exception 'inner words with canary-inside';
        when 'not_found' then perform keelson.raise(404, 'NOT_FOUND', 'there is no such thing', 'Look elsewhere.');
        when 'teapot' then perform keelson.raise(409, 'SLOT_TAKEN', 'the slot is taken', field => 'slot_id');
        when 'serialization' then raise exception 'canary' using errcode = '40001';
        when 'deadlock' then raise exception 'canary' using errcode = '40P01';
        when 'read_only' then raise exception 'canary' using errcode = '25006';
        when 'full' then raise exception 'canary' using errcode = '53100';
        when 'cancelled' then raise exception 'canary' using errcode = '57014';
    end case;
end;
$$;
comment on function product.fail(text) is 'Fails in the way that is asked.';

create function product.upload(body bytea, content_type text)
returns product.item
language plpgsql
as $$
begin
    return row(null, content_type || ' ' || octet_length(body) || ' ' || encode(sha256(body), 'hex'))::product.item;
end;
$$;
comment on function product.upload(bytea, text) is 'Takes bytes as they are.';

create function product.fields(body bytea, headers jsonb)
returns jsonb
language plpgsql
as $$
begin
    return headers;
end;
$$;
comment on function product.fields(bytea, jsonb) is 'Tells the header fields of the request.';

create function product.page()
returns keelson.reply
language plpgsql
as $$
begin
    return row(200, '{"Content-Type": "text/html; charset=utf-8", "Set-Cookie": ["a=1", "b=2"], ":raw": true}'::jsonb,
        convert_to('<p>ünï</p>', 'UTF8'))::keelson.reply;
end;
$$;
comment on function product.page() is 'Replies with a page of its own.';

create function product.large(size int)
returns jsonb
language plpgsql
as $$
begin
    return jsonb_build_object('text', repeat('x', size));
end;
$$;
comment on function product.large(int) is 'Replies at length.';

create function product.nothing()
returns void
language plpgsql
as $$
begin
end;
$$;
comment on function product.nothing() is 'Does nothing.';

create function product.export(count int)
returns setof product.item
language plpgsql
as $$
begin
    for n in 1 .. count loop
        return next row(null, 'row ' || n)::product.item;
    end loop;
end;
$$;
comment on function product.export(int) is 'Sends many rows.';

create table product.clock (now int);
insert into product.clock values (0);
grant select on product.clock to keelson_app;

create function product.tick()
returns product.item
language plpgsql
as $$
begin
    return row(null, 'tick ' || (select now from product.clock))::product.item;
end;
$$;
comment on function product.tick() is 'Tells a counter.';

create function product.forge(how text, target uuid)
returns product.caller
language plpgsql
as $$
begin
    begin
        case how
            when 'set_config' then perform set_config('keelson.user_id', target::text, true), set_config('keelson.current_user_id', target::text, true);
            when 'act_as' then perform keelson.act_as(target::text);
            when 'role' then execute format('set local role %I', (select rolname from pg_roles where oid = 10));
            when 'reset' then execute 'reset role';
            when 'session' then execute format('set session authorization %I', (select rolname from pg_roles where oid = 10));
            when 'dispatch' then perform keelson.dispatch(1, null, null, null, null);
            when 'discard' then execute 'discard all';
            when 'token' then perform keelson.jwt_sign(jsonb_build_object('sub', target), 'at+jwt');
            when 'notes' then insert into product.notes (user_id, text) values (target, 'forged');
            when 'roles' then insert into keelson.user_roles (user_id, role) values (keelson.current_user_id(), 'admin');
            when 'users' then update keelson.users set name = 'forged';
            when 'passwords' then perform * from keelson.passwords;
        end case;
        raise exception 'it went through' using errcode = 'P0099';
    exception
        when sqlstate 'P0099' then
            return row(keelson.current_user_id(), null, 'went through', current_user, session_user, null, null, null)::product.caller;
        when others then
            return row(keelson.current_user_id(), null, sqlstate, current_user, session_user, null, sqlerrm, null)::product.caller;
    end;
end;
$$;
comment on function product.forge(text, uuid) is 'Tries to be somebody else, and tells how it ended.';

select keelson.route('POST product/echo', 'product.echo', is_public => true);
select keelson.route('GET product/echo', 'product.echo', is_public => true);
select keelson.route('PUT product/echo/:itemId', 'product.echo', is_public => true);
select keelson.route('GET product/whoami', 'product.whoami');
select keelson.route('POST product/whoami', 'product.whoami', is_public => true);
select keelson.route('GET product/items', 'product.items', is_public => true);
select keelson.route('GET product/items/first', 'product.item_first', is_public => true);
select keelson.route('GET product/items/:id', 'product.item_show', is_public => true);
select keelson.route('POST product/notes', 'product.note_add', status => 201, errors => '{CONFLICT}');
select keelson.route('GET product/notes', 'product.notes_list');
select keelson.route('POST product/notes/refused', 'product.note_refused', errors => '{403 NOT_TODAY,CONFLICT}');
select keelson.route('POST product/notes/slow', 'product.note_slow', status => 201, errors => '{CONFLICT}');
select keelson.route('POST product/notes/hurried', 'product.note_slow', timeout => '500 milliseconds', status => 201, errors => '{CONFLICT}');
select keelson.route('POST product/badges', 'product.badge_add', errors => '{CONFLICT}');
select keelson.route('POST product/fail', 'product.fail', is_public => true, errors => '{NOT_FOUND,409 SLOT_TAKEN}');
select keelson.route('GET product/fail', 'product.fail', is_public => true, errors => '{NOT_FOUND,409 SLOT_TAKEN}');
select keelson.route('PUT product/upload', 'product.upload', is_public => true, is_raw => true, content_types => '{image/png,text/plain}', body_limit => 2097152);
select keelson.route('PUT product/fields', 'product.fields', is_public => true, is_raw => true);
select keelson.route('GET product/page', 'product.page', is_public => true, is_raw => true);
select keelson.route('GET product/large', 'product.large', is_public => true);
select keelson.route('POST product/small', 'product.echo', is_public => true, body_limit => 100);
select keelson.route('DELETE product/nothing', 'product.nothing', is_public => true);
select keelson.route('GET product/export', 'product.export', is_public => true, kind => 'rows');
select keelson.route('GET product/tick', 'product.tick', is_public => true, kind => 'watch');
select keelson.route('POST product/forge', 'product.forge');
select keelson.route('GET product/administer', 'product.nothing', permission => 'users.write');
