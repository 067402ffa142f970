-- Sliding windows, against an oracle that counts by brute force.
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- Keys of this run, so that nothing is left of another.
select set_config('regress.run', gen_random_uuid() || ' ', false) is not null as is_set;
create function pg_temp.try(
    keys text[],
    most bigint[],
    window_us bigint[],
    costs bigint[],
    at_us bigint default -1,
    is_protected boolean default false,
    charge boolean default true
)
returns table (is_admitted boolean, fits boolean, remaining integer, more_us bigint, retry_us bigint, charged bigint)
language sql
as $$
    select * from keelson._limits_try(
        array(select current_setting('regress.run') || k from unnest(keys) with ordinality as u (k, n) order by n),
        most, window_us, costs, at_us, is_protected, charge
    )
$$;
create function pg_temp.refund(key text, most bigint, window_us bigint, cost bigint, charged bigint, is_protected boolean default false)
returns void
language sql
as $$ select keelson._limits_refund(current_setting('regress.run') || key, most, window_us, cost, charged, is_protected) $$;

-- The third of two is refused, and there is room again exactly one window
-- after the first.
select keelson._limits_clock() as start \gset
select at, is_admitted, remaining, more_us, retry_us
from unnest(array[0, 1, 2, 999999, 1000000, 1000000, 1000001]) with ordinality as step (at, n),
    lateral pg_temp.try('{first}', '{2}', '{1000000}', '{1}', :start::bigint + at)
order by n;

-- A cost above the limit never fits; what it would be is told, and nothing is counted.
select is_admitted, remaining, retry_us from pg_temp.try('{second}', '{2}', '{1000000}', '{3}', :start);
select is_admitted, remaining, retry_us from pg_temp.try('{second}', '{2}', '{1000000}', '{2}', :start);

-- Several limits are charged together or not at all: the first has room, the second has not.
select is_admitted, fits, remaining from pg_temp.try('{a,b}', '{5,1}', '{1000000,1000000}', '{1,1}', :start);
select is_admitted, fits, remaining from pg_temp.try('{a,b}', '{5,1}', '{1000000,1000000}', '{1,1}', :start);
select is_admitted, fits, remaining from pg_temp.try('{b,a}', '{1,5}', '{1000000,1000000}', '{1,1}', :start);
select is_admitted, fits, remaining from pg_temp.try('{a}', '{5}', '{1000000}', '{1}', :start, charge => false);

-- Looking charges nothing.
select is_admitted, remaining from pg_temp.try('{a}', '{5}', '{1000000}', '{1}', :start);

-- A clock that goes back adds nothing to what fits.
select is_admitted, remaining from pg_temp.try('{back}', '{2}', '{1000000}', '{1}', :start);
select is_admitted, remaining from pg_temp.try('{back}', '{2}', '{1000000}', '{1}', :start::bigint - 5000000);
select is_admitted, remaining from pg_temp.try('{back}', '{2}', '{1000000}', '{1}', :start::bigint - 5000000);
select is_admitted, remaining from pg_temp.try('{back}', '{2}', '{1000000}', '{1}', :start::bigint + 999999);
select is_admitted, remaining from pg_temp.try('{back}', '{2}', '{1000000}', '{1}', :start::bigint + 1000000);

-- A key twice in one decision is an error, and the counter stays usable.
\set VERBOSITY sqlstate
select * from pg_temp.try('{twice,twice}', '{5,5}', '{1000000,1000000}', '{1,1}', :start);
\set VERBOSITY terse
select is_admitted, remaining from pg_temp.try('{twice}', '{5}', '{1000000}', '{1}', :start);

-- The model. Each key has a limit and a window; steps of random length, often
-- zero and often a whole window, ask for one or two keys at random costs, and
-- sometimes take an earlier charge back. The oracle keeps every charge.
create temp table limits_model (
    key text primary key,
    most bigint not null,
    window_us bigint not null
);
create temp table charges (
    key text not null,
    at bigint not null,
    cost bigint not null,
    charged bigint not null,
    is_refunded boolean not null default false
);
create index on charges (key, at);
insert into limits_model values
    ('one', 1, 1000000),
    ('three', 3, 7000000),
    ('some', 17, 3000000),
    ('hundred', 100, 60000000),
    ('exact', 1024, 20000000),
    ('coarse', 1025, 21000000),
    ('coarser', 5000, 64000000);

