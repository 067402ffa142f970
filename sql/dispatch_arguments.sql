-- Arguments: names, sources, types, and that all faults are told at once, in words of ours.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;
set timezone = 'UTC';

create schema regress_arguments;
grant usage on schema regress_arguments to keelson_app;
create domain regress_arguments.short_name as text check (length(value) <= 5);
comment on domain regress_arguments.short_name is 'a name has at most 5 characters';
create domain regress_arguments.percent as numeric(5, 2) not null
    constraint percent_low check (value >= 0)
    constraint percent_high check (value <= 100);
comment on constraint percent_high on domain regress_arguments.percent is 'a percentage is at most 100';
create domain regress_arguments.tiny_name as regress_arguments.short_name check (length(value) >= 2);
comment on constraint tiny_name_check on domain regress_arguments.tiny_name is 'a name has at least 2 characters';
create domain regress_arguments.casting as text check (value::int > 3);
create type regress_arguments.colour as enum ('red', 'green', 'dark blue');
create type regress_arguments.point as (x_place int, y_place int, label regress_arguments.short_name);

-- Show what the function got.
create function regress_arguments.types(
    a_text text default null,
    a_varchar varchar default null,
    a_bool boolean default null,
    a_smallint smallint default null,
    an_int int default null,
    a_bigint bigint default null,
    a_numeric numeric default null,
    a_real real default null,
    a_double double precision default null,
    a_uuid uuid default null,
    a_time timestamptz default null,
    a_date date default null,
    some_bytes bytea default null,
    a_colour regress_arguments.colour default null,
    a_json json default null,
    a_jsonb jsonb default null,
    an_inet inet default null,
    an_interval interval default null,
    a_name name default null,
    a_short regress_arguments.short_name default null,
    a_tiny regress_arguments.tiny_name default null,
    a_percent regress_arguments.percent default 1,
    some_ints int[] default null,
    some_texts text[] default null,
    a_point regress_arguments.point default null,
    some_points regress_arguments.point[] default null,
    a_range int4range default null,
    a_vector tsvector default null
)
returns jsonb
language plpgsql
as $$
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'text', a_text, 'varchar', a_varchar, 'bool', a_bool, 'smallint', a_smallint, 'int', an_int,
        'bigint', a_bigint, 'numeric', a_numeric, 'real', a_real, 'double', a_double, 'uuid', a_uuid,
        'time', a_time, 'date', a_date, 'bytes', some_bytes, 'colour', a_colour, 'json', a_json,
        'jsonb', a_jsonb, 'inet', an_inet, 'interval', an_interval, 'name', a_name, 'short', a_short,
        'tiny', a_tiny, 'percent', nullif(a_percent, 1), 'ints', some_ints, 'texts', some_texts, 'point', a_point,
        'points', some_points, 'range', a_range, 'vector', a_vector
    ));
end
$$;
comment on function regress_arguments.types is 'Show the arguments.';
select keelson.route('POST regress-arguments', 'regress_arguments.types', is_public => true) as id \gset types_

-- The reply's body: the data, or the details of a refusal.
create function pg_temp.ask(route_id int, body text, paths json default null)
returns text
language sql
as $$
select d.status || ' ' || case
        when d.status = 400 then coalesce(
            (select string_agg(e ->> 'field' || ' ' || (e ->> 'code') || ': ' || (e ->> 'message'), e'\n' order by n)
             from jsonb_array_elements(convert_from(d.body, 'UTF8')::jsonb -> 'details') with ordinality as t (e, n)),
            (convert_from(d.body, 'UTF8')::jsonb ->> 'code') || ': ' || (convert_from(d.body, 'UTF8')::jsonb ->> 'error'))
        else convert_from(d.body, 'UTF8')
    end
from keelson.dispatch(route_id, null, paths, convert_to(body, 'UTF8'), '{}') as d
$$;

