-- migration 1: mails and their templates

create table keelson.mail_templates (
    name text not null,
    language text not null,
    subject text not null,
    body_text text not null,
    body_html text,
    is_security boolean not null default false,
    is_core boolean not null default false,
    updated_at timestamptz not null default pg_catalog.now(),
    constraint mail_templates_pkey primary key (name, language),
    constraint mail_templates_name_check check (name ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$' and pg_catalog.char_length(name) <= 63),
    constraint mail_templates_language_check check (language ~ '^[a-z]{2,3}(-[A-Za-z0-9]{1,8})*$' and pg_catalog.char_length(language) <= 35),
    -- One line: a subject is a header.
    constraint mail_templates_subject_check check (subject ~ '^[^\u0001-\u001f\u007f]{1,200}$'),
    constraint mail_templates_body_text_check check (pg_catalog.octet_length(body_text) between 1 and 65536),
    constraint mail_templates_body_html_check check (pg_catalog.octet_length(body_html) between 1 and 262144)
);
comment on table keelson.mail_templates is
    'What mails say, per language. {{name}} stands for a value; one that is missing is an error.';
comment on column keelson.mail_templates.body_html is 'The same as HTML, where values are escaped; null: the mail has text alone.';
comment on column keelson.mail_templates.is_security is
    'Whether the mail tells of the account''s safety: nobody can unsubscribe from it.';
comment on column keelson.mail_templates.is_core is
    'Whether only Keelson itself may send it. Its words are the operator''s to change: migrate() leaves a row that is there as it is.';

-- What is to be said stands sealed: it may hold a link that signs in.
create table keelson.mail_messages (
    user_id uuid not null,
    id uuid not null,
    template text not null,
    language text not null,
    recipient text not null,
    message_id text not null,
    is_security boolean not null,
    content bytea,
    state text not null default 'pending',
    attempts integer not null default 0,
    error text,
    created_at timestamptz not null default pg_catalog.now(),
    expires_at timestamptz not null,
    settled_at timestamptz,
    constraint mail_messages_pkey primary key (user_id, id),
    constraint mail_messages_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint mail_messages_recipient_check check (pg_catalog.char_length(recipient) between 3 and 254),
    constraint mail_messages_message_id_check check (message_id ~ '^<[A-Za-z0-9-]+@[A-Za-z0-9.-]+>$' and pg_catalog.char_length(message_id) <= 320),
    constraint mail_messages_state_check check (state in ('pending', 'sent', 'failed', 'suppressed', 'expired')),
    -- What was settled is kept without its words.
    constraint mail_messages_content_check check ((state = 'pending') = (content is not null)),
    constraint mail_messages_settled_at_check check ((state = 'pending') = (settled_at is null)),
    constraint mail_messages_error_check check (pg_catalog.char_length(error) <= 500)
);
create index mail_messages_settled_at_idx on keelson.mail_messages (settled_at) where settled_at is not null;
comment on table keelson.mail_messages is
    'Mails, from the transaction that they tell of until they have been sent and a while longer.';
comment on column keelson.mail_messages.user_id is 'Whom the mail concerns; the recipient may be an address that was theirs.';
comment on column keelson.mail_messages.message_id is 'The Message-ID, the same in every attempt: what comes twice is known by it.';
comment on column keelson.mail_messages.content is 'Subject, text and HTML as a JSON object, sealed with the server''s key (purpose mail); null once settled.';
comment on column keelson.mail_messages.state is
    'pending; sent: a mail server has taken it; failed for good; suppressed: nobody sends to that address; expired before it could be sent.';
comment on column keelson.mail_messages.error is 'What the last failed attempt was told.';
comment on column keelson.mail_messages.expires_at is 'Until when it is worth sending.';
comment on column keelson.mail_messages.settled_at is 'When it left pending.';
comment on index keelson.mail_messages_settled_at_idx is 'What the clean-up takes.';

create table keelson.mail_suppressions (
    recipient text not null,
    reason text not null,
    created_at timestamptz not null default pg_catalog.now(),
    constraint mail_suppressions_pkey primary key (recipient),
    constraint mail_suppressions_recipient_check check (recipient = pg_catalog.lower(recipient collate "C") and pg_catalog.char_length(recipient) between 3 and 254),
    constraint mail_suppressions_reason_check check (reason in ('bounce', 'complaint', 'unsubscribe', 'manual'))
);
comment on table keelson.mail_suppressions is
    'Addresses that get no mail, folded to lower case: one look-up by address.';
comment on column keelson.mail_suppressions.reason is
    'bounce, complaint and manual hold for every mail; unsubscribe for what is no security mail.';

-- migration 2: one-time tokens of verification and recovery

create table keelson.recovery_tokens (
    user_id uuid not null,
    purpose text not null,
    token_hash bytea not null,
    email text not null,
    created_at timestamptz not null default pg_catalog.now(),
    expires_at timestamptz not null,
    used_at timestamptz,
    constraint recovery_tokens_pkey primary key (user_id, purpose, token_hash),
    constraint recovery_tokens_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint recovery_tokens_purpose_check check (purpose in ('verify_email', 'reset_password', 'undo_email_change')),
    constraint recovery_tokens_token_hash_check check (pg_catalog.octet_length(token_hash) = 32),
    constraint recovery_tokens_email_check check (pg_catalog.char_length(email) between 3 and 254),
    constraint recovery_tokens_expires_at_check check (expires_at > created_at)
);
create index recovery_tokens_expires_at_idx on keelson.recovery_tokens (expires_at);
comment on table keelson.recovery_tokens is
    'One-time tokens that were mailed: of each the SHA-256 alone.';
comment on column keelson.recovery_tokens.purpose is 'verify_email, reset_password or undo_email_change.';
comment on column keelson.recovery_tokens.email is
    'The address that it was mailed to, and that it proves; of undo_email_change the one that comes back.';
comment on column keelson.recovery_tokens.used_at is 'When it was used, or made void by a newer one, by use of another or by a change of password or address.';
comment on index keelson.recovery_tokens_expires_at_idx is 'What the clean-up takes.';

-- Whoever asks for a reset is answered before anybody looks whether there is
-- such an account, so the answer takes as long for all.
create table keelson.recovery_requests (
    id uuid not null,
    purpose text not null,
    email text not null,
    ip_address inet,
    created_at timestamptz not null default pg_catalog.now(),
    constraint recovery_requests_pkey primary key (id),
    constraint recovery_requests_purpose_check check (purpose in ('verify_email', 'reset_password')),
    constraint recovery_requests_email_check check (pg_catalog.char_length(email) between 3 and 254)
);
comment on table keelson.recovery_requests is
    'Resets and verifications that were asked for and are answered by the keeper, in a moment.';

-- How many of what happened a day: what becomes of rows that go.
create table keelson.recovery_days (
    day date not null,
    what text not null,
    count bigint not null default 0,
    constraint recovery_days_pkey primary key (day, what),
    constraint recovery_days_what_check check (what in ('reset_requested', 'reset_done', 'reset_failed', 'reset_expired'))
);
comment on table keelson.recovery_days is
    'Resets asked for, done, failed (a token that was none) and expired, per day in UTC.';

-- migration 3: finding mails that wait, and unsubscribing from others

create index mail_messages_pending_idx on keelson.mail_messages (expires_at) where state = 'pending';
comment on index keelson.mail_messages_pending_idx is 'Those that wait: what has expired, and what has no delivery.';

alter table keelson.mail_messages add column unsubscribe_hash bytea;
alter table keelson.mail_messages add constraint mail_messages_unsubscribe_hash_check
    check (pg_catalog.octet_length(unsubscribe_hash) = 32);
comment on column keelson.mail_messages.unsubscribe_hash is
    'SHA-256 of the token in the mail''s link to unsubscribe; null for security mail, which has none.';

-- migration 4: notices that can be turned off; mails that wait for a mail server; a change of address is undone by its own row

alter table keelson.mail_templates add column is_enabled boolean not null default true;
comment on column keelson.mail_templates.is_enabled is
    'Of notices: whether they are sent. See keelson.mail_notice_set().';

alter table keelson.mail_messages add column has_delivery boolean not null default false;
create index mail_messages_undelivered_idx on keelson.mail_messages (expires_at) where state = 'pending' and not has_delivery;
comment on column keelson.mail_messages.has_delivery is
    'Whether the courier was told to send it: not before there is a mail server.';
comment on index keelson.mail_messages_undelivered_idx is 'What waits for a mail server.';
comment on index keelson.mail_messages_pending_idx is 'What has expired.';

alter table keelson.recovery_tokens drop constraint recovery_tokens_purpose_check;
alter table keelson.recovery_tokens add constraint recovery_tokens_purpose_check check (purpose in ('verify_email', 'reset_password'));
comment on column keelson.recovery_tokens.purpose is 'verify_email or reset_password.';
comment on column keelson.recovery_tokens.email is 'The address that it was mailed to, and that it proves.';

-- migration 5: requests that could not be answered are tried again

alter table keelson.recovery_requests add column failures integer not null default 0;
alter table keelson.recovery_requests add column due_at timestamptz not null default pg_catalog.now();
create index recovery_requests_due_at_idx on keelson.recovery_requests (due_at);
comment on column keelson.recovery_requests.failures is 'How often answering it has failed, by what may be over soon.';
comment on column keelson.recovery_requests.due_at is 'When it is to be answered.';
comment on index keelson.recovery_requests_due_at_idx is 'What the keeper takes.';
