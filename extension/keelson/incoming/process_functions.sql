-- Handling of incoming events: handlers, the worker's two steps, failures, clean-up.

create or replace function keelson._webhook_handler_call(function text, role name, event keelson.incoming_event)
returns void
language c
volatile
as 'MODULE_PATHNAME', 'ks__webhook_handler_call';
comment on function keelson._webhook_handler_call(text, name, keelson.incoming_event) is
    'Call a handler as the role (null: as whoever calls this), for keelson.webhook_handler_timeout at most.';

create or replace function keelson._webhook_handler_end()
returns text
language c
volatile
as 'MODULE_PATHNAME', 'ks__webhook_handler_end';
comment on function keelson._webhook_handler_end() is
    'End the time of a handler that has failed; that it is over, in words, if it was.';

create or replace function keelson._webhook_error_clean(data jsonb)
returns jsonb
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__webhook_error_clean';
comment on function keelson._webhook_error_clean(jsonb) is
    'The object without what looks like a secret.';

-- Registration.

create or replace function keelson._webhook_handler_function(function text)
returns oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    target oid := keelson._route_function(function);
begin
    if not exists (
        select from pg_proc as p
        where p.oid = target and p.pronargs = 1 and p.proargtypes[0] = 'keelson.incoming_event'::regtype and not p.proretset
    ) then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('%s does not take a keelson.incoming_event', target::regprocedure), field => 'function');
    end if;
    return target;
end
$$;
comment on function keelson._webhook_handler_function(text) is
    'The one function with this qualified name, which must be fit to be a handler.';

create or replace function keelson.webhook_handler(source text, event_type text, function text, role name default 'keelson_app')
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target oid := keelson._webhook_handler_function(function);
    handler_owner text := keelson._route_owner(target);
begin
    perform keelson._webhook_source_require(source);
    if event_type is null or char_length(event_type) not between 1 and 255 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a type of events, or a glob, has 1 to 255 characters', field => 'event_type');
    end if;
    role := keelson._runs_as('webhook ' || event_type, role, target, handler_owner);
    insert into keelson.webhook_handlers as h (source, event_type, function, owner, role)
    select webhook_handler.source, webhook_handler.event_type, format('%I.%I', n.nspname, p.proname), handler_owner, webhook_handler.role
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where p.oid = target
    on conflict on constraint webhook_handlers_pkey do update set role = excluded.role
    where h.role is distinct from excluded.role;
    if found then
        perform keelson._webhook_source_audit('webhook handler', source, jsonb_build_object('type', event_type, 'function', function, 'runsAs', role));
    end if;
end
$$;
comment on function keelson.webhook_handler(text, text, text, name) is
    'Have the function called, as the role, with each event of the source whose type is this one or fits the glob. It takes a keelson.incoming_event; an error rolls back what it did, and the event is tried again.';
grant execute on function keelson.webhook_handler(text, text, text, name) to keelson_admin;

