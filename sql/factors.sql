-- Second factors: one-time passwords, recovery codes, challenges.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

-- RFC 6238, appendix B.
select seconds, keelson._totp_code('12345678901234567890', to_timestamp(seconds), 'SHA1', 8) as sha1,
    keelson._totp_code('12345678901234567890123456789012', to_timestamp(seconds), 'SHA256', 8) as sha256,
    keelson._totp_code('1234567890123456789012345678901234567890123456789012345678901234', to_timestamp(seconds), 'SHA512', 8) as sha512
from unnest(array[59, 1111111109, 1111111111, 1234567890, 2000000000, 20000000000]) as seconds
order by seconds;
select keelson._totp_code('x', now(), 'MD5', 6);
select keelson._totp_code('x', now(), 'SHA1', 10);

-- RFC 4648, section 10.
select word, keelson._base32(word::bytea) from unnest(array['', 'f', 'fo', 'foo', 'foob', 'fooba', 'foobar']) with ordinality as words (word, n) order by n;

-- The present step and the one before; with ahead the next one too. Nothing else.
select shift, keelson._totp_step('key', keelson._totp_code('key', to_timestamp(3000 + shift * 30)), to_timestamp(3005), false) as step,
    keelson._totp_step('key', keelson._totp_code('key', to_timestamp(3000 + shift * 30)), to_timestamp(3005), true) as ahead
from generate_series(-2, 2) as shift order by shift;
select code, keelson._totp_step('key', code, to_timestamp(3005), true)
from unnest(array['', '12345', '1234567', 'abcdef', '      ']) as code;

select algorithm, keelson._totp_step('key', keelson._totp_code('key', to_timestamp(3005), algorithm), to_timestamp(3005), false, algorithm) as own,
    keelson._totp_step('key', keelson._totp_code('key', to_timestamp(3005), algorithm), to_timestamp(3005), false, 'SHA1') as as_sha1
from unnest(array['SHA1', 'SHA256', 'SHA512']) as algorithm;
select keelson._totp_step('key', '123456', now(), false, 'MD5');

select keelson._url_escape('A b/é&=') as escaped;
select keelson._qr_svg('otpauth://totp/a') ~ '^<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 (\d+) \1"[^<]*<path[^<]*<path d="M4 4h7v1h-7z.*</svg>$' as is_svg;
select keelson._qr_svg(repeat('x', 1025));

-- One person, acting.
select keelson.user_create('tess@factors.example.com', 'correct horse battery staple') as id \gset
create function pg_temp.secret() returns bytea language sql security definer as $$
    select keelson.unseal(f.secret, row('totp', f.user_id, f.id)::keelson.seal_context)
    from keelson.totp_factors as f join keelson.user_emails as e using (user_id) where e.email = 'tess@factors.example.com'
$$;
create function pg_temp.code() returns text language sql as $$
    select keelson._totp_code(pg_temp.secret(), clock_timestamp())
$$;
create function pg_temp.body(reply keelson.reply) returns jsonb language sql as $$ select convert_from(reply.body, 'UTF8')::jsonb $$;

begin;
select keelson.act_as('tess@factors.example.com') is not null as acting;
select keelson.factor_state();
select pg_temp.body(r) ->> 'code' as nothing_enrolled from keelson.totp_confirm('123456') as r;
rollback;
begin;
select keelson.act_as('tess@factors.example.com') is not null as acting;
select (r).status is null or (r).status = 200 as enrolled, body ->> 'secret' ~ '^[A-Z2-7]{32}$' as is_secret,
    body ->> 'otpauthUrl' ~ ('^otpauth://totp/[^:]+:tess%40factors\.example\.com\?secret=' || (body ->> 'secret') || '&issuer=[^&]+&algorithm=SHA1&digits=6&period=30$') as is_uri,
    body ->> 'qrSvg' like '<svg %' as is_image
from (select r, convert_from(r.body, 'UTF8')::jsonb as body from keelson.totp_enroll() as r) as enrolment;
commit;
select position(pg_temp.secret() in secret) = 0 as is_sealed, confirmed_at is null as waits from keelson.totp_factors where user_id = :'id';
select keelson._factor_is_on(:'id') as is_on;

