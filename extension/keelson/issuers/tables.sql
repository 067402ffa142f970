-- migration 1: issuers, and the users whom they name

create table keelson.issuers (
    id uuid not null,
    issuer text not null,
    audience text[] not null,
    algorithms text[] not null,
    types text[] not null,
    authorized_parties text[],
    jwks text,
    pem text,
    jwks_url text,
    keys_set_at timestamptz,
    email_claim text,
    email_verified_claim text,
    name_claim text,
    trusts_email boolean not null default false,
    creates_users boolean not null default true,
    links_by_email boolean not null default false,
    is_enabled boolean not null default true,
    created_at timestamptz not null default pg_catalog.now(),
    updated_at timestamptz not null default pg_catalog.now(),
    constraint issuers_pkey primary key (id),
    constraint issuers_issuer_key unique (issuer),
    constraint issuers_issuer_check check (pg_catalog.char_length(issuer) between 1 and 512),
    constraint issuers_audience_check check (
        pg_catalog.cardinality(audience) between 1 and 16 and pg_catalog.array_position(audience, null) is null
    ),
    -- A key verifies by its own kind alone; a symmetric one is none.
    constraint issuers_algorithms_check check (
        pg_catalog.cardinality(algorithms) between 1 and 4 and algorithms <@ array['RS256', 'PS256', 'ES256', 'EdDSA']
    ),
    constraint issuers_types_check check (
        pg_catalog.cardinality(types) between 1 and 8 and pg_catalog.array_position(types, null) is null
    ),
    constraint issuers_authorized_parties_check check (
        pg_catalog.cardinality(authorized_parties) between 1 and 16 and pg_catalog.array_position(authorized_parties, null) is null
    ),
    constraint issuers_keys_check check (
        (jwks is null or pem is null)
        and pg_catalog.octet_length(coalesce(jwks, pem, '')) <= 65536
        and (keys_set_at is null) = (jwks is null and pem is null)
    ),
    constraint issuers_jwks_url_check check (jwks_url ~ '^https://[^[:space:]]+$' and pg_catalog.char_length(jwks_url) <= 2048)
);
comment on table keelson.issuers is
    'Whose tokens are taken besides our own. Each server process keeps a copy, which a change makes stale at its commit.';
comment on column keelson.issuers.issuer is 'The claim iss, compared exactly.';
comment on column keelson.issuers.audience is 'The claim aud names one of these.';
comment on column keelson.issuers.algorithms is 'With which keys may be used; which it is is the key''s affair, not the token''s.';
comment on column keelson.issuers.types is 'What typ may be; JWT allows it to be missing.';
comment on column keelson.issuers.authorized_parties is 'What the claim azp may be, and then must; null: whatever.';
comment on column keelson.issuers.jwks is 'The public keys as a JWK set, the text as it was given.';
comment on column keelson.issuers.pem is 'The public key in PEM, where there is one alone.';
comment on column keelson.issuers.jwks_url is 'Where the keys are published; whoever fetches them hands them to keelson.issuer_keys_set().';
comment on column keelson.issuers.keys_set_at is 'When the keys were set last; null: there are none, and no token is good.';
comment on column keelson.issuers.email_claim is 'The claim that holds the e-mail address; null: none does.';
comment on column keelson.issuers.email_verified_claim is 'The claim that tells whether the issuer has verified it; null: none does.';
comment on column keelson.issuers.name_claim is 'The claim that holds the name to show; null: none does.';
comment on column keelson.issuers.trusts_email is 'Whether every address that the issuer names counts as verified.';
comment on column keelson.issuers.creates_users is 'Whether a subject that is met for the first time gets a user.';
comment on column keelson.issuers.links_by_email is 'Whether such a subject becomes the user who holds the address, if both sides have verified it.';
comment on column keelson.issuers.is_enabled is 'False: none of its tokens is good any more.';

create table keelson.external_identities (
    issuer text not null,
    subject text not null,
    user_id uuid not null,
    id uuid not null,
    created_at timestamptz not null default pg_catalog.now(),
    constraint external_identities_pkey primary key (issuer, subject),
    constraint external_identities_subject_check check (pg_catalog.char_length(subject) between 1 and 255)
);
-- No foreign keys: users are found by their id on any node, this is one global
-- table; and an issuer that is removed and comes back finds its users.
create index external_identities_user_id_id_idx on keelson.external_identities (user_id, id);
comment on table keelson.external_identities is
    'Which user a subject of an issuer is: the one look-up by both. Read by keelson_system alone.';
comment on column keelson.external_identities.issuer is 'The claim iss.';
comment on column keelson.external_identities.subject is 'The claim sub.';
comment on column keelson.external_identities.user_id is 'The user who that is.';
comment on column keelson.external_identities.id is 'UUIDv7 by which the user names it.';
comment on column keelson.external_identities.created_at is 'When it was first met, or linked.';
comment on index keelson.external_identities_user_id_id_idx is 'The identities of a user, for the list and for erasure.';

-- migration 2: fetching of keys that are published

-- Apart from the issuers, since a change of theirs makes every process look at
-- its tokens again, and most fetches bring nothing new.
create table keelson.issuer_fetches (
    id uuid not null,
    due_at timestamptz not null default pg_catalog.now(),
    asked_at timestamptz,
    fetched_at timestamptz,
    failures integer not null default 0,
    error text,
    constraint issuer_fetches_pkey primary key (id),
    constraint issuer_fetches_id_fkey foreign key (id) references keelson.issuers (id) on delete cascade,
    constraint issuer_fetches_failures_check check (failures >= 0)
) with (fillfactor = 70);
comment on table keelson.issuer_fetches is
    'How fetching the keys of an issuer goes, for each that publishes them at a URL.';
comment on column keelson.issuer_fetches.id is 'The issuer''s.';
comment on column keelson.issuer_fetches.due_at is 'When they are fetched next; earlier where a token names a key that is not known.';
comment on column keelson.issuer_fetches.asked_at is 'When a fetch was last asked for; 30 seconds lie between two.';
comment on column keelson.issuer_fetches.fetched_at is 'When they were last fetched; null: never.';
comment on column keelson.issuer_fetches.failures is 'How often fetching has failed since then; the keys from before stay.';
comment on column keelson.issuer_fetches.error is 'Why it failed last; null: it did not.';

insert into keelson.issuer_fetches (id) select i.id from keelson.issuers as i where i.jwks_url is not null;