create or replace function keelson.webhook_handler_remove(source text, event_type text, function text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from keelson.webhook_handlers as h
    where h.source = webhook_handler_remove.source and h.event_type = webhook_handler_remove.event_type
        and h.function = webhook_handler_remove.function and h.owner <> 'keelson';
    if not found then
        return false;
    end if;
    perform keelson._webhook_source_audit('webhook handler removed', source, jsonb_build_object('type', event_type, 'function', function));
    return true;
end
$$;
comment on function keelson.webhook_handler_remove(text, text, text) is
    'Have a product''s function called no more; false when it was not.';
grant execute on function keelson.webhook_handler_remove(text, text, text) to keelson_admin;

-- The worker's two steps.

create or replace function keelson._incoming_claim(since timestamptz, out id uuid, out due_at timestamptz)
language plpgsql
volatile
as $$
declare
    most constant integer := 3;
    event keelson.incoming_events;
begin
    loop
        select * into event
        from keelson.incoming_events as e
        where e.due_at >= since and e.due_at <= pg_catalog.clock_timestamp()
        order by e.due_at, e.id
        limit 1
        for update skip locked;
        if event.id is null then
            return;
        end if;
        exit when event.tries < most;
        perform keelson._incoming_fail(event, 'crash', 'handling it was begun three times and came to no end', null);
    end loop;
    update keelson.incoming_events as e set tries = e.tries + 1 where e.id = event.id;
    id := event.id;
    due_at := event.due_at;
end
$$;
comment on function keelson._incoming_claim(timestamptz) is
    'The event that is due first, not before the given time, noted as begun; null for none. Entries of the index that lie before are not read again: while an old snapshot is held they cannot be removed. To be committed before keelson._incoming_run(): who never comes to an end is given up.';

create or replace function keelson._incoming_run(id uuid)
returns text
language plpgsql
volatile
as $$
declare
    event keelson.incoming_events;
    handler keelson.webhook_handlers;
    handled integer := 0;
    state text;
    message text;
begin
    select * into event from keelson.incoming_events as e where e.id = _incoming_run.id for update skip locked;
    if event.due_at is null then
        return null;
    end if;
    begin
        for handler in
            select h.* from keelson.webhook_handlers as h
            where h.source = event.source and keelson._webhook_glob_matches(h.event_type, event.event_type)
            order by h.function, h.event_type
        loop
            perform keelson._webhook_handler_call(handler.function, handler.role, row(
                event.id, event.source, event.external_id, event.event_type, event.occurred_at, event.received_at, event.headers,
                pg_catalog.convert_from(event.body, 'UTF8')::pg_catalog.jsonb
            )::keelson.incoming_event);
            handled := handled + 1;
        end loop;
    exception when query_canceled or assert_failure or others then
        get stacked diagnostics state = returned_sqlstate, message = message_text;
        message := coalesce(keelson._webhook_handler_end(), message);
    end;
    if state is null then
        perform keelson._incoming_done(event.id, handled);
        return 'processed';
    end if;
    -- Two were in each other's way: at once again, but not for ever.
    if state in ('40001', '40P01', '55P03') and event.tries < 3 then
        return 'conflict';
    end if;
    return keelson._incoming_fail(event, state, message, handler.function);
end
$$;
comment on function keelson._incoming_run(uuid) is
    'Have the event handled and marked, both or neither: processed, failed, exhausted or conflict; null when somebody else has it, or it is not to be handled.';

create or replace function keelson._incoming_done(id uuid, handled integer)
returns void
language plpgsql
volatile
as $$
begin
    update keelson.incoming_events as e
    set due_at = null, tries = 0, processed_at = pg_catalog.clock_timestamp(), handlers = handled
    where e.id = _incoming_done.id;
    update keelson.failed_webhook_events as f
    set state = 'resolved', next_retry_at = null, resolved_at = pg_catalog.clock_timestamp()
    where f.id = _incoming_done.id;
end
$$;
comment on function keelson._incoming_done(uuid, integer) is
    'Mark the event as handled.';

create or replace function keelson._incoming_fail(event_row record, error_code text, message text, handler text)
returns text
language plpgsql
volatile
as $$
declare
    waits constant interval[] := array['15 minutes', '30 minutes', '60 minutes'];
    event keelson.incoming_events := event_row;
    error text := keelson._webhook_error_clean(pg_catalog.jsonb_build_object('error', pg_catalog.left(message, 1000))) ->> 'error';
    failed keelson.failed_webhook_events;
    next_at timestamptz;
begin
    select * into failed from keelson.failed_webhook_events as f where f.id = event.id for update;
    -- What takes the server down is not tried again by itself.
    next_at := case when error_code <> 'crash' then pg_catalog.clock_timestamp() + waits[coalesce(failed.step, 1)] end;
    insert into keelson.failed_webhook_events as f (
        id, source, external_id, event_type, state, failures, step, error_code, error, handler, next_retry_at
    )
    values (
        event.id, event.source, event.external_id, event.event_type, case when next_at is null then 'exhausted' else 'failed' end, 1, 2,
        error_code, coalesce(error, ''), handler, next_at
    )
    on conflict on constraint failed_webhook_events_pkey do update
    set state = excluded.state, failures = f.failures + 1, step = f.step + 1, error_code = excluded.error_code, error = excluded.error,
        handler = excluded.handler, last_failed_at = pg_catalog.now(), next_retry_at = excluded.next_retry_at, resolved_at = null;
    update keelson.incoming_events as e set due_at = next_at, tries = 0 where e.id = event.id;
    if next_at is null then
        perform keelson._webhook_exhausted(event.id, event.source, event.event_type);
        return 'exhausted';
    end if;
    return 'failed';
end
$$;
comment on function keelson._incoming_fail(record, text, text, text) is
    'Write down that handling an event (a row of keelson.incoming_events) has failed, and when it is tried again: after 15, 30 and 60 minutes, then not by itself.';

create or replace function keelson._webhook_exhausted(id uuid, source text, event_type text)
returns void
language plpgsql
volatile
as $$
declare
    sixth constant integer := 6;
    today integer;
begin
    insert into keelson.webhook_exhaustions as d (day, exhausted)
    values ((pg_catalog.now() at time zone 'UTC')::date, 1)
    on conflict on constraint webhook_exhaustions_pkey do update set exhausted = d.exhausted + 1
    returning d.exhausted into today;
    if today = sixth then
        perform keelson.audit('webhook.exhausted', pg_catalog.jsonb_build_object(
            'exhaustedToday', today, 'eventId', id, 'source', source, 'type', event_type
        ), 'failure');
    end if;
end
$$;
comment on function keelson._webhook_exhausted(uuid, text, text) is
    'Count an event that was given up; the sixth of a day is recorded in the audit trail.';

-- By hand.

create or replace function keelson._failed_webhook_shown(failed record)
returns keelson.failed_webhook
language plpgsql
stable
as $$
declare
    f keelson.failed_webhook_events := failed;
begin
    return row(
        f.id, f.source, f.external_id, f.event_type, f.state, f.failures, f.error_code, f.error, f.handler,
        f.first_failed_at, f.last_failed_at, f.next_retry_at, f.resolved_at
    )::keelson.failed_webhook;
end
$$;
comment on function keelson._failed_webhook_shown(record) is
    'A row of keelson.failed_webhook_events, as administrators see it.';

create or replace function keelson._failed_webhook_lock(id uuid)
returns void
language plpgsql
volatile
as $$
declare
    present text;
begin
    select f.state into present from keelson.failed_webhook_events as f where f.id = _failed_webhook_lock.id;
    if present is null then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such failed event', field => 'id');
    end if;
    perform from keelson.incoming_events as e where e.id = _failed_webhook_lock.id for update skip locked;
    if not found and present <> 'resolved' then
        perform keelson.raise(409, 'CONFLICT', 'the event is being handled now', field => 'id');
    end if;
    select f.state into present from keelson.failed_webhook_events as f where f.id = _failed_webhook_lock.id for update;
    if present = 'resolved' then
        perform keelson.raise(409, 'CONFLICT', 'the event is resolved', field => 'id');
    end if;
end
$$;
comment on function keelson._failed_webhook_lock(uuid) is
    'Lock a failed event; 404 for none, 409 for one that is resolved or being handled.';

create or replace function keelson._failed_webhook_audit(what text, id uuid)
returns void
language plpgsql
volatile
as $$
begin
    perform keelson.audit('webhook.failed', pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'what', what, 'eventId', id, 'databaseRole', case when keelson.current_actor() is null then session_user end
    )));
