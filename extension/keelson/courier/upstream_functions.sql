-- Calls of other services that a request waits for.

create or replace function keelson._upstream_call(
    upstream text,
    url text,
    method text,
    headers jsonb,
    body bytea,
    timeout_ms integer,
    is_trusted boolean,
    out status integer,
    out content_type text,
    out answer bytea
)
language c
volatile
parallel unsafe
as 'MODULE_PATHNAME', 'ks_upstream_call_sql';
comment on function keelson._upstream_call(text, text, text, jsonb, bytea, integer, boolean) is
    'Call another service and wait for its answer, whatever its status: 10 seconds and 1 MiB at most, before anything is written. Calls of one upstream share a circuit breaker. 502 UPSTREAM_FAILED when nothing was answered, 503 UNAVAILABLE while the breaker is open.';

create or replace function keelson.upstream_status()
returns table (
    upstream text,
    breaker text,
    open_until timestamptz,
    waiting integer,
    answered bigint,
    failed bigint,
    refused bigint
)
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_upstream_status';
comment on function keelson.upstream_status() is
    'The services that requests call and wait for, since the server started: their circuit breakers, how many calls wait just now, were answered, failed (no answer, or 5xx), or were refused since the breaker was open.';
grant execute on function keelson.upstream_status() to keelson_admin;

create or replace function keelson.upstream_reset(upstream text)
returns boolean
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_upstream_reset';
comment on function keelson.upstream_reset(text) is
    'Close the circuit breaker of a service that requests call; false when none of that name is known.';
grant execute on function keelson.upstream_reset(text) to keelson_admin;

create or replace function keelson._upstream_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language sql
volatile
as $$
select 'keelson_upstream_calls_total', pg_catalog.jsonb_build_object('upstream', s.upstream, 'outcome', o.name),
    o.value::double precision, 'counter', 'Calls of other services that requests have waited for, by what came of them.'
from keelson.upstream_status() as s
cross join lateral (values ('answered', s.answered), ('failed', s.failed), ('refused', s.refused)) as o (name, value)
union all
select 'keelson_upstream_open', pg_catalog.jsonb_build_object('upstream', s.upstream),
    case when s.breaker = 'closed' then 0 else 1 end::double precision, 'gauge', 'Whether the circuit breaker of a service that requests call is open.'
from keelson.upstream_status() as s
$$;
comment on function keelson._upstream_metrics() is
    'The calls of other services as samples.';