-- Each type as it should be.
select pg_temp.ask(:types_id, '{"aText": "é \" \n \u00e9 \ud83d\ude00", "aVarchar": "v", "aBool": true, "aSmallint": -7}');
select pg_temp.ask(:types_id, '{"anInt": 2147483647, "aBigint": -9223372036854775808, "aNumeric": 0.1, "aReal": 1.5, "aDouble": 1e300}');
select pg_temp.ask(:types_id, '{"anInt": 1e2, "aBigint": 12.0, "aSmallint": 1.50e1, "aNumeric": 1234567890123456789012345678901234567890.123456789}');
select pg_temp.ask(:types_id, '{"anInt": -0, "aBigint": 0e99999999999, "aSmallint": 3276.7e1, "aNumeric": -1.10}');
select pg_temp.ask(:types_id, '{"aUuid": "0194E0A0-0000-7000-8000-00000000000f", "aDate": "2024-02-29"}');
select pg_temp.ask(:types_id, '{"aTime": "2025-01-15T00:00:00Z"}');
select pg_temp.ask(:types_id, '{"aTime": "2025-01-15T01:30:00.123456789+01:30"}');
select pg_temp.ask(:types_id, '{"aTime": "2025-01-14t22:00:00-02:00"}');
select pg_temp.ask(:types_id, '{"someBytes": "aGVsbG8=", "aColour": "dark blue"}');
select pg_temp.ask(:types_id, '{"aJson": {"b": [1, 2.50], "a": null}, "aJsonb": "text"}');
select pg_temp.ask(:types_id, '{"aJson": null, "aJsonb": [null, {"c": 0.10}]}');
select pg_temp.ask(:types_id, '{"anInet": "192.0.2.1", "anInterval": "2 hours", "aName": "n", "aRange": "[1,5)"}');
select pg_temp.ask(:types_id, '{"aShort": "abcde", "aTiny": "ab", "aPercent": 99.99}');
select pg_temp.ask(:types_id, '{"someInts": [1, 2, 3], "someTexts": [], "aPoint": {"xPlace": 1, "label": "l"}}');
select pg_temp.ask(:types_id, '{"somePoints": [{"xPlace": 1}, {"yPlace": 2, "label": null}]}');
select pg_temp.ask(:types_id, '{}');
select pg_temp.ask(:types_id, null);
select pg_temp.ask(:types_id, '');
select pg_temp.ask(:types_id, '  {"\u0061Text": "a name may be escaped"}  ');

-- The same from the query, where all is text.
select pg_temp.ask(:types_id, null, '{"query": {"aText": "5", "aBool": "false", "anInt": "42", "aNumeric": "0.10", "aDouble": "1.5"}}');
select pg_temp.ask(:types_id, null, '{"path": {"aUuid": "0194e0a0-0000-7000-8000-00000000000f"}, "query": {"aTime": "2025-01-15T00:00:00Z", "aColour": "red"}}');
select pg_temp.ask(:types_id, null, '{"query": {"someInts": "1,2,3", "someTexts": "a,b", "aJsonb": "{\"a\": [1]}", "aShort": "abc"}}');
-- A list whose text is written with escapes, as the gateway writes quotes and backslashes, is the same list.
select pg_temp.ask(:types_id, null, '{"query": {"someTexts": "a,\"b\\\",\u00e9,\u002c"}}');
select pg_temp.ask(:types_id, null, '{"query": {"someTexts": "a,b\u0000"}}');
select pg_temp.ask(:types_id, null, '{"query": {"someInts": "", "aText": ""}}');
select pg_temp.ask(:types_id, null, '{"query": {"anInt": "", "aBool": "1", "aNumeric": " 5", "aDouble": "NaN", "someInts": "1,,3", "aJsonb": "{\"a\":1,\"a\":2}", "aPoint": "(1,2)"}}');
select pg_temp.ask(:types_id, null, '{"query": {"anInt": "+5", "aBigint": "0x10", "aNumeric": "Infinity", "aSmallint": "007", "aUuid": "{0194e0a0-0000-7000-8000-00000000000f}"}}');

