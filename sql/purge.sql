\set VERBOSITY terse
-- What is old is deleted, the oldest first, so many at most; what has no time stays.
create temp table remains (id integer, at timestamptz);
insert into remains select n, timestamptz '2020-01-01 UTC' + n * interval '1 day' from generate_series(1, 5) as n;
insert into remains values (6, null);
select keelson._purge('remains', 'at', timestamptz '2020-01-05 UTC', 2) as purged, array(select id from remains order by id) as before;
select keelson._purge('remains', 'at', timestamptz '2020-01-05 UTC', 0) as purged, array(select id from remains order by id) as before;
select keelson._purge('remains', 'at', timestamptz '2020-01-05 UTC', 100) as purged, array(select id from remains order by id) as before;
select id, at at time zone 'UTC' as at from remains order by id;

-- A table that has partitions is none of its.
select keelson._purge('keelson.usage_events', 'recorded_at', now(), 1);