end
$$;
comment on function keelson._failed_webhook_audit(text, uuid) is
    'Record what somebody did about a failed event.';

create or replace function keelson.webhook_retry(id uuid)
returns keelson.failed_webhook
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    f keelson.failed_webhook_events;
begin
    perform keelson._failed_webhook_lock(webhook_retry.id);
    update keelson.failed_webhook_events as w
    set state = 'failed', step = 1, next_retry_at = now()
    where w.id = webhook_retry.id
    returning * into f;
    update keelson.incoming_events as e set due_at = now(), tries = 0 where e.id = webhook_retry.id;
    perform keelson._failed_webhook_audit('retried', webhook_retry.id);
    perform keelson._incoming_wake();
    return keelson._failed_webhook_shown(f);
end
$$;
comment on function keelson.webhook_retry(uuid) is
    'Have a failed event handled again, at once; should it fail, it is tried after 15, 30 and 60 minutes. 409 when it is resolved or being handled.';
grant execute on function keelson.webhook_retry(uuid) to keelson_admin;

create or replace function keelson.webhook_dismiss(id uuid)
returns keelson.failed_webhook
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    f keelson.failed_webhook_events;
begin
    perform keelson._failed_webhook_lock(webhook_dismiss.id);
    perform keelson._incoming_done(webhook_dismiss.id, 0);
    select * into f from keelson.failed_webhook_events as w where w.id = webhook_dismiss.id;
    perform keelson._failed_webhook_audit('dismissed', webhook_dismiss.id);
    return keelson._failed_webhook_shown(f);