-- Each type as it should not be. All faults, each once.
select pg_temp.ask(:types_id, '{"aText": 5, "aVarchar": true, "aBool": "true", "aSmallint": "5", "anInt": "x", "aBigint": [], "aNumeric": "1", "aReal": {}, "aDouble": "1"}');
select pg_temp.ask(:types_id, '{"aSmallint": 32768, "anInt": -2147483649, "aBigint": 9223372036854775808, "aReal": 1e39, "aDouble": 1e309, "aNumeric": 1e131073}');
select pg_temp.ask(:types_id, '{"aSmallint": 1.5, "anInt": 1e-1, "aBigint": 1e99999999999999999999, "aNumeric": 1e-16384, "aDouble": 1e-400}');
-- What numeric cannot show is out of its range too, zero with so many digits behind the point and all others that bring digits along.
select pg_temp.ask(:types_id, '{"aNumeric": 0e-99999, "anInt": true}');
select pg_temp.ask(:types_id, '{"aNumeric": 1.0e-16383, "anInt": true}');
select pg_temp.ask(:types_id, '{"aNumeric": 0e2222222222, "anInt": true}');
select pg_temp.ask(:types_id, '{"aUuid": "0194e0a0000070008000000000000000", "aTime": "2025-01-15", "aDate": "2025-02-29", "someBytes": "a b", "aColour": "blue"}');
select pg_temp.ask(:types_id, '{"aUuid": "0194e0a0-0000-7000-8000-00000000000g", "aTime": "now", "aDate": "infinity", "someBytes": "YQ", "aColour": 1}');
select pg_temp.ask(:types_id, '{"aTime": "2025-01-15T24:00:00Z", "aDate": "0000-01-01"}');
select pg_temp.ask(:types_id, '{"aTime": "2025-01-15T00:00:00", "aDate": "2025-1-1"}');
select pg_temp.ask(:types_id, '{"aVector": "' || repeat('v', 3000) || '"}');
select pg_temp.ask(:types_id, '{"anInet": "192.0.2.256", "anInterval": "soon", "aRange": "[5,1)", "aName": "' || repeat('n', 64) || '"}');
select pg_temp.ask(:types_id, '{"aShort": "abcdef", "aTiny": "a", "aPercent": -1}');
select pg_temp.ask(:types_id, '{"aShort": null, "aTiny": "abcdef", "aPercent": 100.01}');
select pg_temp.ask(:types_id, '{"aPercent": null}');
select pg_temp.ask(:types_id, '{"aPercent": 1000}');
select pg_temp.ask(:types_id, '{"someInts": [1, "2", null, [3], 4.5], "someTexts": "a"}');
select pg_temp.ask(:types_id, '{"aPoint": {"xPlace": "1", "yplace": 2, "label": "abcdef"}, "somePoints": [{}, 5, {"label": "abcdef"}, null]}');
select pg_temp.ask(:types_id, '{"aJsonb": 1e200000}');

-- Names.
select pg_temp.ask(:types_id, '{"a_text": "snake", "AText": "case", "nothing": 1, "": 2}');
select pg_temp.ask(:types_id, '{"anInt": 1}', '{"path": {"anInt": "1"}, "query": {"anInt": "1"}}');
select pg_temp.ask(:types_id, null, '{"query": {"anInt": "1", "anInt": "2"}}');
select pg_temp.ask(:types_id, '{"' || repeat('x', 300) || '": 1}') ~ '^400 x{200} UNKNOWN: ' as cut;
select length(pg_temp.ask(:types_id, (select json_object_agg('x' || n, n)::text from generate_series(1, 10000) as n))) as bounded;

-- The body as a whole.
select pg_temp.ask(:types_id, '[]');
select pg_temp.ask(:types_id, '5');
select pg_temp.ask(:types_id, 'null');
select pg_temp.ask(:types_id, '{"anInt": 1');
select pg_temp.ask(:types_id, '{"anInt": 1} {}');
select pg_temp.ask(:types_id, '{"anInt": 01}');
select pg_temp.ask(:types_id, '{"aText": "\u0000"}');
select pg_temp.ask(:types_id, '{"aText": "\ud83d"}');
select pg_temp.ask(:types_id, '{"anInt": 1, "anInt": 2}');
select pg_temp.ask(:types_id, '{"anInt": 1, "\u0061nInt": 2}');
select pg_temp.ask(:types_id, '{"aJsonb": [{"a": 1, "b": {"a": 1, "a": 2}}]}');
select pg_temp.ask(:types_id, '{"aJsonb": [{"a": 1}, {"a": 1, "b": {"a": 1}}]}');
select pg_temp.ask(:types_id, '{"aJsonb": ' || repeat('[', 31) || repeat(']', 31) || '}') like '200 %' as deep_enough;
select pg_temp.ask(:types_id, '{"aJsonb": ' || repeat('[', 32) || repeat(']', 32) || '}');
select pg_temp.ask(:types_id, repeat('[', 1000000));
select pg_temp.ask(:types_id, '{"aText": "' || repeat('[', 100) || '"}') like '200 %' as brackets_in_a_string;
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:types_id, null, null, '\x7b2261223a22ff227d', '{}') as d;
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:types_id, null, null, '\x7b7d00', '{}') as d;
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:types_id, null, '{"query": {"aText": "\u0000"}}', null, '{}') as d;
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:types_id, null, null, convert_to(repeat(' ', 1048577), 'UTF8'), '{}') as d;

-- Required, optional, null, given, strict; defaults that are computed.
create function regress_arguments.given(must text, may text default 'default', computed text default 'as ' || current_user)
returns jsonb
language plpgsql
as $$
begin
    return jsonb_build_array(must, may, computed, keelson.given('must'), keelson.given('may'), keelson.given('computed'));
