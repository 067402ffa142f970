-- External issuers: administration, whose tokens are taken, and whose not.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

create function pg_temp.me(token text, out status integer, out data jsonb) language plpgsql as $$
declare
    reply keelson.reply;
begin
    reply := keelson.dispatch(
        (select r.id from keelson.routes as r where r.method = 'GET' and r.template = 'auth/me'),
        token, null, null, '{"ip": "192.0.2.7", "via": "bearer"}');
    status := reply.status;
    data := convert_from(reply.body, 'UTF8')::jsonb - '{id,createdAt}'::text[];
end
$$;
-- A token of the issuer, signed with our own keys, which are given as its.
create function pg_temp.token(more jsonb default '{}', typ text default 'JWT') returns text language sql as $$
    select keelson.jwt_sign(jsonb_build_object('iss', 'https://issuer.example', 'aud', 'api', 'sub', 'grace',
        'exp', extract(epoch from now())::bigint + 600, 'email', 'grace@issuers.example.com', 'email_verified', true, 'name', 'Grace') || more, typ);
$$;
select convert_from((keelson.jwks_document()).body, 'UTF8') as jwks \gset

-- What an issuer may be.
select keelson.issuer_add('https://issuer.example', '{api}', :'jwks') is not null as added;
select keelson.issuer_add('https://issuer.example', '{api}', :'jwks');
select keelson.issuer_add(null, '{api}');
select keelson.issuer_add('two words', '{api}');
select keelson.issuer_add(current_setting('keelson.public_url'), '{api}');
select keelson.issuer_add('a', null);
select keelson.issuer_add('a', '{}');
select keelson.issuer_add('a', '{api,null}');
select keelson.issuer_add('a', '{api}', algorithms => '{HS256}');
select keelson.issuer_add('a', '{api}', algorithms => '{none}');
select keelson.issuer_add('a', '{api}', algorithms => '{}');
select keelson.issuer_add('a', '{api}', types => '{}');
select keelson.issuer_add('a', '{api}', authorized_parties => '{}');
select keelson.issuer_add('a', '{api}', jwks_url => 'http://issuer.example/jwks');
select keelson.issuer_add('a', '{api}', email_claim => '');
select keelson.issuer_add('a', '{api}', jwks => '{}', pem => 'x');
select issuer, audience, algorithms, types, jwks = :'jwks' as has_keys, is_enabled from keelson.issuers;

