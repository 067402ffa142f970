-- The same for administrators, through HTTP.

create or replace function keelson.admin_webhook_sources()
returns setof keelson.webhook_source
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('webhooks.read');
    return query
    select shown.* from keelson.webhook_sources as s cross join lateral keelson._webhook_source_shown(s.name) as shown order by s.name;
end
$$;
comment on function keelson.admin_webhook_sources() is
    'Who may send us webhooks.';
grant execute on function keelson.admin_webhook_sources() to keelson_app;

create or replace function keelson.admin_webhook_source_set(
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
begin
    perform keelson.permission_require('webhooks.configure');
    return keelson.webhook_source_set(source, preset, settings, enabled);
end
$$;
comment on function keelson.admin_webhook_source_set(text, text, jsonb, boolean) is
    'Take webhooks of a source, signed as a preset says and settings say otherwise, or change how; what is left out stays as it is. Audited.';
grant execute on function keelson.admin_webhook_source_set(text, text, jsonb, boolean) to keelson_app;

create or replace function keelson.admin_webhook_source_remove(source text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('webhooks.configure');
    perform keelson.webhook_source_remove(source);
end
$$;
comment on function keelson.admin_webhook_source_remove(text) is
    'Take no more webhooks of a source, and forget its secrets. Audited.';
grant execute on function keelson.admin_webhook_source_remove(text) to keelson_app;

create or replace function keelson.admin_webhook_secrets(source text)
returns setof keelson.webhook_source_secret
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('webhooks.read');
    perform keelson._webhook_source_require(source);
    return query
    select k.id, k.expires_at, k.created_at from keelson.webhook_source_secrets as k
    where k.source = admin_webhook_secrets.source and (k.expires_at is null or k.expires_at > now())
    order by k.id;
end
$$;
comment on function keelson.admin_webhook_secrets(text) is
    'Which secrets a source''s signatures are checked with; they themselves are not shown.';
grant execute on function keelson.admin_webhook_secrets(text) to keelson_app;

create or replace function keelson.admin_webhook_secret_add(source text, secret text, expire_others_in integer default null)
returns keelson.webhook_source_secret
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    secret_id uuid;
    added keelson.webhook_source_secret;
begin
    perform keelson.permission_require('webhooks.configure');
    secret_id := keelson.webhook_secret_add(source, secret, make_interval(secs => expire_others_in));
    select k.id, k.expires_at, k.created_at into added from keelson.webhook_source_secrets as k where k.id = secret_id;
    return added;
end
$$;
comment on function keelson.admin_webhook_secret_add(text, text, integer) is
    'Check a source''s signatures with this secret or public key too; the others count for so many seconds yet, or on. Audited.';
grant execute on function keelson.admin_webhook_secret_add(text, text, integer) to keelson_app;

create or replace function keelson.admin_webhook_secret_remove(source text, id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('webhooks.configure');
    perform keelson.webhook_secret_remove(source, id);
end
$$;
comment on function keelson.admin_webhook_secret_remove(text, uuid) is
    'Check a source''s signatures no longer with this secret. Audited.';
grant execute on function keelson.admin_webhook_secret_remove(text, uuid) to keelson_app;

create or replace function keelson.admin_webhooks_failed(
    state text default null,
    source text default null,
    "limit" integer default 20,
    cursor text default null
)
returns setof keelson.failed_webhook
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted text[] := case when state is null then '{failed,exhausted}' else array[state] end;
    before_id uuid := keelson.cursor_decode(cursor) ->> 'id';
begin
    perform keelson.permission_require('webhooks.read');
    if state not in ('failed', 'exhausted', 'resolved') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the states are failed, exhausted and resolved', field => 'state');
    end if;
    return query
    select shown.*
    from keelson.failed_webhook_events as f
    cross join lateral keelson._failed_webhook_shown(f) as shown
    where f.state = any (wanted) and (admin_webhooks_failed.source is null or f.source = admin_webhooks_failed.source)
        and (before_id is null or f.id < before_id)
    order by f.id desc
    limit keelson.page_by("limit", 'id');
end
$$;
comment on function keelson.admin_webhooks_failed(text, text, integer, text) is
    'Incoming webhook events whose handling has failed, newest first: those that are not resolved, or those in a state.';
grant execute on function keelson.admin_webhooks_failed(text, text, integer, text) to keelson_app;

create or replace function keelson.admin_webhook_retry(id uuid)
returns keelson.failed_webhook
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('webhooks.write');
    return keelson.webhook_retry(id);
end
$$;
comment on function keelson.admin_webhook_retry(uuid) is
    'Have a failed event handled again, at once. Audited.';
grant execute on function keelson.admin_webhook_retry(uuid) to keelson_app;

create or replace function keelson.admin_webhook_dismiss(id uuid)
returns keelson.failed_webhook
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('webhooks.write');
    return keelson.webhook_dismiss(id);
end
$$;
comment on function keelson.admin_webhook_dismiss(uuid) is
    'Let a failed event be: it counts as resolved, and nothing handles it. Audited.';
grant execute on function keelson.admin_webhook_dismiss(uuid) to keelson_app;