end
$$;
comment on function regress_arguments.given is 'Show what was given.';
create function regress_arguments.strict(a int, b int default 5)
returns int
language plpgsql
strict
as $$ begin return a + b; end $$;
comment on function regress_arguments.strict is 'Add.';
create function regress_arguments.ungiven() returns boolean language plpgsql as $$ begin return keelson.given('none'); end $$;
comment on function regress_arguments.ungiven is 'Ask for an argument that is not there.';
select keelson.route('POST regress-given', 'regress_arguments.given', is_public => true) as id \gset given_
select keelson.route('POST regress-strict', 'regress_arguments.strict', is_public => true) as id \gset strict_
select keelson.route('POST regress-ungiven', 'regress_arguments.ungiven', is_public => true) as id \gset ungiven_
select pg_temp.ask(:given_id, '{}');
select pg_temp.ask(:given_id, '{"must": null}');
select pg_temp.ask(:given_id, '{"must": "m", "may": null, "computed": "c"}');
select pg_temp.ask(:given_id, '{"must": 1, "may": 2, "other": 3}');
select pg_temp.ask(:strict_id, '{"a": 1}');
select pg_temp.ask(:strict_id, '{"a": null, "b": null}');
select pg_temp.ask(:ungiven_id, '{}');
select regress_arguments.given('from psql');
-- A constant default is computed before there is a request to be asked about.
create function regress_arguments.pretends() returns boolean language plpgsql immutable as $$ begin return keelson.given('a'); end $$;
create function regress_arguments.constant(a boolean default regress_arguments.pretends()) returns boolean language sql as $$ select a $$;
comment on function regress_arguments.constant is 'Show.';
select keelson.route('POST regress-constant', 'regress_arguments.constant', is_public => true) as id \gset constant_
select pg_temp.ask(:constant_id, '{}');

-- A domain whose check raises an error: a fault all the same, and not in the server's words.
create function regress_arguments.cast(a regress_arguments.casting) returns text language plpgsql as $$ begin return a; end $$;
comment on function regress_arguments.cast is 'Show.';
select keelson.route('POST regress-cast', 'regress_arguments.cast', is_public => true) as id \gset cast_
select pg_temp.ask(:cast_id, '{"a": "5"}');
select pg_temp.ask(:cast_id, '{"a": "1"}');
select pg_temp.ask(:cast_id, '{"a": "x"}');

-- What is said of a value ends where a character does, however long it is.
select format('create type regress_arguments.wide as enum (%s)', string_agg(quote_literal(n || repeat('ж', 30)), ', ')) from generate_series(10, 39) as n \gexec
create function regress_arguments.wide(a regress_arguments.wide) returns text language sql as $$ select a $$;
comment on function regress_arguments.wide is 'Show.';
select keelson.route('POST regress-wide', 'regress_arguments.wide', is_public => true) as id \gset wide_
select pg_temp.ask(:wide_id, '{"a": "x"}') ~ '^400 a INVALID_VALUE: must be one of: 10ж{30}, .*ж$' as is_told;

-- A domain's and an enum's changes are seen at once.
alter domain regress_arguments.short_name drop constraint short_name_check;
alter type regress_arguments.colour add value 'blue';
alter type regress_arguments.point add attribute z_place int;
select pg_temp.ask(:types_id, '{"aShort": "abcdefgh", "aColour": "blue", "aPoint": {"zPlace": 3}}');

-- Faults leave the transaction as it was.
begin;
select pg_temp.ask(:types_id, '{"anInterval": "soon", "anInet": "x", "aJsonb": 1e200000}');
select pg_temp.ask(:types_id, '{"anInterval": "1 day"}');
commit;

-- Raw bodies.
create function regress_arguments.raw(body bytea, content_type text, n int default 0)
returns text
language plpgsql
as $$ begin return format('%s %s %s', encode(body, 'hex'), content_type, n); end $$;
comment on function regress_arguments.raw is 'Show the body.';
select keelson.route('PUT regress-raw/:n', 'regress_arguments.raw', is_public => true, is_raw => true) as id \gset raw_
select d.status, convert_from(d.body, 'UTF8')
from keelson.dispatch(:raw_id, null, '{"path": {"n": "3"}}', '\x00ff', '{"contentType": "image/png"}') as d;
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:raw_id, null, null, null, '{}') as d;
select pg_temp.ask(:raw_id, null, '{"query": {"body": "x", "contentType": "y"}}');

drop schema regress_arguments cascade;
delete from keelson.routes where owner = 'regress_arguments';
