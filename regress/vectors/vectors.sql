-- The functions of keelson_vectors, for a superuser of a test cluster; psql's
-- variable `module` is the library's path.
create schema vectors;
set search_path = vectors, pg_catalog;
create function gcm_seal(key bytea, nonce bytea, aad bytea, message bytea) returns bytea language c strict as :'module', 'vector_gcm_seal';
create function gcm_open(key bytea, nonce bytea, aad bytea, sealed bytea, tag bytea) returns bytea language c strict as :'module', 'vector_gcm_open';
create function hmac(digest integer, key bytea, message bytea) returns bytea language c strict as :'module', 'vector_hmac';
create function kept_hmac(key bytea, message bytea) returns bytea language c strict as :'module', 'vector_kept_hmac';
create function hash(message bytea) returns bytea language c strict as :'module', 'vector_sha256';
create function hkdf(secret bytea, salt bytea, info bytea, size integer) returns bytea language c strict as :'module', 'vector_hkdf';
create function pbkdf2(password bytea, salt bytea, rounds integer, size integer) returns bytea language c strict as :'module', 'vector_pbkdf2';
create function base64url(encoded text) returns text language c strict as :'module', 'vector_base64url';
create function signature(algorithm text, keys text, message bytea, signature bytea) returns boolean language c strict as :'module', 'vector_signature';
create function jws(token text, keys text) returns text language c strict as :'module', 'vector_jws';
create function json_is_good(message bytea) returns boolean language c strict as :'module', 'vector_json';
create function nanoseconds(what text, rounds integer) returns double precision language c strict as :'module', 'vector_time';

-- Every test of a file with its group, hexadecimal read on the way.
create function tests(file text) returns table (id integer, test_group jsonb, test jsonb) language sql as $$
    select (test->>'tcId')::integer, test_group - 'tests', test
    from jsonb_array_elements(pg_read_file(file)::jsonb->'testGroups') as test_group,
        jsonb_array_elements(test_group->'tests') as test
$$;
create function bytes(test jsonb, name text) returns bytea language sql immutable as $$ select decode(test->>name, 'hex') $$;
