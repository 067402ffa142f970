-- Avatars: the users' pictures. They are served as bytes, to their user and to
-- who may see users.

create or replace function keelson._image_read(
    image bytea,
    out content_type text,
    out width integer,
    out height integer,
    out fault text
)
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_image_read_sql';
comment on function keelson._image_read(bytea) is
    'What a PNG, JPEG or WebP picture is by its own words, or what is wrong with it, as a sentence. Its structure is followed to the end, its pixels are not decoded.';

create or replace function keelson.user_avatar_put(body bytea, content_type text default null)
returns keelson.user_object
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    acting uuid := keelson.acting_user_id();
    said text := lower(btrim(split_part(content_type, ';', 1)));
    picture record;
begin
    if coalesce(octet_length(body), 0) not between 1 and 1048576 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a picture has 1 byte to 1 MiB', field => 'body');
    end if;
    picture := keelson._image_read(body);
    if picture.fault is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', picture.fault, field => 'body');
    elsif said <> picture.content_type then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('the body is %s, not %s as its Content-Type says', picture.content_type, said),
            field => 'content_type');
    end if;
    perform keelson._avatar_set(acting, body, picture.content_type, picture.width, picture.height);
    return keelson.user_get(acting);
end
$$;
comment on function keelson.user_avatar_put(bytea, text) is
    'Set the picture of the user who is signed in: PNG, JPEG or WebP, up to 1 MiB, 8,192 pixels a side and 25 million altogether. What it is, its bytes tell; the header has to agree. It is kept as it is sent, with what the camera wrote into it.';
grant execute on function keelson.user_avatar_put(bytea, text) to keelson_app;

create or replace function keelson.user_avatar_get(v text default null)
returns keelson.reply
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    return keelson._avatar_reply(keelson.current_user_id());
end
$$;
comment on function keelson.user_avatar_get(text) is
    'The picture of the user who is signed in. v is not looked at: a new picture has another, and so another address.';
grant execute on function keelson.user_avatar_get(text) to keelson_app;

create or replace function keelson.user_avatar_read(id uuid, v text default null)
returns keelson.reply
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._user_require_readable(id);
    return keelson._avatar_reply(id);
end
$$;
comment on function keelson.user_avatar_read(uuid, text) is
    'The picture of a user: one''s own, or with the permission users.read anybody''s. Where avatarUrl of a user leads.';
grant execute on function keelson.user_avatar_read(uuid, text) to keelson_app;

create or replace function keelson.user_avatar_delete()
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    perform keelson._avatar_set(keelson.current_user_id(), null, null, null, null);
end
$$;
comment on function keelson.user_avatar_delete() is
    'Remove the picture of the user who is signed in; without one nothing happens.';
grant execute on function keelson.user_avatar_delete() to keelson_app;

-- Across users: executed by the core's own functions alone.

create or replace function keelson._avatar_set(user_id uuid, image bytea, content_type text, width integer, height integer)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    hash bytea := sha256(image);
begin
    -- The users' row first: two pictures at once take turns, and table and row agree.
    update keelson.users as u set avatar_hash = hash, updated_at = now()
    where u.id = _avatar_set.user_id and u.status <> 'deleted' and u.avatar_hash is distinct from hash;
    if not found then
        return;
    end if;
    if image is null then
        delete from keelson.avatars as a where a.user_id = _avatar_set.user_id;
    else
        insert into keelson.avatars as a (user_id, content_type, image, width, height)
        values (_avatar_set.user_id, _avatar_set.content_type, _avatar_set.image, _avatar_set.width, _avatar_set.height)
        on conflict on constraint avatars_pkey do update
        set content_type = excluded.content_type, image = excluded.image,
            width = excluded.width, height = excluded.height, updated_at = now();
    end if;
    perform keelson.audit('user.update', '{"changed": ["avatar"]}', user_id => _avatar_set.user_id);
end
$$;
alter function keelson._avatar_set(uuid, bytea, text, integer, integer) owner to keelson_system;
comment on function keelson._avatar_set(uuid, bytea, text, integer, integer) is
    'Give the user this picture, or with null take it away.';

create or replace function keelson._avatar_reply(user_id uuid)
returns keelson.reply
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    avatar keelson.avatars;
    hash bytea;
    headers jsonb;
begin
    select u.avatar_hash into hash from keelson.users as u where u.id = _avatar_reply.user_id and u.status <> 'deleted';
    if hash is null then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no picture');
    end if;
    -- Whoever looks again asks whether they still may.
    headers := jsonb_build_object('ETag', '"' || encode(hash, 'hex') || '"', 'Cache-Control', 'private, no-cache');
    if keelson._etag_matches((keelson.current_request()).if_none_match, encode(hash, 'hex')) then
        return row(304, headers, null)::keelson.reply;
    end if;
    select * into avatar from keelson.avatars as a where a.user_id = _avatar_reply.user_id;
    return row(
        200,
        headers || jsonb_build_object(
            'Content-Type', avatar.content_type,
            'Content-Disposition', 'inline',
            'Content-Security-Policy', 'default-src ''none''; sandbox; frame-ancestors ''none''; base-uri ''none'''
        ),
        avatar.image
    )::keelson.reply;
end
$$;
alter function keelson._avatar_reply(uuid) owner to keelson_system;
comment on function keelson._avatar_reply(uuid) is
    'The user''s picture as it is, 304 for who has it already; 404 without one.';