-- What was charged and not taken back in the window that ends at a time.
create function pg_temp.used(of text, now_us bigint, reach bigint)
returns bigint
language sql
as $$
    select coalesce(sum(cost), 0)::bigint from charges
    where key = of and at > now_us - reach and at <= now_us and not is_refunded
$$;

create function pg_temp.model(rounds integer)
returns table (wrong_yes bigint, wrong_no bigint, early bigint, admissions bigint, refusals bigint)
language plpgsql
as $$
declare
    now_us bigint := keelson._limits_clock() + 1000000;
    given_us bigint;
    wanted limits_model[];
    at_us bigint[];
    charged_at bigint[];
    costs bigint[];
    decision record;
    verdict boolean;
    fits boolean;
    late_fits boolean;
    refund record;
begin
    wrong_yes := 0; wrong_no := 0; early := 0; admissions := 0; refusals := 0;
    for round in 1 .. rounds loop
        now_us := now_us + case floor(random() * 6)::int
            when 0 then 0 when 1 then 1 when 2 then 1000
            when 3 then (random() * 50000)::bigint
            when 4 then (random() * 400000)::bigint
            else case when random() < 0.02 then 1000000 else 20000 end
        end;
        -- The clock that is read may have jumped back; a counter then goes by the latest time that it knows.
        given_us := now_us - case when random() < 0.2 then (random() * 30000000)::bigint else 0 end;
        wanted := array(select model from limits_model as model order by random() limit 1 + (random() < 0.4)::int);
        costs := array(
            select case when random() < 0.7 then 1
                else least(1 + floor(random() * w.most / 8)::bigint, w.most) end
            from unnest(wanted) as w
        );
        at_us := array(
            select greatest(given_us, (select max(c.at) from charges as c where c.key = w.key))
            from unnest(wanted) with ordinality as w (key, most, window_us, n) order by n
        );
        select bool_and(t.is_admitted), array_agg(t.charged order by t.n) into verdict, charged_at
        from pg_temp.try(
            array(select key from unnest(wanted)), array(select most from unnest(wanted)),
            array(select window_us from unnest(wanted)), costs, given_us
        ) with ordinality as t (is_admitted, fits, remaining, more_us, retry_us, charged, n);
        if verdict then
            at_us := array(
                select greatest(at_us[n], charged_at[n] * case when w.most > 1024 then w.window_us / 64 else 1 end)
                from unnest(wanted) with ordinality as w (key, most, window_us, n) order by n
            );
        end if;
        -- What the limits promise, and for buckets how early they may refuse.
        select bool_and(pg_temp.used(w.key, at_us[n], w.window_us) + costs[n] <= w.most),
               bool_and(pg_temp.used(w.key, at_us[n], w.window_us
                   + case when w.most > 1024 then w.window_us / 64 else 0 end) + costs[n] <= w.most)
        into fits, late_fits
        from unnest(wanted) with ordinality as w (key, most, window_us, n);
        wrong_yes := wrong_yes + (verdict and not fits)::int;
        wrong_no := wrong_no + (not verdict and late_fits)::int;
        early := early + (not verdict and fits)::int;
        admissions := admissions + verdict::int;
        refusals := refusals + (not verdict)::int;
        if verdict then
            insert into charges
            select w.key, at_us[n], costs[n], charged_at[n]
            from unnest(wanted) with ordinality as w (key, most, window_us, n);
        end if;
        if random() < 0.1 then
            select c.ctid, c.* , m.most, m.window_us into refund
            from charges as c join limits_model as m using (key)
            where not c.is_refunded and c.at > now_us - m.window_us and c.key <> 'coarse'
            order by random() limit 1;
            if found then
                perform pg_temp.refund(refund.key, refund.most, refund.window_us, refund.cost, refund.charged);
                update charges set is_refunded = true where ctid = refund.ctid;
            end if;
        end if;
    end loop;
    return next;
end
$$;
select setseed(0.5);
select wrong_yes, wrong_no, early > 0 as some_early, admissions > 1000 as many_admitted, refusals > 1000 as many_refused
from pg_temp.model(4000);

-- Over all that happened: the fullest window of each key is within its limit.
select m.key, max(pg_temp.used(c.key, c.at, m.window_us)) <= m.most as never_over
from charges as c join limits_model as m using (key)
group by m.key, m.most
order by m.most;

