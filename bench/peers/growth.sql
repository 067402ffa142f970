-- Notes, for how cost grows with rows: one table, read by Keelson through row-level security and by a peer past it.

create table bench.notes (
    user_id uuid not null,
    id uuid not null default keelson.uuid7(),
    text text not null,
    updated_at timestamptz not null default now(),
    constraint notes_pkey primary key (user_id, id)
) with (fillfactor = 90);
alter table bench.notes enable row level security;
create policy own on bench.notes to keelson_app
    using (user_id = keelson.current_user_id())
    with check (user_id = keelson.current_user_id());
create policy peer on bench.notes to peer using (true) with check (true);
grant select, update on bench.notes to keelson_app, peer;
grant usage on schema bench to peer;

create type bench.note_reply as (id uuid, text text);

create function bench.note(id uuid)
returns bench.note_reply
language plpgsql
stable
as $$
declare
    reply bench.note_reply;
begin
    select n.id, n.text into reply
    from bench.notes as n
    where n.user_id = keelson.current_user_id() and n.id = note.id;
    return reply;
end;
$$;
comment on function bench.note(uuid) is 'A note of the user''s';

create function bench.note_change(id uuid, text text)
returns bench.note_reply
language plpgsql
as $$
declare
    reply bench.note_reply;
begin
    update bench.notes as n set text = note_change.text, updated_at = now()
    where n.user_id = keelson.current_user_id() and n.id = note_change.id
    returning n.id, n.text into reply;
    return reply;
end;
$$;
comment on function bench.note_change(uuid, text) is 'Changes a note of the user''s';
grant execute on function bench.note(uuid), bench.note_change(uuid, text) to keelson_app;
select keelson.route('GET bench/notes/:id', 'bench.note');
select keelson.route('PUT bench/notes/:id', 'bench.note_change');

create function peer.note(session_id uuid, user_id uuid, id uuid)
returns text
language plpgsql
stable
as $$
begin
    if not peer.has_session(session_id, user_id) then
        return null;
    end if;
    return (
        select json_build_object('success', true, 'data', json_build_object('id', n.id, 'text', n.text))::text
        from bench.notes as n
        where n.user_id = note.user_id and n.id = note.id);
end;
$$;

create function peer.note_change(session_id uuid, user_id uuid, id uuid, text text)
returns text
language plpgsql
as $$
declare
    reply text;
begin
    if not peer.has_session(session_id, user_id) then
        return null;
    end if;
    update bench.notes as n set text = note_change.text, updated_at = now()
    where n.user_id = note_change.user_id and n.id = note_change.id
    returning json_build_object('success', true, 'data', json_build_object('id', n.id, 'text', n.text))::text into reply;
    return reply;
end;
$$;
grant execute on function peer.note(uuid, uuid, uuid), peer.note_change(uuid, uuid, uuid, text) to peer;