-- Confirmed by a code; wrong ones count.
begin;
select keelson.act_as('tess@factors.example.com') is not null as acting;
select (r).status, pg_temp.body(r) ->> 'code' as code from keelson.totp_confirm('abcdef') as r;
commit;
select count(*) as failures from keelson.authentication_failures where user_id = :'id' and not is_forgiven;
select pg_temp.code() as code \gset
begin;
select keelson.act_as('tess@factors.example.com') is not null as acting;
select jsonb_array_length(body -> 'recoveryCodes') as codes,
    (select bool_and(c ~ '^([A-Z2-7]{4}-){5}[A-Z2-7]{4}$') from jsonb_array_elements_text(body -> 'recoveryCodes') as c) as are_codes,
    body #>> '{recoveryCodes,0}' as first_code
from (select pg_temp.body(r) as body from keelson.totp_confirm(:'code') as r) as confirmation \gset
commit;
select :codes as codes, :'are_codes' as are_codes;
select keelson._factor_is_on(:'id') as is_on, count(*) as codes_kept, bool_and(octet_length(code_hash) = 32) as hashed
from keelson.recovery_codes where user_id = :'id';
-- A code works once, an older one never; recovery codes once, however they are written.
select keelson._totp_take(:'id', :'code') as again, keelson._totp_take(:'id', null) as none, keelson._totp_take(:'id', '') as empty;
update keelson.totp_factors set last_step = 0 where user_id = :'id';
select pg_temp.code() as code \gset
select keelson._totp_take(:'id', ' ' || left(:'code', 3) || ' ' || right(:'code', 3)) as first, keelson._totp_take(:'id', :'code') as second;
select keelson._recovery_code_take(:'id', lower(replace(:'first_code', '-', ' '))) as first, keelson._recovery_code_take(:'id', :'first_code') as second;
select keelson._recovery_code_take(:'id', null) as none, keelson._recovery_code_take(:'id', '') as empty;

-- A challenge is good once, while the password stays.
select p.changed_at as changed_at from keelson.passwords as p where p.user_id = :'id' \gset
select keelson._challenge_make(:'id', :'changed_at') as challenge \gset
select (keelson._challenge_find(:'challenge')).user_id = :'id' as is_good;
select keelson._challenge_use(:'challenge', :'id') as first, keelson._challenge_use(:'challenge', :'id') as second, (keelson._challenge_find(:'challenge')).user_id is null as is_gone;
select tried, (keelson._challenge_find(tried)).user_id from unnest(array[null, '', 'ksc_', 'ksc_' || repeat('0', 32) || repeat('A', 43)]) as tried;
select keelson._challenge_make(:'id', :'changed_at') as challenge \gset
update keelson.login_challenges set created_at = now() - interval '10 minutes', expires_at = now() - interval '5 minutes' where user_id = :'id';
select (keelson._challenge_find(:'challenge')).user_id is null as is_over;
select keelson._challenges_purge(100) >= 1 as purged;

-- A role that demands one.
select keelson.factor_require('user', '0');
select keelson.factor_require('nobody');
select keelson.factor_require('admin', '91 days');
select keelson.factor_require('admin', '7 days');
select keelson.role_grant('tess@factors.example.com', 'admin');
select keelson._factor_required_by(:'id') - now() between interval '6 days' and interval '7 days' as in_a_week;
begin;
select keelson.act_as('tess@factors.example.com') is not null as acting;
select pg_temp.body(r) -> 'code' from keelson.totp_disable('correct horse battery staple', recovery_code => 'x') as r;
rollback;
select keelson.factor_require('admin', null);
select keelson._factor_required_by(:'id') is null as not_demanded;

-- Lost: an administrator takes it away, and all sessions end.
select keelson.factor_reset('tess@factors.example.com') as was, keelson.factor_reset('tess@factors.example.com') as is_now;
select count(*) as left from keelson.recovery_codes where user_id = :'id';

-- Nobody reads them, nobody calls what is inside.
set role keelson_app;
select secret from keelson.totp_factors;
select code_hash from keelson.recovery_codes;
select keelson._totp_take(null, '123456');
select keelson.factor_reset('tess@factors.example.com');
reset role;
delete from keelson.authentication_failures where user_id = :'id';
delete from keelson.users where id = :'id';
delete from keelson.user_emails where user_id = :'id';
