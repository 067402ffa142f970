-- External issuers: administration, and the users of their subjects.

create or replace function keelson._issuer_keys_check(jwks text, pem text)
returns integer
language c
immutable
as 'MODULE_PATHNAME', 'ks__issuer_keys_check';
comment on function keelson._issuer_keys_check(text, text) is
    'How many keys of a JWK set, or of PEM, can be used to verify with; 400 when the set cannot be used.';

create or replace function keelson._issuers_changed()
returns trigger
language c
as 'MODULE_PATHNAME', 'ks__issuers_changed';
comment on function keelson._issuers_changed() is
    'Trigger: make every backend read the issuers anew.';

-- Administration.

create or replace function keelson._issuer_check(
    issuer text,
    audience text[],
    algorithms text[],
    types text[],
    authorized_parties text[],
    jwks_url text,
    claims text[]
)
returns void
language plpgsql
stable
as $$
begin
    if issuer is null or pg_catalog.char_length(issuer) not between 1 and 512 or issuer ~ '[[:space:][:cntrl:]]' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an issuer is the exact text of the claim iss, at most 512 characters', field => 'issuer');
    elsif issuer = pg_catalog.current_setting('keelson.public_url') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'this is our own name: our tokens are verified with our own keys', field => 'issuer');
    end if;
    perform keelson._issuer_list_check(audience, 'audience', 16, true);
    perform keelson._issuer_list_check(types, 'types', 8, true);
    perform keelson._issuer_list_check(authorized_parties, 'authorized_parties', 16, false);
    if coalesce(pg_catalog.cardinality(algorithms), 0) not between 1 and 4
        or not (algorithms <@ array['RS256', 'PS256', 'ES256', 'EdDSA'])
    then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the algorithms are among RS256, PS256, ES256 and EdDSA', field => 'algorithms');
    end if;
    if jwks_url !~ '^https://' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'keys are published under a URL that begins with https://', field => 'jwks_url');
    elsif keelson._url_fault(jwks_url) is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', pg_catalog.format('the URL %s', keelson._url_fault(jwks_url)), field => 'jwks_url');
    end if;
    if exists (select from pg_catalog.unnest(claims) as claim where pg_catalog.char_length(claim) not between 1 and 128) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the name of a claim has 1 to 128 characters');
    end if;
end
$$;
comment on function keelson._issuer_check(text, text[], text[], text[], text[], text, text[]) is
    'Raise 400 unless an issuer may be like this.';

create or replace function keelson._issuer_list_check(list text[], field text, most integer, is_needed boolean)
returns void
language plpgsql
immutable
as $$
begin
    if list is null and not is_needed then
        return;
    end if;
    if coalesce(pg_catalog.cardinality(list), 0) not between 1 and most
        or exists (select from pg_catalog.unnest(list) as one where one is null or pg_catalog.char_length(one) not between 1 and 512)
    then
        perform keelson.raise(400, 'VALIDATION_FAILED',
            pg_catalog.format('%s is a list of 1 to %s texts', pg_catalog.replace(field, '_', ' '), most), field => field);
    end if;
end
$$;
comment on function keelson._issuer_list_check(text[], text, integer, boolean) is
    'Raise 400 naming the field unless it is a list of so many texts at most.';

