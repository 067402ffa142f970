-- Sources of incoming webhooks: who may send, how it is signed, with which secrets.

create or replace function keelson._webhook_verify(
    scheme jsonb,
    secrets bytea[],
    ids uuid[],
    purposes text[],
    headers jsonb,
    body bytea,
    moment timestamptz
)
returns text
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__webhook_verify';
comment on function keelson._webhook_verify(jsonb, bytea[], uuid[], text[], jsonb, bytea, timestamptz) is
    'Null when the body is signed as the scheme says, with one of the sealed secrets or the scheme''s public keys; else missing, malformed, too_old, too_new, mismatch or unconfigured.';

create or replace function keelson._webhook_rejected(source text, fault text)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__webhook_rejected';
comment on function keelson._webhook_rejected(text, text) is
    'Count a request that is not taken, in shared memory.';

create or replace function keelson._webhook_rejections_add(
    source text,
    fault text,
    rejections bigint,
    last_at timestamptz,
    address text,
    user_agent text
)
returns void
language sql
volatile
as $$
insert into keelson.webhook_rejections as r (source, fault, rejections, first_at, last_at, last_address, last_user_agent)
values (source, fault, rejections, last_at, last_at, address, user_agent)
on conflict on constraint webhook_rejections_pkey do update
set rejections = r.rejections + excluded.rejections, last_at = excluded.last_at,
    last_address = excluded.last_address, last_user_agent = excluded.last_user_agent
$$;
comment on function keelson._webhook_rejections_add(text, text, bigint, timestamptz, text, text) is
    'Write down refused requests that were counted.';

-- Settings.

create or replace function keelson._webhook_scheme_fault(scheme jsonb)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    known constant text[] := '{algorithm,header,format,prefix,encoding,signatureKey,timestampKey,timestampHeader,idHeader,content,key,tolerance,keys,unlessHeader,until}';
    header text;
begin
    if jsonb_typeof(scheme) is distinct from 'object' then
        return 'a scheme is an object';
    elsif exists (select from jsonb_object_keys(scheme) as k where k <> all (known)) then
        return 'a scheme has the members ' || array_to_string(known, ', ');
    elsif coalesce(scheme ->> 'algorithm', '') not in ('hmac-sha1', 'hmac-sha256', 'hmac-sha512', 'ed25519', 'rsa-sha256', 'token') then
        return 'the algorithm is hmac-sha1, hmac-sha256, hmac-sha512, ed25519, rsa-sha256 or token';
    elsif scheme ->> 'header' is null then
        return 'a scheme needs the header that the signature stands in';
    elsif coalesce(scheme ->> 'format', 'plain') not in ('plain', 'pairs', 'list') then
        return 'the format is plain, pairs or list';
    elsif coalesce(scheme ->> 'encoding', 'hex') not in ('hex', 'base64') then
        return 'the encoding is hex or base64';
    elsif coalesce(scheme ->> 'key', 'text') not in ('text', 'base64', 'whsec') then
        return 'key is text, base64 or whsec';
    elsif scheme ? 'tolerance' and coalesce(scheme ->> 'tolerance', '') !~ '^[0-9]{1,6}$' then
        return 'the tolerance is a number of seconds';
    elsif scheme ? 'keys' and jsonb_typeof(scheme -> 'keys') <> 'array' then
        return 'keys is a list of public keys';
    elsif scheme ? 'content' and scheme ->> 'content' not like '%{body}%' then
        return 'the content must have the {body} in it';
    elsif regexp_replace(coalesce(scheme ->> 'content', ''), '\{(body|timestamp|id)\}', '', 'g') ~ '[{}]' then
        return 'the places in the content are {id}, {timestamp} and {body}';
    elsif scheme ->> 'content' like '%{id}%' and scheme ->> 'idHeader' is null then
        return 'a content with the {id} in it needs the idHeader';
    elsif scheme ->> 'content' like '%{timestamp}%' and scheme ->> 'timestampHeader' is null and coalesce(scheme ->> 'format', '') <> 'pairs' then
        return 'a content with the {timestamp} in it needs the timestampHeader';
    elsif scheme ->> 'algorithm' = 'token' and (scheme ->> 'content' is not null or coalesce(scheme ->> 'format', 'plain') <> 'plain') then
        return 'a token is a header alone';
    end if;
    foreach header in array array_remove(array[scheme ->> 'header', scheme ->> 'timestampHeader', scheme ->> 'idHeader', scheme ->> 'unlessHeader'], null) loop
        if header !~ '^[a-z0-9-]{1,64}$' or header in ('authorization', 'cookie', 'proxy-authorization', 'x-api-key', 'x-csrf-token') then
            return 'a header is named in small letters, and is none that holds the caller''s own credential';
        end if;
    end loop;
    if scheme ? 'until' then
        perform (scheme ->> 'until')::timestamptz;
    end if;
    return null;
