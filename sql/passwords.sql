-- Passwords: argon2id, imported bcrypt, normalisation, pepper, limits.
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- A PHC string of the policy: 16 bytes of salt and 32 of hash, in base64 without padding.
select keelson.password_hash('correct horse battery') as hash \gset
select :'hash' ~ '^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$' as is_phc;
select keelson.password_verify('correct horse battery', :'hash') as right_one,
    keelson.password_verify('correct horse batterY', :'hash') as wrong_one,
    keelson.password_verify('correct horse battery ', :'hash') as not_trimmed,
    keelson.password_verify('', :'hash') as empty;
select keelson.password_hash('correct horse battery') <> :'hash' as salted;
select keelson.password_hash(null) is null as null_hash, keelson.password_verify('x', null) is null as null_verify;

-- NFC: the composed and the decomposed form are one password; compatibility forms are not.
select keelson.password_verify(U&'caf\00e9', keelson.password_hash(U&'cafe\0301')) as composed,
    keelson.password_verify(U&'cafe\0301', keelson.password_hash(U&'caf\00e9')) as decomposed,
    keelson.password_verify('fi', keelson.password_hash(U&'\fb01')) as ligature,
    keelson.password_verify(U&'\1112\1161\11ab', keelson.password_hash(U&'\d55c')) as hangul,
    keelson.password_verify(U&'\+01F600', keelson.password_hash(U&'\+01F600')) as beyond_the_bmp;
-- A hash of known text, by another program (libsodium itself).
select keelson.password_verify('weak password', '$argon2id$v=19$m=8192,t=1,p=1$/W5Cn1o+gRlFqT0jVlEd5g$rDWNxRs3gCC8jz34raEaKyONt2PSP877euGjXseh7ns') as weaker,
    keelson.password_verify('weak password', '$argon2id$v=19$m=65536,t=3,p=1$jj5Wj9SoXcL4ObwQwEoHvQ$VHdFO/xlxlajruQaqmNIJTdyOvJSJ9KzL9MceFvD6TY') as stronger;

-- Long ones are not cut: 1,024 characters count to the last, one more is refused.
select keelson.password_verify(repeat('é', 1023) || 'a', keelson.password_hash(repeat('é', 1023) || 'b')) as cut;
select keelson.password_hash(repeat('é', 1025));
select keelson.password_verify(repeat('é', 1025), :'hash');

-- bcrypt of imported users, by the name of each maker; the vectors are crypt_blowfish's.
select prefix, keelson.password_verify('U*U', prefix || '05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW') as is_right,
    keelson.password_verify('U*V', prefix || '05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW') as is_wrong
from unnest(array['$2a$', '$2b$', '$2y$']) as prefix order by prefix;
select keelson.password_verify('U*U*U', '$2a$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a') as third,
    keelson.password_verify('', '$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy') as empty;
-- As it came, since its maker did not normalise, or in NFC; these are pgcrypto's.
select keelson.password_verify(U&'cafe\0301', hash) as as_it_came, keelson.password_verify(U&'caf\00e9', hash) as other_form
from (values ('$2b$04$abcdefghijklmnopqrstuuOPx4tXEYeRQ0j5wdqjQ2bd8EqDyvq5e')) as made (hash);
select keelson.password_verify(U&'cafe\0301', hash) as decomposed_matches_composed
from (values ('$2b$04$abcdefghijklmnopqrstuuusvfeYzFuQdqd.KjimlRKkZ2QcoHWhO')) as made (hash);

-- What is no hash, or asks for more than we give, does not match, and takes as long as one that does not.
select hash, keelson.password_verify('weak password', hash) as matches
from unnest(array['', 'weak password', '$2a$05$', '$2a$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW', '$1$abc$', '$argon2id$',
    '$argon2i$v=19$m=8192,t=3,p=1$MzyWL+CWfZbxFHuySvJCaA$OGfYg/NcJdXsDot+uROwKMUe3Pt4ZzNQXo+lWZgBRz4',
    '$argon2id$v=19$m=4194304,t=2,p=1$jj5Wj9SoXcL4ObwQwEoHvQ$VHdFO/xlxlajruQaqmNIJTdyOvJSJ9KzL9MceFvD6TY',
    '$argon2id$v=19$m=8192,t=99,p=1$jj5Wj9SoXcL4ObwQwEoHvQ$VHdFO/xlxlajruQaqmNIJTdyOvJSJ9KzL9MceFvD6TY',
    '$argon2id$v=16$m=8192,t=1,p=1$/W5Cn1o+gRlFqT0jVlEd5g$rDWNxRs3gCC8jz34raEaKyONt2PSP877euGjXseh7ns']) as hash
order by hash collate "C";
create function pg_temp.ratio(one text, other text) returns double precision language plpgsql as $$
declare
    began timestamptz;
    least_one interval := '1 hour';
    least_other interval := '1 hour';
begin
    -- Until nothing has come between one of each.
    for i in 1..60 loop
        began := clock_timestamp();
        execute one;
        least_one := least(least_one, clock_timestamp() - began);
        began := clock_timestamp();
        execute other;
        least_other := least(least_other, clock_timestamp() - began);
        exit when i >= 3 and least_one / 2 < least_other and least_other / 2 < least_one;
    end loop;
    return extract(epoch from least_one) / extract(epoch from least_other);
end
$$;
select pg_temp.ratio('select keelson._password_check(''x'', null, null)', format('select keelson._password_check(''x'', %L, 1)', :'hash'))
    between 0.5 and 2 as takes_as_long;

-- Stored passwords have the pepper of the primary key; without it, or with another's, they do not match.
select hash as peppered, pepper_key_id from keelson._password_store('correct horse battery') \gset
select :pepper_key_id > 0 as has_pepper;
select * from keelson._password_check('correct horse battery', :'peppered', :pepper_key_id);
select * from keelson._password_check('correct horse batterY', :'peppered', :pepper_key_id);
select * from keelson._password_check('correct horse battery', :'peppered', 0);
select keelson.password_verify('correct horse battery', :'peppered') as without_pepper;
select * from keelson._password_check('correct horse battery', :'peppered', 999999);
-- To be stored anew: without a pepper, below the policy, bcrypt; never when it does not match.
select * from keelson._password_check('correct horse battery', :'hash', 0);
select * from keelson._password_check('weak password', '$argon2id$v=19$m=8192,t=1,p=1$/W5Cn1o+gRlFqT0jVlEd5g$rDWNxRs3gCC8jz34raEaKyONt2PSP877euGjXseh7ns', 0);
select * from keelson._password_check('strong password', '$argon2id$v=19$m=8192,t=1,p=1$/W5Cn1o+gRlFqT0jVlEd5g$rDWNxRs3gCC8jz34raEaKyONt2PSP877euGjXseh7ns', 0);
select * from keelson._password_check('U*U', '$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW', 0);
select * from keelson._password_check('x', null, null);
select * from keelson._password_check(null, :'hash', 0);

-- Who may.
set role keelson_app;
select keelson.password_verify('x', keelson.password_hash('x')) as may;
select * from keelson._password_store('x');
select * from keelson._password_check('x', 'x', 0);
reset role;