-- A counter of a full log of 1,024 distinct times, refunded from its middle and its ends.
create function pg_temp.many(n integer, at bigint)
returns bigint
language sql
as $$
    select count(*) filter (where is_admitted)
    from generate_series(1, n) as i, lateral pg_temp.try('{full}', '{1024}', '{60000000}', '{1}', at + i)
$$;
select pg_temp.many(1100, :start);
select is_admitted, remaining, more_us, retry_us from pg_temp.try('{full}', '{1024}', '{60000000}', '{1}', :start::bigint + 2000);
select count(pg_temp.refund('full', 1024, 60000000, 1, :start::bigint + i))
from unnest(array[1, 15, 16, 500, 1023, 1024, 1024, 5000]) as i;
select remaining, more_us from pg_temp.try('{full}', '{1024}', '{60000000}', '{1}', :start::bigint + 2000, charge => false);
select pg_temp.many(10, :start::bigint + 2000);
select remaining, more_us from pg_temp.try('{full}', '{1024}', '{60000000}', '{1}', :start::bigint + 60000000, charge => false);
select remaining from pg_temp.try('{full}', '{1024}', '{60000000}', '{1}', :start::bigint + 60001024, charge => false);
select remaining from pg_temp.try('{full}', '{1024}', '{60000000}', '{1}', :start::bigint + 60002009, charge => false);
select remaining from pg_temp.try('{full}', '{1024}', '{60000000}', '{1}', :start::bigint + 60002010, charge => false);

-- Charging and refunding again and again takes no memory.
do $$
declare
    made record;
    start bigint := keelson._limits_clock();
begin
    for i in 1 .. 20000 loop
        select * into made from pg_temp.try('{login}', '{5}', '{900000000}', '{1}', start + i, true);
        if not made.is_admitted then
            raise exception 'refused after % refunds', i - 1;
        end if;
        perform pg_temp.refund('login', 5, 900000000, 1, made.charged, true);
    end loop;
end
$$;

-- Full memory: the oldest goes, which is counted; the protected space is not touched by the others.
select is_admitted, remaining from pg_temp.try('{kept}', '{5}', '{900000000}', '{1}', -1, true);
select evicted as evicted_before, evicted_protected as evicted_protected_before, capacity from keelson._limits_status() \gset
select count(*) filter (where is_admitted) = :capacity * 2 as all_admitted
from generate_series(1, :capacity * 2) as i, lateral pg_temp.try(array['flood ' || i], '{5}', '{60000000}', '{1}');
select evicted > :evicted_before as evicted, evicted_protected = :evicted_protected_before as none_protected,
       entries <= capacity as within_memory, exhausted
from keelson._limits_status();
select is_admitted, remaining from pg_temp.try('{kept}', '{5}', '{900000000}', '{1}', -1, true);
-- What has expired goes first: the next flood comes when the last one counts no more. It is a quarter of what there is room
-- for, so that no key finds both of its sets full of it, whichever they are.
select evicted as evicted_before, keelson._limits_clock() + 61000000 as start_later from keelson._limits_status() \gset
select count(*) filter (where is_admitted) = :capacity / 4 as all_admitted
from generate_series(1, :capacity / 4) as i,
    lateral pg_temp.try(array['later ' || i], '{5}', '{1000000}', '{1}', :start_later);
select evicted - :evicted_before as evicted from keelson._limits_status();

-- Memory for what is counted may be used up before there is no place for another key: who counted longest ago makes room.
select evicted as evicted_before from keelson._limits_status() \gset
select count(*) as calls, bool_and(is_admitted) as all_admitted
from generate_series(1, 1000) as n, generate_series(1, 40) as g,
    lateral pg_temp.try(array(select format('long %s %s', g, k) from generate_series(1, 8) as k), array_fill(1000::bigint, array[8]),
        array_fill(60000000::bigint, array[8]), array_fill(1::bigint, array[8]), :start_later::bigint + 200000000 + n * 1000);
select evicted > :evicted_before as evicted from keelson._limits_status();

-- What the benchmark measures decides as a request does.
select keelson._limits_speed(1000, 3, 10, 1000000) > 0 as has_taken_time;
select keelson._limits_speed(1000, 1000, 10, 1000000);
select keelson._limits_speed(1000, 3, 0, 1000000);