-- What keys may be: each refusal leaves those that there are.
select keelson.issuer_keys_set('https://issuer.example');
select keelson.issuer_keys_set('nobody', :'jwks');
select keelson.issuer_keys_set('https://issuer.example', jwks => keys)
from unnest(array['', 'hello', '[]', '{"keys": {}}']) as keys limit 1;
select keelson.issuer_keys_set('https://issuer.example', '{"keys": []}');
select keelson.issuer_keys_set('https://issuer.example', '{"keys": [{"kty": "oct", "k": "AAAA"}]}');
select keelson.issuer_keys_set('https://issuer.example', '{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AA"}]}');
select keelson.issuer_keys_set('https://issuer.example', '{"keys": [], "keys": []}');
select keelson.issuer_keys_set('https://issuer.example', '{"keys": [' || repeat('{"kty":"RSA"},', 32) || '{"kty":"RSA"}]}');
select keelson.issuer_keys_set('https://issuer.example', :'jwks' || repeat(' ', 65536));
select keelson.issuer_keys_set('https://issuer.example', json_build_object('keys', json_build_array(:'jwks'::json #> '{keys,0}', :'jwks'::json #> '{keys,0}'))::text);
select keelson.issuer_keys_set('https://issuer.example', pem => 'x');
-- An RSA key of 1024 bits.
select keelson.issuer_keys_set('https://issuer.example', pem => E'-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCi3qwZ9wkVPOY+19YRuPrO5E0l\nDTe6s64TUDSGpFaDjiDbDo7mJZe4sDUKgVSD/7bZK4cDEYO4VOad24df4+3QUANO\nlADXs8Lqfr2ETxH8bp94+LBV8FVCFFoSOp1VOBHYxPjm+y3R5nUK66wc6YR5hYmG\nnQ1LKGeN5rmvyJvtNQIDAQAB\n-----END PUBLIC KEY-----');
select keelson.issuer_keys_set('https://issuer.example', :'jwks') >= 1 as same_again;
select jwks = :'jwks' as has_keys, pem from keelson.issuers;

-- Whose tokens are taken.
select * from pg_temp.me(pg_temp.token());
select typ, (pg_temp.me(pg_temp.token(typ => typ))).status from unnest(array['JWT', 'at+jwt', 'logout+jwt', 'audit-checkpoint']) as typ;
select more, (pg_temp.me(pg_temp.token(more::jsonb))).status
from unnest(array['{"iss": "https://issuer.example/"}', '{"iss": null}', '{"aud": ["api", "other"]}', '{"aud": "other"}', '{"aud": []}', '{"aud": null}',
    '{"sub": ""}', '{"sub": 1}', '{"sub": null}', '{"exp": 1}', '{"nbf": 32503680000}', '{"iat": 32503680000}', '{"nbf": "now"}']) as more;
select (pg_temp.me(keelson.jwt_sign(jsonb_build_object('iss', current_setting('keelson.public_url'), 'aud', 'api', 'sub', 'grace',
    'exp', extract(epoch from now())::bigint + 600), 'JWT'))).status as in_our_own_name;
select issuer, subject, (select count(*) from keelson.users as u where u.id = e.user_id and u.kind = 'person' and u.email_verified_at is not null) as users
from keelson.external_identities as e where issuer = 'https://issuer.example';

-- What the issuer's row demands holds for the next statement.
select pg_temp.token() as grace \gset
select keelson.issuer_change('https://issuer.example', authorized_parties => '{our-app}');
select status from pg_temp.me(:'grace');
select more, (pg_temp.me(pg_temp.token(more::jsonb))).status from unnest(array['{"azp": "our-app"}', '{"azp": "another"}', '{"azp": ["our-app"]}']) as more;
select keelson.issuer_change('https://issuer.example', authorized_parties => '{}', algorithms => '{RS256}');
select status from pg_temp.me(:'grace');
select keelson.issuer_change('https://issuer.example', algorithms => '{ES256,RS256}');
select status from pg_temp.me(:'grace');
select keelson.issuer_change('https://issuer.example', audience => '{other}');
select status from pg_temp.me(:'grace');
select keelson.issuer_change('https://issuer.example', audience => '{other,api}', types => '{at+jwt}');
select status from pg_temp.me(:'grace');
select keelson.issuer_change('https://issuer.example', types => '{JWT}');
select status from pg_temp.me(:'grace');
select keelson.issuer_disable('https://issuer.example') as disabled, (select status from pg_temp.me(:'grace')) as within;
select status from pg_temp.me(:'grace');
select keelson.issuer_disable('https://issuer.example') as again, keelson.issuer_enable('https://issuer.example') as enabled;
select status from pg_temp.me(:'grace');
update keelson.issuers set is_enabled = false where issuer = 'https://issuer.example';
select status from pg_temp.me(:'grace');
update keelson.issuers set is_enabled = true where issuer = 'https://issuer.example';
select status from pg_temp.me(:'grace');
select keelson.issuer_change('nobody', audience => '{api}');
select keelson.issuer_change('https://issuer.example', audience => '{}');

-- A first sight that is rolled back leaves nothing, also not in memory.
select pg_temp.token('{"sub": "rolled back", "email": "back@issuers.example.com"}') as back \gset
begin;
select status, data ->> 'email' as email from pg_temp.me(:'back');
select status, data ->> 'email' as email from pg_temp.me(:'back');
rollback;
select count(*) from keelson.external_identities where subject = 'rolled back';
select status, data ->> 'email' as email from pg_temp.me(:'back');
select status, data ->> 'email' as email from pg_temp.me(:'back');

-- Claims by other names, an issuer that may be trusted with addresses.
select keelson.issuer_change('https://issuer.example', email_claim => 'upn', email_verified_claim => '', name_claim => 'https://issuer.example/name', trusts_email => true);
select * from pg_temp.me(pg_temp.token('{"sub": "mapped", "upn": "mapped@issuers.example.com", "https://issuer.example/name": "Mapped"}'));
select keelson.issuer_change('https://issuer.example', trusts_email => false);
select * from pg_temp.me(pg_temp.token('{"sub": "untrusted", "upn": "untrusted@issuers.example.com"}'));

-- Linked and unlinked by an administrator.
select keelson.user_create('ada@issuers.example.com') as ada \gset
select keelson.external_identity_link('ada@issuers.example.com', 'https://issuer.example', 'ada') as identity \gset
select keelson.external_identity_link('ada@issuers.example.com', 'https://issuer.example', 'ada');
select keelson.external_identity_link('ada@issuers.example.com', 'https://nobody.example', 'ada');
select keelson.external_identity_link('ada@issuers.example.com', 'https://issuer.example', '');
select pg_temp.token('{"sub": "ada", "email": "other@issuers.example.com"}') as ada_token \gset
select data ->> 'email' as email from pg_temp.me(:'ada_token');
select data ->> 'email' as email from pg_temp.me(:'ada_token');
begin;
select keelson.act_as('ada@issuers.example.com') is not null as acts;
select issuer, subject from keelson.user_external_identities();
select keelson.user_external_identity_remove(:'identity');
rollback;
-- One of an issuer whose tokens are not taken is no other way.
begin;
insert into keelson.external_identities (issuer, subject, user_id, id) values ('https://gone.example', 'ada', :'ada', keelson.uuid7());
select keelson.act_as('ada@issuers.example.com') is not null as acts;
select keelson.user_external_identity_remove(:'identity');
rollback;
select keelson.external_identity_unlink('ada@issuers.example.com', :'identity') as unlinked;
select keelson.external_identity_unlink('ada@issuers.example.com', :'identity') as again;
select (data ->> 'email') is distinct from 'ada@issuers.example.com' as is_another from pg_temp.me(:'ada_token');

-- What the trail has, and who may do it.
select event_type, outcome, actor, data ->> 'what' as what, count(*)
from keelson.audit_events
where data ->> 'issuer' = 'https://issuer.example'
group by 1, 2, 3, 4
order by 1, 2, 3, 4;
begin;
set local role keelson_app;
select count(*) from keelson.issuers;
rollback;
begin;
set local role keelson_app;
select keelson.issuer_disable('https://issuer.example');
rollback;
begin;
set local role keelson_admin;
select count(*) >= 1 as seen from keelson.issuers;
select count(*) from keelson.external_identities;
rollback;

-- Fetching: asked for once at a time; what was fetched replaces, what failed leaves; then again after a while. Nothing is sent, it is rolled back.
begin;
select keelson.issuer_add('https://fetched.example', '{api}', jwks_url => 'https://fetched.example/jwks') as fetched \gset
select kind, lane = :'fetched' as lane, ref = :'fetched' as ref, user_id from keelson.deliveries where lane = :'fetched';
select keelson.issuer_fetch('https://fetched.example') as under_way;
delete from keelson.deliveries where lane = :'fetched';
select keelson.issuer_fetch('https://fetched.example') as too_early;
select count(*) as early from keelson._issuers_fetch_due(array[:'fetched']::uuid[]);
update keelson.issuer_fetches set asked_at = asked_at - interval '31 seconds' where id = :'fetched';
select id = :'fetched' as asked from keelson._issuers_fetch_due(array[:'fetched']::uuid[]) as id;
select is_quarantined from keelson.deliveries where lane = :'fetched';
-- What came back from a backup is not under way.
update keelson.deliveries set is_quarantined = true where lane = :'fetched';
update keelson.issuer_fetches set asked_at = now() + interval '1 day', due_at = now() + interval '30 days' where id = :'fetched';
select count(*) as of_a_clock_that_jumped from keelson._issuers_fetch_due('{}');
select count(*) from keelson.deliveries where lane = :'fetched';
create function pg_temp.fetched(issuer_id uuid, keys text, cache text, problem text) returns text language plpgsql as $$
declare
    outcome text := keelson._issuer_fetched(issuer_id, 'https://fetched.example/jwks', keys, cache, problem);
begin
    return (
        select concat_ws(', ', outcome, extract(epoch from date_trunc('second', f.due_at - clock_timestamp() + interval '0.5 seconds'))::int || ' s', f.failures || ' failures', f.error)
        from keelson.issuer_fetches as f where f.id = issuer_id
    );
end
$$;
select n, cache, pg_temp.fetched(:'fetched', case when problem is null then :'jwks' end, cache, problem) as what
from (values
    (1, 'max-age=7200', null), (2, 'public, Max-Age="86401"', null), (3, 'max-age=0, must-revalidate', null), (4, 'no-store', null), (5, 's-maxage=10', null),
    (6, 'max-age=99999999999', null), (7, null, 'there was no complete response in time'), (8, null, 'it was not answered with status 200'), (9, null, null)
) as given (n, cache, problem)
order by n;
select jwks = :'jwks' as has_keys, keys_set_at is not null as is_set from keelson.issuers where id = :'fetched';
select pg_temp.fetched(:'fetched', '{"keys": []}', null, null) as what;
select jwks = :'jwks' as has_keys from keelson.issuers where id = :'fetched';
select keelson._issuer_fetched(keelson.uuid7(), 'https://fetched.example/jwks', '{"keys": []}', null, null) as of_nobody;
-- What comes from where the issuer publishes no more is not taken, nor put down as a failure.
select keelson._issuer_fetched(:'fetched', 'https://before.example/jwks', null, null, 'no answer') as of_elsewhere;
select keelson.issuer_change('https://fetched.example', jwks_url => '');
select count(*) as fetches from keelson.issuer_fetches where id = :'fetched';
select keelson.issuer_fetch('https://fetched.example') as none;
select id = :'fetched' as nothing_to_fetch from keelson._issuers_fetch_due(array[:'fetched']::uuid[]) as id;
rollback;
select keelson.issuer_add('https://fetched.example', '{api}', jwks_url => 'https://user@fetched.example/jwks');
select keelson.issuer_add('https://fetched.example', '{api}', jwks_url => 'https://fetched.example/jwks#x');
select keelson.issuer_add('https://fetched.example', '{api}', jwks_url => 'https://169.254.169.254/jwks');
select keelson.issuer_fetch('https://fetched.example');

-- Away with them.
select keelson.issuer_remove('https://issuer.example') as removed, keelson.issuer_remove('https://issuer.example') as again;
select status from pg_temp.me(:'grace');
delete from keelson.users where id in (select user_id from keelson.external_identities where issuer = 'https://issuer.example') or id = :'ada';
delete from keelson.user_emails where user_id in (select user_id from keelson.external_identities where issuer = 'https://issuer.example') or user_id = :'ada';
delete from keelson.external_identities where issuer = 'https://issuer.example';
