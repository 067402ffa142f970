-- What users may say of their endpoints.

create or replace function keelson._webhook_check_events(events text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    glob text;
begin
    if coalesce(cardinality(events), 0) not between 1 and 64 or array_ndims(events) <> 1 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'events names 1 to 64 types or globs such as user.*', field => 'events');
    end if;
    foreach glob in array events loop
        if glob is null or glob !~ '^[a-z0-9_.*]{1,63}$' then
            perform keelson.raise(400, 'VALIDATION_FAILED', 'events are types, or globs such as user.*, of at most 63 characters', field => 'events');
        end if;
        if not exists (select from keelson.webhook_event_types as t where keelson._webhook_glob_matches(glob, t.name)) then
            perform keelson.raise(400, 'VALIDATION_FAILED', format('no event type matches "%s"', glob), 'GET webhooks/event-types lists them.', 'events');
        end if;
    end loop;
end
$$;
comment on function keelson._webhook_check_events(text[]) is
    'Refuse globs that match no registered type.';

create or replace function keelson._webhook_check_filter(filter text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found jsonb;
begin
    if filter is null then
        return;
    end if;
    if char_length(filter) > 1000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a filter has at most 1,000 characters', field => 'filter');
    end if;
    begin
        found := keelson._webhook_filter_query(filter, '{}');
    exception
        when sqlstate 'KS400' then
            raise;
        when undefined_object then
            perform keelson.raise(400, 'VALIDATION_FAILED', 'a filter has no variables', field => 'filter');
        when others then
            perform keelson.raise(400, 'VALIDATION_FAILED', 'the filter is not a jsonpath', 'Such as: $.amount > 100 && $.currency == "EUR"', 'filter');
    end;
    -- One that this payload did not ask for. Strings aside, a $ before a quote is a variable.
    if regexp_replace(filter::jsonpath::text, '"(\\.|[^"\\])*"', 'S', 'g') ~ '\$S' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a filter has no variables', field => 'filter');
    end if;
    -- A predicate has one answer for whatever it is asked about.
    if jsonb_array_length(found) <> 1 or jsonb_typeof(found -> 0) not in ('boolean', 'null') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the filter is not a predicate: it must be true or false', 'Write exists(...) around a path.', 'filter');
    end if;
end
$$;
comment on function keelson._webhook_check_filter(text) is
    'Refuse what is no jsonpath predicate.';

create or replace function keelson._webhook_check_transform(transform jsonb, events text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    type record;
    reason text;
begin
    if transform is null then
        return;
    end if;
    if octet_length(transform::text) > 16384 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a transform has at most 16 KiB', field => 'transform');
    end if;
    for type in
        select t.name, t.sample from keelson.webhook_event_types as t
        where exists (select from unnest(events) as glob where keelson._webhook_glob_matches(glob, t.name))
        order by t.name
        limit 20
    loop
        reason := (keelson._webhook_body(transform, keelson._webhook_envelope(type.name, type.sample))).fault;
        if reason is not null then
            perform keelson.raise(400, 'VALIDATION_FAILED',
                format('with the sample of %s %s', type.name, reason),
                'A path stands in a string between {{ and }}, such as {{ $.data.email }}.', 'transform');
        end if;
    end loop;
end
$$;
comment on function keelson._webhook_check_transform(jsonb, text[]) is
    'Refuse a template that fails for the sample of a type that the endpoint wants.';

create or replace function keelson._webhook_check_headers(headers jsonb)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    field record;
begin
    if headers is null then
        return;
    end if;
    if jsonb_typeof(headers) <> 'object' or (select count(*) from jsonb_each(headers)) > 20 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'headers is an object of at most 20 names and values', field => 'headers');
    end if;
    for field in select h.key, h.value from jsonb_each(headers) as h loop
        if field.key !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,100}$' then
            perform keelson.raise(400, 'VALIDATION_FAILED', 'a header field''s name has letters, digits and hyphens', field => 'headers');
        end if;
        if lower(field.key) ~ '^(webhook-.*|content-.*|host|connection|transfer-encoding|te|trailer|upgrade|expect|keep-alive|proxy-.*|cookie|user-agent|traceparent|tracestate|x-request-id)$' then
            perform keelson.raise(400, 'VALIDATION_FAILED', format('the header field "%s" is not yours to set', field.key), field => 'headers');
        end if;
        if jsonb_typeof(field.value) <> 'string' or char_length(field.value #>> '{}') > 1000 or field.value #>> '{}' !~ '^[\x20-\x7e]*$' then
            perform keelson.raise(400, 'VALIDATION_FAILED', 'a header field''s value is a string of at most 1,000 printable ASCII characters', field => 'headers');
        end if;
    end loop;
end
$$;
comment on function keelson._webhook_check_headers(jsonb) is
    'Refuse header fields that could break a request or pass for our own.';

create or replace function keelson._webhook_check_limits(rate_limit integer, retry_schedule integer[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if rate_limit is not null and rate_limit not between 1 and 10000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a rate limit is 1 to 10,000 deliveries a second', field => 'rate_limit');
    end if;
    if retry_schedule is not null and (
        coalesce(cardinality(retry_schedule), 0) not between 1 and 32 or array_ndims(retry_schedule) <> 1
        or exists (select from unnest(retry_schedule) as s (seconds) where s.seconds is null or s.seconds not between 1 and 604800)
    ) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a retry schedule has 1 to 32 waits of 1 second to 7 days', field => 'retry_schedule');
    end if;
end
$$;
comment on function keelson._webhook_check_limits(integer, integer[]) is
    'Refuse limits out of bounds.';

create or replace function keelson._webhook_check_description(description text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if char_length(description) > 200 or description ~ '[\u0001-\u001f\u007f]' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a description has at most 200 characters and no control characters', field => 'description');
    end if;
end
$$;
comment on function keelson._webhook_check_description(text) is
    'Refuse a description that is too long or would not show.';