exception when data_exception then
    return 'until is a time such as 2026-09-01T00:00:00Z';
end
$$;
comment on function keelson._webhook_scheme_fault(jsonb) is
    'What is wrong with a scheme of signatures; null when it is sound.';

create or replace function keelson._webhook_settings_check(settings jsonb)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    fault text;
    place text;
begin
    if jsonb_typeof(settings) is distinct from 'object'
        or exists (select from jsonb_object_keys(settings) as k where k not in ('schemes', 'id', 'type', 'occurredAt', 'tolerance', 'headers'))
    then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'settings have the members schemes, id, type, occurredAt, tolerance and headers', field => 'settings');
    end if;
    if settings ? 'schemes' and (jsonb_typeof(settings -> 'schemes') <> 'array' or jsonb_array_length(settings -> 'schemes') not between 1 and 8) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'there are one to eight schemes', field => 'settings');
    end if;
    select keelson._webhook_scheme_fault(s.scheme) into fault
    from jsonb_array_elements(settings -> 'schemes') as s (scheme)
    where keelson._webhook_scheme_fault(s.scheme) is not null
    limit 1;
    if fault is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', fault, field => 'settings');
    end if;
    if settings ? 'id' and (jsonb_typeof(settings -> 'id') <> 'array' or jsonb_array_length(settings -> 'id') not between 1 and 8) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'id is a list of places', field => 'settings');
    end if;
    for place in
        select p.place from jsonb_array_elements_text(settings -> 'id') as p (place)
        union all
        select settings ->> k from unnest('{type,occurredAt}'::text[]) as k where settings ? k
    loop
        if place is null or place !~ '^(header:[a-z0-9-]{1,64}|body:[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,7}|hash)$' then
            perform keelson.raise(400, 'VALIDATION_FAILED', 'a place is such as header:x-event-id, body:data.id or hash', field => 'settings');
        end if;
    end loop;
    if settings ? 'tolerance' and coalesce(settings ->> 'tolerance', '') !~ '^[0-9]{1,6}$' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the tolerance is a number of seconds', field => 'settings');
    end if;
    if settings ? 'headers' and (jsonb_typeof(settings -> 'headers') <> 'array' or jsonb_array_length(settings -> 'headers') > 32
        or exists (select from jsonb_array_elements_text(settings -> 'headers') as h (name) where h.name is null or h.name !~ '^[a-z0-9-]{1,64}$'))
    then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'headers is a list of at most 32 names in small letters', field => 'settings');
    end if;
    if exists (
        select from jsonb_array_elements_text(settings -> 'headers') as h (name)
        join jsonb_array_elements(settings -> 'schemes') as s (scheme) on s.scheme ->> 'header' = h.name
    ) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the header of a signature or a token is not kept', field => 'settings');
    end if;
end
$$;
comment on function keelson._webhook_settings_check(jsonb) is
    'Raise 400 unless the settings of a source or preset are sound.';

create or replace function keelson._webhook_source_shown(source text)
returns keelson.webhook_source
language sql
stable
as $$
select row(
    s.name, s.preset, s.settings, s.is_enabled,
    (select pg_catalog.count(*) from keelson._webhook_source_secrets(s.name))::integer,
    s.created_at, s.updated_at
)::keelson.webhook_source
from keelson.webhook_sources as s
where s.name = source
$$;
comment on function keelson._webhook_source_shown(text) is
    'The source, as administrators see it.';

create or replace function keelson._webhook_source_secrets(source text)
returns table (secret bytea, id uuid, purpose text)
language sql
stable
as $$
select k.secret, k.id, 'webhook-secret'
from keelson.webhook_source_secrets as k
where k.source = _webhook_source_secrets.source and (k.expires_at is null or k.expires_at > pg_catalog.now())
union all
select known.value, known.id, 'secret'
from keelson.webhook_sources as s
join keelson.secrets as known on known.name = s.server_secret and known.value is not null and not known.is_hashed
where s.name = _webhook_source_secrets.source
$$;
comment on function keelson._webhook_source_secrets(text) is
    'The sealed secrets of a source that count now.';

create or replace function keelson._webhook_source_require(source text)
returns void
language plpgsql
stable
as $$
begin
    if not exists (select from keelson.webhook_sources as s where s.name = source) then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such source of webhooks', field => 'source');
    end if;
end
$$;
comment on function keelson._webhook_source_require(text) is
    '404 unless there is such a source.';

create or replace function keelson._webhook_source_audit(what text, source text, detail jsonb default '{}')
returns void
language plpgsql
volatile
as $$
begin
    perform keelson.audit('config.change', pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'what', what, 'source', source,
        'databaseRole', case when keelson.current_actor() is null then session_user end
    ) || detail));
end
$$;
comment on function keelson._webhook_source_audit(text, text, jsonb) is
    'Record a change of what incoming webhooks are taken and handled.';