create or replace function keelson.issuer_add(
    issuer text,
    audience text[],
    jwks text default null,
    pem text default null,
    jwks_url text default null,
    algorithms text[] default '{RS256,PS256,ES256,EdDSA}',
    types text[] default '{JWT,at+jwt}',
    authorized_parties text[] default null,
    email_claim text default 'email',
    email_verified_claim text default 'email_verified',
    name_claim text default 'name',
    trusts_email boolean default false,
    creates_users boolean default true,
    links_by_email boolean default false
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    id uuid := keelson.uuid7();
begin
    perform keelson._issuer_check(
        issuer, audience, algorithms, types, authorized_parties, jwks_url, array[email_claim, email_verified_claim, name_claim]
    );
    if jwks is not null or pem is not null then
        perform keelson._issuer_keys_check(jwks, pem);
    end if;
    lock table keelson.issuers in share row exclusive mode;
    if (select count(*) from keelson.issuers) >= 64 then
        perform keelson.raise(409, 'CONFLICT', 'there are 64 issuers, and no more are taken', 'Remove one with keelson.issuer_remove().');
    end if;
    insert into keelson.issuers (
        id, issuer, audience, algorithms, types, authorized_parties, jwks, pem, jwks_url, keys_set_at,
        email_claim, email_verified_claim, name_claim, trusts_email, creates_users, links_by_email
    )
    values (
        id, issuer_add.issuer, audience, algorithms, types, authorized_parties, jwks, pem, jwks_url,
        case when jwks is not null or pem is not null then now() end,
        email_claim, email_verified_claim, name_claim, trusts_email, creates_users, links_by_email
    )
    on conflict do nothing;
    if not found then
        perform keelson.raise(409, 'CONFLICT', format('there is an issuer "%s"', issuer), 'Change it with keelson.issuer_change().', 'issuer');
    end if;
    perform keelson._issuer_fetch_set(id);
    perform keelson._issuer_audit('issuer added', issuer, jsonb_build_object(
        'audience', audience, 'createsUsers', creates_users, 'linksByEmail', links_by_email, 'trustsEmail', trusts_email
    ));
    return id;
end
$$;
comment on function keelson.issuer_add(text, text[], text, text, text, text[], text[], text[], text, text, text, boolean, boolean, boolean) is
    'Take tokens of an external issuer (claim iss), for these audiences, verified with the keys of a JWK set, in PEM, or as they are published at a URL (https), from where they are fetched at once and again as they age. Without keys none is good. Returns the id.';
grant execute on function keelson.issuer_add(text, text[], text, text, text, text[], text[], text[], text, text, text, boolean, boolean, boolean) to keelson_admin;

create or replace function keelson._issuer_audit(what text, issuer text, detail jsonb default '{}')
returns void
language plpgsql
volatile
as $$
begin
    perform keelson.audit(
        'config.change', pg_catalog.jsonb_build_object('what', what, 'issuer', issuer, 'databaseRole', session_user) || detail
    );
end
$$;
comment on function keelson._issuer_audit(text, text, jsonb) is
    'Record a change of an issuer.';

create or replace function keelson._issuer_fetch_set(id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from keelson.issuer_fetches as f where f.id = _issuer_fetch_set.id;
    insert into keelson.issuer_fetches (id)
    select i.id from keelson.issuers as i where i.id = _issuer_fetch_set.id and i.jwks_url is not null;
    if found then
        perform keelson._issuer_fetch_ask(id);
    end if;
end
$$;
comment on function keelson._issuer_fetch_set(uuid) is
    'Begin to fetch the issuer''s keys from its URL, or no more where it has none.';

create or replace function keelson._issuer_lock(issuer text)
returns uuid
language plpgsql
volatile
as $$
declare
    found_id uuid;
begin
    select i.id into found_id from keelson.issuers as i where i.issuer = _issuer_lock.issuer for no key update;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', pg_catalog.format('issuer "%s" does not exist', issuer), field => 'issuer');
    end if;
    return found_id;
end
$$;
comment on function keelson._issuer_lock(text) is
    'The id of the issuer, locked until the transaction ends; 404 when there is none.';

create or replace function keelson.issuer_change(
    issuer text,
    audience text[] default null,
    jwks_url text default null,
    algorithms text[] default null,
    types text[] default null,
    authorized_parties text[] default null,
    email_claim text default null,
    email_verified_claim text default null,
    name_claim text default null,
    trusts_email boolean default null,
    creates_users boolean default null,
    links_by_email boolean default null
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    i keelson.issuers;
    issuer_id uuid := keelson._issuer_lock(issuer);
    url_before text;
begin
    select * into i from keelson.issuers as known where known.id = issuer_id;
    url_before := i.jwks_url;
    i.audience := coalesce(audience, i.audience);
    i.jwks_url := nullif(coalesce(jwks_url, i.jwks_url), '');
    i.algorithms := coalesce(algorithms, i.algorithms);
    i.types := coalesce(types, i.types);
    i.authorized_parties := nullif(coalesce(authorized_parties, i.authorized_parties), '{}');
    i.email_claim := nullif(coalesce(email_claim, i.email_claim), '');
    i.email_verified_claim := nullif(coalesce(email_verified_claim, i.email_verified_claim), '');
    i.name_claim := nullif(coalesce(name_claim, i.name_claim), '');
    i.trusts_email := coalesce(trusts_email, i.trusts_email);
    i.creates_users := coalesce(creates_users, i.creates_users);
    i.links_by_email := coalesce(links_by_email, i.links_by_email);
    perform keelson._issuer_check(
        i.issuer, i.audience, i.algorithms, i.types, i.authorized_parties, i.jwks_url,
        array[i.email_claim, i.email_verified_claim, i.name_claim]
    );
    update keelson.issuers as changed
    set audience = i.audience,
        jwks_url = i.jwks_url,
        algorithms = i.algorithms,
        types = i.types,
        authorized_parties = i.authorized_parties,
        email_claim = i.email_claim,
        email_verified_claim = i.email_verified_claim,
        name_claim = i.name_claim,
        trusts_email = i.trusts_email,
        creates_users = i.creates_users,
        links_by_email = i.links_by_email,
        updated_at = now()
    where changed.id = i.id;
    if i.jwks_url is distinct from url_before then
        perform keelson._issuer_fetch_set(i.id);
    end if;
    perform keelson._issuer_audit('issuer changed', issuer, jsonb_build_object(
        'audience', i.audience, 'createsUsers', i.creates_users, 'linksByEmail', i.links_by_email, 'trustsEmail', i.trusts_email
    ));
end
$$;
comment on function keelson.issuer_change(text, text[], text, text[], text[], text[], text, text, text, boolean, boolean, boolean) is
    'Change what an issuer''s tokens must say. What is null stays; an empty text or list takes away what may be missing.';
grant execute on function keelson.issuer_change(text, text[], text, text[], text[], text[], text, text, text, boolean, boolean, boolean) to keelson_admin;

create or replace function keelson.issuer_keys_set(issuer text, jwks text default null, pem text default null)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    keys integer := keelson._issuer_keys_check(jwks, pem);
    issuer_id uuid := keelson._issuer_lock(issuer);
    i keelson.issuers;
begin
    select * into i from keelson.issuers as known where known.id = issuer_id;
    -- The same keys again are no change: those who fetch them do so often.
    if i.jwks is not distinct from issuer_keys_set.jwks and i.pem is not distinct from issuer_keys_set.pem then
        return keys;
    end if;
    update keelson.issuers as changed
    set jwks = issuer_keys_set.jwks, pem = issuer_keys_set.pem, keys_set_at = now(), updated_at = now()
    where changed.id = i.id;
    perform keelson._issuer_audit('issuer''s keys set', issuer, jsonb_build_object('count', keys));
    return keys;
end
$$;
comment on function keelson.issuer_keys_set(text, text, text) is
    'Replace an issuer''s keys by those of a JWK set (the text that it publishes: at most 64 KiB and 32 keys) or by one in PEM, until others are fetched from its URL, if it has one; RSA has 2,048 bits or more. Returns how many of them can be used; 400, and nothing changed, when the set cannot be.';
grant execute on function keelson.issuer_keys_set(text, text, text) to keelson_admin;

create or replace function keelson._issuer_switch(issuer text, on_or_off boolean)
returns boolean
language plpgsql
volatile
as $$
declare
    issuer_id uuid := keelson._issuer_lock(issuer);
begin
    update keelson.issuers as i set is_enabled = on_or_off, updated_at = pg_catalog.now()
    where i.id = issuer_id and i.is_enabled <> on_or_off;
    if not found then
        return false;
    end if;
    if on_or_off then
        perform keelson._issuer_fetch_ask(issuer_id);
    end if;
    perform keelson._issuer_audit(case when on_or_off then 'issuer enabled' else 'issuer disabled' end, issuer);
    return true;
end
$$;
comment on function keelson._issuer_switch(text, boolean) is
    'Switch the issuer on or off; false when it is so already.';

create or replace function keelson.issuer_disable(issuer text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._issuer_switch(issuer, false);
end
$$;
comment on function keelson.issuer_disable(text) is
    'The kill switch: no token of the issuer is good any more, from the next statement on. False when it is disabled already.';
grant execute on function keelson.issuer_disable(text) to keelson_admin;

create or replace function keelson.issuer_enable(issuer text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._issuer_switch(issuer, true);
end
$$;
comment on function keelson.issuer_enable(text) is
    'Take tokens of the issuer again. False when it is enabled already.';
grant execute on function keelson.issuer_enable(text) to keelson_admin;

create or replace function keelson.issuer_remove(issuer text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from keelson.issuers as i where i.issuer = issuer_remove.issuer;
    if not found then
        return false;
    end if;
    perform keelson._issuer_audit('issuer removed', issuer);
    return true;
end
$$;
comment on function keelson.issuer_remove(text) is
    'Take no tokens of the issuer any more; false when there is none. Its users stay, and who they are: added again, it finds them.';
grant execute on function keelson.issuer_remove(text) to keelson_admin;

-- Across users: executed by the core's own functions alone.

create or replace function keelson._external_user(
    issuer text,
    subject text,
    email text,
    is_email_verified boolean,
    name text,
    out user_id uuid,
    out outcome text
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    i keelson.issuers;
    new_id uuid;
    holder_id uuid;
begin
    select e.user_id into user_id from keelson.external_identities as e where e.issuer = issuer and e.subject = subject;
    if found then
        outcome := 'known';
        return;
    end if;
    select * into i from keelson.issuers as known where known.issuer = issuer;
    email := keelson._email_or_null(email);
    if email is not null and not is_email_verified then
        outcome := 'unverified';
        return;
    end if;
    if email is not null then
        select held.user_id into holder_id from keelson.user_emails as held
        where held.email = lower(email collate "C") and held.reserved_until is null;
    end if;
    if holder_id is not null and i.links_by_email is true and exists (
        select from keelson.users as u where u.id = holder_id and u.status = 'active' and u.email_verified_at is not null
    ) then
        new_id := holder_id;
        outcome := 'linked';
    elsif holder_id is null and i.creates_users is true then
        new_id := keelson.uuid7();
        outcome := 'made';
    else
        -- The address may be held by the user whom somebody has made of this very subject since we looked.
        select e.user_id into user_id from keelson.external_identities as e where e.issuer = issuer and e.subject = subject;
        outcome := case when found then 'met' else 'unlinked' end;
        return;
    end if;
    -- Waits for another first sight of the subject, and takes its user.
    insert into keelson.external_identities (issuer, subject, user_id, id)
    values (issuer, subject, new_id, keelson.uuid7())
    on conflict do nothing;
    if not found then
        select e.user_id into user_id from keelson.external_identities as e where e.issuer = issuer and e.subject = subject;
        outcome := case when user_id is null then 'unlinked' else 'met' end;
        return;
    end if;
    if outcome = 'made' then
        outcome := keelson._external_user_add(new_id, issuer, subject, email, name);
    end if;
    if outcome <> 'unlinked' then
        user_id := new_id;
        perform keelson.audit('identity.link', jsonb_build_object('issuer', issuer, 'personal', subject), user_id => user_id);
    end if;
    if outcome = 'linked' then
        perform keelson._notice(user_id, 'identity.linked', jsonb_build_object('issuer', issuer));
    end if;
end
$$;
alter function keelson._external_user(text, text, text, boolean, text) owner to keelson_system;
comment on function keelson._external_user(text, text, text, boolean, text) is
    'Who a subject of an issuer is. outcome: known; made, linked (by a verified address) or met (made by somebody else just now) at first sight; unverified (the address is not) or unlinked, without a user.';

create or replace function keelson._external_user_add(id uuid, issuer text, subject text, email text, name text)
returns text
language plpgsql
volatile
as $$
begin
    -- Somebody has registered with it meanwhile, or has left it lately.
    if email is not null and not keelson._email_take(id, email) then
        delete from keelson.external_identities as e
        where e.issuer = _external_user_add.issuer and e.subject = _external_user_add.subject;
        return 'unlinked';
    end if;
    -- A person can be reached; who cannot be is a service.
    insert into keelson.users (id, kind, email, email_verified_at, name)
    values (
        _external_user_add.id, case when email is null then 'service' else 'person' end, _external_user_add.email,
        case when email is not null then pg_catalog.now() end, keelson._name_or_null(_external_user_add.name)
    );
    if email is not null then
        perform keelson._subscription_open(id), keelson._referral_open(id);
    end if;
    perform keelson.audit('user.create', pg_catalog.jsonb_build_object('issuer', issuer), user_id => id);
    perform keelson.webhook_emit('user.created', pg_catalog.jsonb_build_object('userId', id), id);
    return 'made';
end
$$;
comment on function keelson._external_user_add(uuid, text, text, text, text) is
    'Make the user of a subject that was met for the first time, a person with a subscription of the default tier and a referral code: made, or unlinked when somebody holds the address.';

create or replace function keelson._email_or_null(value text)
returns text
language plpgsql
immutable
as $$
begin
    return value::keelson.email_address;
exception when check_violation then
    return null;
end
$$;
comment on function keelson._email_or_null(text) is
    'The text if it is an e-mail address that we take, else null.';

create or replace function keelson._name_or_null(value text)
returns text
language plpgsql
immutable
as $$
begin
    return normalize(value, nfc)::keelson.display_name;
exception when check_violation then
    return null;
end
$$;
comment on function keelson._name_or_null(text) is
    'The text if it is a name to show that we take, else null.';

create or replace function keelson._external_identity_add(user_id uuid, issuer text, subject text, detail jsonb default '{}')
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    id uuid := keelson.uuid7();
begin
    perform keelson._issuer_lock(issuer);
    if subject is null or char_length(subject) not between 1 and 255 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a subject has 1 to 255 characters', field => 'subject');
    end if;
    insert into keelson.external_identities (issuer, subject, user_id, id)
    values (_external_identity_add.issuer, _external_identity_add.subject, _external_identity_add.user_id, id)
    on conflict do nothing;
    if not found then
        perform keelson.raise(409, 'CONFLICT', 'this subject belongs to a user already', field => 'subject');
    end if;
    perform keelson.audit('identity.link', jsonb_build_object('issuer', issuer, 'personal', subject) || detail, user_id => user_id);
    perform keelson._notice(user_id, 'identity.linked', jsonb_build_object('issuer', issuer));
    return id;
end
$$;
alter function keelson._external_identity_add(uuid, text, text, jsonb) owner to keelson_system;
comment on function keelson._external_identity_add(uuid, text, text, jsonb) is
    'Say that a subject of an issuer is this user; 409 when it is one already.';

create or replace function keelson._external_identity_remove(user_id uuid, id uuid, detail jsonb default '{}')
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    removed keelson.external_identities;
begin
    delete from keelson.external_identities as e
    where e.user_id = _external_identity_remove.user_id and e.id = _external_identity_remove.id
    returning * into removed;
    if not found then
        return false;
    end if;
    -- The row's new version makes all that remember the issuer's tokens look again.
    update keelson.issuers as i set updated_at = now() where i.issuer = removed.issuer;
    perform keelson.audit(
        'identity.unlink', jsonb_build_object('issuer', removed.issuer, 'personal', removed.subject) || detail, user_id => user_id
    );
    return true;
end
$$;
alter function keelson._external_identity_remove(uuid, uuid, jsonb) owner to keelson_system;
comment on function keelson._external_identity_remove(uuid, uuid, jsonb) is
    'Take the identity from the user; false when there is none.';

create or replace function keelson.external_identity_link(who text, issuer text, subject text)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._external_identity_add(keelson._user_find(who), issuer, subject, jsonb_build_object('databaseRole', session_user));
end
$$;
comment on function keelson.external_identity_link(text, text, text) is
    'Say that a subject (claim sub) of an issuer is this user (e-mail address or id); returns the identity''s id. 409 when the subject is a user already.';
alter function keelson.external_identity_link(text, text, text) owner to keelson_system;
grant execute on function keelson.external_identity_link(text, text, text) to keelson_admin;

create or replace function keelson.external_identity_unlink(who text, id uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._external_identity_remove(keelson._user_find(who), id, jsonb_build_object('databaseRole', session_user));
end
$$;
comment on function keelson.external_identity_unlink(text, uuid) is
    'Take an external identity from the user (e-mail address or id); its tokens are not the user''s any more, from the next statement on. False when there is none.';
alter function keelson.external_identity_unlink(text, uuid) owner to keelson_system;
grant execute on function keelson.external_identity_unlink(text, uuid) to keelson_admin;