end
$$;
comment on function keelson.webhook_dismiss(uuid) is
    'Let a failed event be: it counts as resolved, and nothing handles it.';
grant execute on function keelson.webhook_dismiss(uuid) to keelson_admin;

create or replace function keelson.webhook_is_newer(source text, object text, occurred_at timestamptz, rank integer default 0)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if source is null or object is null or occurred_at is null or rank is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'source, object, occurred_at and rank are needed');
    end if;
    insert into keelson.webhook_versions as v (source, object, occurred_at, rank)
    values (webhook_is_newer.source, webhook_is_newer.object, webhook_is_newer.occurred_at, webhook_is_newer.rank)
    on conflict on constraint webhook_versions_pkey do update
    set occurred_at = excluded.occurred_at, rank = excluded.rank
    where (v.occurred_at, v.rank) < (excluded.occurred_at, excluded.rank);
    return found;
end
$$;
comment on function keelson.webhook_is_newer(text, text, timestamptz, integer) is
    'Whether this is the newest that was heard of an object of a source (of one second the higher rank), noted as such with the transaction; false for what is older or the same. For handlers: an older event must not win.';
grant execute on function keelson.webhook_is_newer(text, text, timestamptz, integer) to keelson_app, keelson_admin;

-- The jobs' steps.

create or replace function keelson._failed_webhooks_retry(batch integer)
returns bigint
language plpgsql
volatile
as $$
declare
    claimed record;
    since timestamptz := '-infinity';
    done bigint := 0;
begin
    while done < batch loop
        select * into claimed from keelson._incoming_claim(since);
        exit when claimed.id is null;
        since := claimed.due_at;
        perform keelson._incoming_run(claimed.id);
        done := done + 1;
    end loop;
    return done;
end
$$;
comment on function keelson._failed_webhooks_retry(integer) is
    'Handle events that are due, at most so many; returns how many. The worker does so too.';

create or replace function keelson._processed_webhooks_purge(batch integer)
returns bigint
language sql
volatile
as $$ select keelson._purge('keelson.incoming_events', 'processed_at', pg_catalog.now() - interval '7 days', batch) $$;
comment on function keelson._processed_webhooks_purge(integer) is
    'Delete incoming events that were handled more than seven days ago, at most so many; returns how many. That they came is known for ever.';

create or replace function keelson._webhook_versions_purge(batch integer)
returns bigint
language sql
volatile
as $$ select keelson._purge('keelson.webhook_versions', 'occurred_at', pg_catalog.now() - interval '90 days', batch) $$;
comment on function keelson._webhook_versions_purge(integer) is
    'Forget of which objects nothing newer was heard for 90 days, at most so many; returns how many. Nobody sends events that old.';

create or replace function keelson._resolved_webhooks_purge(batch integer)
returns bigint
language sql
volatile
as $$ select keelson._purge('keelson.failed_webhook_events', 'resolved_at', pg_catalog.now() - interval '30 days', batch) $$;
comment on function keelson._resolved_webhooks_purge(integer) is
    'Delete failed events that were resolved more than 30 days ago, at most so many; returns how many.';

create or replace function keelson._exhausted_webhooks_purge(batch integer)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    until_at constant timestamptz := now() - interval '90 days';
    purged bigint;
begin
    -- Ids are of when events came: what has failed last before that time came before it.
    with old as materialized (
        select e.id
        from keelson.failed_webhook_events as f
        join keelson.incoming_events as e on e.id = f.id
        where f.state = 'exhausted' and f.id < keelson._uuid7_floor(until_at) and f.last_failed_at < until_at
        order by f.id
        limit batch
        for update of e skip locked
    ),
    gone as (
        -- Somebody may have had it handled again meanwhile.
        delete from keelson.failed_webhook_events as f
        using old
        where f.id = old.id and f.state = 'exhausted'
        returning f.id
    )
    delete from keelson.incoming_events as e
    using gone
    where e.id = gone.id;
    get diagnostics purged = row_count;
    return purged;
end
$$;
comment on function keelson._exhausted_webhooks_purge(integer) is
    'Delete exhausted events that have failed last more than 90 days ago, and their failures, at most so many; returns how many. That they came is known for ever.';
