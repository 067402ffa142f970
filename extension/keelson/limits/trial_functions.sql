-- Decisions at a time of the caller's choice, for tests and benchmarks.

create or replace function keelson._limits_try(
    keys text[],
    most bigint[],
    window_us bigint[],
    costs bigint[],
    at_us bigint default -1,
    is_protected boolean default false,
    charge boolean default true
)
returns table (
    is_admitted boolean,
    fits boolean,
    remaining integer,
    more_us bigint,
    retry_us bigint,
    charged bigint
)
language c
volatile
strict
rows 1
as 'MODULE_PATHNAME', 'ks_limits_try';
comment on function keelson._limits_try(text[], bigint[], bigint[], bigint[], bigint, boolean, boolean) is
    'Decide and charge the limits together, at the time on the clock of keelson._limits_clock() or now (-1); a row for each limit. For tests.';

create or replace function keelson._limits_refund(
    key text,
    most bigint,
    window_us bigint,
    cost bigint,
    charged bigint,
    is_protected boolean default false
)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_limits_untry';
comment on function keelson._limits_refund(text, bigint, bigint, bigint, bigint, boolean) is
    'Take back what keelson._limits_try() charged. For tests.';

create or replace function keelson._limits_clock()
returns bigint
language c
volatile
as 'MODULE_PATHNAME', 'ks_limits_clock_sql';
comment on function keelson._limits_clock() is
    'Now in microseconds, on the clock that windows are measured with: it goes only forward, whatever the wall clock does.';

create or replace function keelson._limits_speed(rounds integer, limits integer, keys integer, most integer)
returns double precision
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_limits_speed';
comment on function keelson._limits_speed(integer, integer, integer, integer) is
    'Microseconds that a decision of so many limits takes, its digest included, over so many keys in turn. For benchmarks.';