create or replace function keelson.webhook_source_set(
    source text,
    preset text default null,
    settings jsonb default null,
    enabled boolean default null
)
returns keelson.webhook_source
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    present keelson.webhook_sources;
    base jsonb;
begin
    if source is null or source !~ '^[a-z][a-z0-9_-]{0,39}$' or source in ('health', 'event-types') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the name of a source is made of small letters, digits, _ and -, begins with a letter and has at most 40', field => 'source');
    end if;
    select * into present from keelson.webhook_sources as s where s.name = source for update;
    present.preset := coalesce(preset, present.preset);
    perform keelson._require(present.preset, 'preset');
    select p.settings into base from keelson.webhook_presets as p where p.name = present.preset;
    if base is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'there is no such preset',
            (select format('There are %s.', string_agg(p.name, ', ' order by p.name)) from keelson.webhook_presets as p), 'preset');
    end if;
    present.settings := coalesce(settings, present.settings, '{}');
    perform keelson._webhook_settings_check(present.settings);
    perform keelson._webhook_settings_check(base || present.settings);
    insert into keelson.webhook_sources as s (name, preset, settings, is_enabled)
    values (source, present.preset, present.settings, coalesce(enabled, present.is_enabled, true))
    on conflict on constraint webhook_sources_pkey do update
    set preset = excluded.preset, settings = excluded.settings, is_enabled = excluded.is_enabled, updated_at = now();
    perform keelson._webhook_source_audit('webhook source', source, jsonb_build_object(
        'preset', present.preset, 'settings', present.settings, 'enabled', coalesce(enabled, present.is_enabled, true)
    ));
    return keelson._webhook_source_shown(source);
end
$$;
comment on function keelson.webhook_source_set(text, text, jsonb, boolean) is
    'Take webhooks at /webhooks/<source>, signed as the preset says and settings say otherwise; what is null stays as it is. Its secrets are added by keelson.webhook_secret_add().';
grant execute on function keelson.webhook_source_set(text, text, jsonb, boolean) to keelson_admin;

create or replace function keelson.webhook_source_remove(source text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._webhook_source_require(source);
    if source in ('stripe', 'ghl') then
        perform keelson.raise(409, 'CONFLICT', 'this source is the core''s', 'Disable it.', 'source');
    end if;
    delete from keelson.webhook_sources as s where s.name = source;
    perform keelson._webhook_source_audit('webhook source removed', source);
end
$$;
comment on function keelson.webhook_source_remove(text) is
    'Take no more webhooks of the source, and forget its secrets. What has come stays, and is not taken twice should the source come back.';
grant execute on function keelson.webhook_source_remove(text) to keelson_admin;

create or replace function keelson.webhook_secret_add(source text, secret text, expire_others interval default null)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    secret_id uuid := keelson.uuid7();
begin
    perform keelson._webhook_source_require(source);
    perform from keelson.webhook_sources as s where s.name = source for update;
    if secret is null or octet_length(secret) not between 8 and 4096 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a secret or public key has 8 to 4,096 bytes', field => 'secret');
    elsif expire_others < interval '0' or expire_others > interval '90 days' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the others expire at once to 90 days from now', field => 'expire_others');
    elsif (select count(*) from keelson._webhook_source_secrets(source)) >= 8 and expire_others is distinct from interval '0' then
        perform keelson.raise(409, 'CONFLICT', 'a source has at most eight secrets', 'Remove one first.', 'secret');
    end if;
    if expire_others is not null then
        update keelson.webhook_source_secrets as k
        set expires_at = least(k.expires_at, now() + expire_others)
        where k.source = webhook_secret_add.source;
    end if;
    delete from keelson.webhook_source_secrets as k where k.expires_at <= now();
    insert into keelson.webhook_source_secrets (source, id, secret)
    values (source, secret_id, keelson.seal(convert_to(secret, 'UTF8'), row('webhook-secret', null, secret_id)::keelson.seal_context));
    perform keelson._webhook_source_audit('webhook secret added', source, jsonb_build_object('secretId', secret_id));
    return secret_id;
end
$$;
comment on function keelson.webhook_secret_add(text, text, interval) is
    'Check a source''s signatures with this secret or public key too; the others count for so long yet (null: on). Hand the secret in as a bound parameter, so that no log shows it. Returns its id.';
grant execute on function keelson.webhook_secret_add(text, text, interval) to keelson_admin;

create or replace function keelson.webhook_secret_remove(source text, id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from keelson.webhook_source_secrets as k where k.source = webhook_secret_remove.source and k.id = webhook_secret_remove.id;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such secret', field => 'id');
    end if;
    perform keelson._webhook_source_audit('webhook secret removed', source, jsonb_build_object('secretId', id));
end
$$;
comment on function keelson.webhook_secret_remove(text, uuid) is
    'Check a source''s signatures no longer with this secret.';
grant execute on function keelson.webhook_secret_remove(text, uuid) to keelson_admin;
