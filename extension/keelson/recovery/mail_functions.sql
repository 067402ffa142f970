-- Sending mails: a row in the transaction that they tell of.

do $types$
begin
    if pg_catalog.to_regtype('keelson.mail') is null then
        create type keelson.mail as (
            id uuid,
            user_id uuid,
            template text,
            recipient text,
            state text,
            subject text,
            body_text text,
            body_html text,
            created_at timestamptz
        );
    end if;
end
$types$;
comment on type keelson.mail is
    'A mail as it waits or was sent; its words are there while it waits, in development alone.';

create or replace function keelson._mail_domain()
returns text
language sql
stable
as $$
select coalesce(
    pg_catalog.lower((pg_catalog.regexp_match(pg_catalog.current_setting('keelson.mail_from'), '@([A-Za-z0-9.-]+)>?\s*$'))[1]),
    pg_catalog.lower((pg_catalog.regexp_match(pg_catalog.current_setting('keelson.public_url'), '^https?://([A-Za-z0-9.-]+)'))[1]),
    'localhost'
)
$$;
comment on function keelson._mail_domain() is
    'The domain that mails come from: that of keelson.mail_from, else the public URL''s host.';

create or replace function keelson._product_name()
returns text
language sql
stable
as $$
select coalesce(
    nullif(pg_catalog.btrim((pg_catalog.regexp_match(pg_catalog.current_setting('keelson.mail_from'), '^\s*"?([^"<]*?)"?\s*<'))[1]), ''),
    keelson._mail_domain()
)
$$;
comment on function keelson._product_name() is
    'What mails call the product: the name in keelson.mail_from, else the domain.';

create or replace function keelson._app_url()
returns text
language sql
stable
as $$
select pg_catalog.rtrim(coalesce(
    nullif(pg_catalog.current_setting('keelson.app_url'), ''), pg_catalog.current_setting('keelson.public_url')
), '/')
$$;
comment on function keelson._app_url() is
    'Where the product''s pages are, without a slash at its end.';

create or replace function keelson._mail_is_suppressed(recipient text, is_security boolean)
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select exists (
    select from keelson.mail_suppressions as s
    where s.recipient = lower(_mail_is_suppressed.recipient collate "C")
        and (s.reason <> 'unsubscribe' or not is_security)
)
$$;
alter function keelson._mail_is_suppressed(text, boolean) owner to keelson_system;
comment on function keelson._mail_is_suppressed(text, boolean) is
    'Whether nobody sends to the address: nothing at all, or nothing but security mail.';

create or replace function keelson._mail_time(moment timestamptz)
returns text
language sql
immutable
as $$ select pg_catalog.to_char(moment at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"') $$;
comment on function keelson._mail_time(timestamptz) is
    'The moment as mails write it.';

create or replace function keelson._mail_queue(
    user_id uuid,
    template text,
    recipient text,
    "values" jsonb default '{}',
    keep_for interval default '3 days'
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    mail_id uuid := keelson.uuid7();
    who record;
    words keelson._mail_words;
    given jsonb;
    content jsonb;
    is_suppressed boolean;
    is_sent boolean;
    unsubscribe_token text;
begin
    -- Who has registered with another's address shall not speak to its holder.
    select case when u.email_verified_at is not null then u.name end as name, u.email, u.preferences ->> 'language' as language into who
    from keelson.users as u
    where u.id = user_id;
    words := keelson._mail_template(template, coalesce(who.language, 'en'));
    given := jsonb_build_object(
        'name', coalesce(who.name, keelson._mail_plain(split_part(recipient, '@', 1))),
        'email', coalesce(who.email, recipient),
        'product', keelson._product_name(),
        'appUrl', keelson._app_url(),
        'time', keelson._mail_time(now()),
        'ip', coalesce(host(keelson.current_ip()), 'an unknown address')
    );
    if not words.is_security then
        unsubscribe_token := 'ksm_' || replace(user_id::text || mail_id::text, '-', '') || keelson.token_new();
        given := given || jsonb_build_object('unsubscribeUrl', keelson._unsubscribe_url(unsubscribe_token));
    end if;
    given := given || coalesce("values", '{}');
    content := jsonb_strip_nulls(jsonb_build_object(
        'subject', keelson._mail_fill(words.subject, given, false, true),
        'text', keelson._mail_fill(words.body_text, given, false, false),
        'html', keelson._mail_fill(words.body_html, given, true, false),
        'unsubscribe', keelson._unsubscribe_url(unsubscribe_token)
    ));
    is_suppressed := keelson._mail_is_suppressed(recipient, words.is_security);
    is_sent := not is_suppressed and keelson._mail_server_is_set();
    insert into keelson.mail_messages (
        user_id, id, template, language, recipient, message_id, is_security, content, state, expires_at, settled_at,
        unsubscribe_hash, has_delivery
    )
    values (
        user_id, mail_id, words.name, words.language, recipient,
        format('<%s@%s>', mail_id, keelson._mail_domain()), words.is_security,
        case when not is_suppressed then
            keelson.seal(convert_to(content::text, 'UTF8'), row('mail', null, mail_id)::keelson.seal_context)
        end,
        case when is_suppressed then 'suppressed' else 'pending' end,
        now() + keep_for,
        case when is_suppressed then now() end,
        keelson.token_hash(unsubscribe_token), is_sent
    );
    if is_sent then
        perform keelson._mail_deliver(user_id, mail_id, recipient);
    end if;
    return mail_id;
end
$$;
alter function keelson._mail_queue(uuid, text, text, jsonb, interval) owner to keelson_system;
comment on function keelson._mail_queue(uuid, text, text, jsonb, interval) is
    'Send a mail of the template about the user, in the user''s language, when this transaction commits; returns its id. name, email, product, appUrl, time, ip and (of what is no security mail) unsubscribeUrl are known, the other values must be given. name is what stands before the @ of the recipient until the user''s address is verified.';

create or replace function keelson.mail_send(template text, recipient keelson.email_address, "values" jsonb default '{}')
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    is_core boolean;
begin
    perform keelson._require(template, 'template'), keelson._require(recipient, 'recipient');
    if keelson.current_user_id() is null then
        perform keelson.raise(401, 'UNAUTHENTICATED', 'nobody is acting, and a mail concerns a user',
            'In psql, say who is acting: select keelson.act_as(...).');
    end if;
    if jsonb_typeof("values") <> 'object' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the values of a mail are a JSON object', field => 'values');
    end if;
    select bool_or(t.is_core) into is_core
    from keelson.mail_templates as t
    where t.name = mail_send.template;
    if is_core then
        perform keelson.raise(403, 'FORBIDDEN', format('the template "%s" is Keelson''s own', template),
            'Write one of your own: select keelson.mail_template_set(...).');
    end if;
    return keelson._mail_queue(keelson.current_user_id(), template, recipient, "values");
end
$$;
comment on function keelson.mail_send(text, keelson.email_address, jsonb) is
    'Send a mail of a template when this transaction commits, about the acting user; returns its id. A value that the template names and nobody gives is a 400.';
grant execute on function keelson.mail_send(text, keelson.email_address, jsonb) to keelson_app, keelson_admin;

create or replace function keelson.mail_suppress(recipient keelson.email_address, reason text default 'manual')
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._require(recipient, 'recipient');
    if reason is null or reason not in ('bounce', 'complaint', 'unsubscribe', 'manual') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the reason is bounce, complaint, unsubscribe or manual', field => 'reason');
    end if;
    perform keelson._mail_suppress(recipient, reason);
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'mail suppression', 'email', recipient, 'reason', reason, 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.mail_suppress(keelson.email_address, text) is
    'Send nothing more to the address; with unsubscribe, nothing but security mail.';
grant execute on function keelson.mail_suppress(keelson.email_address, text) to keelson_admin;

create or replace function keelson._mail_suppress(recipient text, reason text)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
insert into keelson.mail_suppressions as s (recipient, reason)
values (lower(_mail_suppress.recipient collate "C"), _mail_suppress.reason)
on conflict on constraint mail_suppressions_pkey do update
set reason = excluded.reason, created_at = now()
where s.reason = 'unsubscribe'
$$;
alter function keelson._mail_suppress(text, text) owner to keelson_system;
comment on function keelson._mail_suppress(text, text) is
    'Put the address on the suppression list; what holds for every mail is not weakened.';

create or replace function keelson.mail_unsuppress(recipient keelson.email_address)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was_there boolean;
begin
    delete from keelson.mail_suppressions as s
    where s.recipient = lower(mail_unsuppress.recipient collate "C");
    was_there := found;
    if was_there then
        perform keelson.audit('config.change', jsonb_build_object(
            'what', 'mail suppression', 'email', recipient, 'reason', null, 'databaseRole', session_user
        ));
    end if;
    return was_there;
end
$$;
alter function keelson.mail_unsuppress(keelson.email_address) owner to keelson_system;
comment on function keelson.mail_unsuppress(keelson.email_address) is
    'Send to the address again; false when nothing kept anybody from it.';
grant execute on function keelson.mail_unsuppress(keelson.email_address) to keelson_admin;

-- Sending: a delivery of the courier's for each mail, once there is a mail server.

create or replace function keelson._mail_owner()
returns uuid
language sql
immutable
as $$ select '00000000-0000-0000-0000-00000000006d'::uuid $$;
comment on function keelson._mail_owner() is
    'Whose the deliveries of mails are: nobody''s. One courier sends them all.';

create or replace function keelson._mail_sender()
returns text
language sql
stable
as $$
select coalesce(
    (pg_catalog.regexp_match(pg_catalog.current_setting('keelson.mail_from'), '([^\s<>@"]+@[A-Za-z0-9.-]+)>?\s*$'))[1],
    'no-reply@' || keelson._mail_domain()
)
$$;
comment on function keelson._mail_sender() is
    'The address that mails come from: that of keelson.mail_from, else no-reply at the domain.';

create or replace function keelson._smtp_url_fault(url text)
returns text
language c
stable
strict
as 'MODULE_PATHNAME', 'ks__smtp_url_fault';
comment on function keelson._smtp_url_fault(text) is
    'What keeps the URL from being that of a mail server, without telling it; null when nothing does.';

create or replace function keelson._mail_server_is_set()
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$ select exists (select from keelson.secrets as s where s.name = 'smtp_url' and s.value is not null) $$;
alter function keelson._mail_server_is_set() owner to keelson_system;
comment on function keelson._mail_server_is_set() is
    'Whether there is a mail server to send mails to: the secret smtp_url.';

create or replace function keelson._mail_deliver(user_id uuid, mail_id uuid, recipient text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Those to one domain share throttle and breaker.
    domain_lane constant uuid := md5('mail ' || lower(split_part(recipient, '@', 2)))::uuid;
begin
    insert into keelson.deliveries (user_id, id, lane, kind, ref, due_at)
    values (keelson._mail_owner(), mail_id, domain_lane, 'mail', _mail_deliver.user_id, clock_timestamp())
    on conflict on constraint deliveries_pkey do nothing;
    perform keelson._courier_hint(keelson._mail_owner(), domain_lane);
end
$$;
alter function keelson._mail_deliver(uuid, uuid, text) owner to keelson_system;
comment on function keelson._mail_deliver(uuid, uuid, text) is
    'Have the courier send the mail once this transaction has committed.';

create or replace function keelson._mails_deliver(row_limit integer default 1000)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    found_mail record;
    delivered integer := 0;
begin
    if not keelson._mail_server_is_set() then
        return 0;
    end if;
    for found_mail in
        update keelson.mail_messages as m
        set has_delivery = true
        from (
            select waiting.user_id, waiting.id
            from keelson.mail_messages as waiting
            where waiting.state = 'pending' and not waiting.has_delivery and waiting.expires_at > now()
            order by waiting.expires_at
            limit row_limit
            for update skip locked
        ) as batch
        where m.user_id = batch.user_id and m.id = batch.id
        returning m.user_id, m.id, m.recipient
    loop
        perform keelson._mail_deliver(found_mail.user_id, found_mail.id, found_mail.recipient);
        delivered := delivered + 1;
    end loop;
    return delivered;
end
$$;
alter function keelson._mails_deliver(integer) owner to keelson_system;
comment on function keelson._mails_deliver(integer) is
    'Have mails sent that were written when there was no mail server, at most so many; returns how many. The keeper calls it.';

create or replace function keelson._mails_settle(user_ids uuid[], ids uuid[], states text[], errors text[])
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Waits for nobody: a mail that somebody has locked is left to _mails_catch_up().
    update keelson.mail_messages as m
    set state = w.state,
        attempts = m.attempts + 1,
        error = left(w.error, 500),
        content = case when w.state = 'pending' then m.content end,
        settled_at = case when w.state <> 'pending' then clock_timestamp() end
    from (
        select w.*
        from unnest(user_ids, ids, states, errors) as w (user_id, id, state, error)
        join keelson.mail_messages as free on free.user_id = w.user_id and free.id = w.id
        where free.state = 'pending'
        for no key update of free skip locked
    ) as w
    where m.user_id = w.user_id and m.id = w.id;
    -- The server knows that there is no such mailbox (RFC 3463: 5.1.1).
    perform keelson._mail_suppress(m.recipient, 'bounce')
    from unnest(user_ids, ids, states, errors) as w (user_id, id, state, error)
    join keelson.mail_messages as m on m.user_id = w.user_id and m.id = w.id
    where w.state = 'failed' and w.error ~ ': 55[0-9][ -]5\.1\.1( |$)';
end
$$;
comment on function keelson._mails_settle(uuid[], uuid[], text[], text[]) is
    'Record what came of attempts to send these mails, in the transaction that settles their deliveries. A mailbox that does not exist is suppressed.';

create or replace function keelson._mails_catch_up(row_limit integer default 1000)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    settled integer;
begin
    with late as materialized (
        select m.user_id, m.id, l.attempts, l.error,
            case
                when l.state = 'delivered' then 'sent'
                when l.state = 'cancelled' and keelson._mail_is_suppressed(m.recipient, m.is_security) then 'suppressed'
                when l.state = 'exhausted' and l.started_at is null then 'expired'
                else 'failed'
            end as state
        from keelson.mail_messages as m
        -- One by one: few mails wait, and the log is long.
        cross join lateral (
            select d.state, d.attempts, d.error, d.started_at from keelson.deliveries_log as d
            where d.user_id = keelson._mail_owner() and d.id = m.id
            limit 1
        ) as l
        where m.state = 'pending' and m.has_delivery
        limit row_limit
        for no key update of m skip locked
    )
    update keelson.mail_messages as m
    set state = late.state, attempts = late.attempts, error = left(late.error, 500), content = null, settled_at = clock_timestamp()
    from late
    where m.user_id = late.user_id and m.id = late.id and m.state = 'pending';
    get diagnostics settled = row_count;
    return settled;
end
$$;
alter function keelson._mails_catch_up(integer) owner to keelson_system;
comment on function keelson._mails_catch_up(integer) is
    'Record what came of mails that somebody had locked when their deliveries were settled, at most so many; returns how many. The keeper calls it.';

create or replace function keelson._mails_expire(row_limit integer)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    expired bigint;
begin
    update keelson.mail_messages as m
    set state = 'expired', content = null, settled_at = now()
    from (
        select old.user_id, old.id
        from keelson.mail_messages as old
        -- One that is being sent is settled within two minutes.
        where old.state = 'pending' and old.expires_at <= now() - interval '5 minutes'
        order by old.expires_at
        limit row_limit
        for update skip locked
    ) as batch
    where m.user_id = batch.user_id and m.id = batch.id;
    get diagnostics expired = row_count;
    return expired;
end
$$;
alter function keelson._mails_expire(integer) owner to keelson_system;
comment on function keelson._mails_expire(integer) is
    'Forget what mails say that were not sent while they were worth it, at most so many; returns how many.';

create or replace function keelson._mails_purge(row_limit integer)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    purged bigint;
begin
    delete from keelson.mail_messages as m
    using (
        select old.user_id, old.id
        from keelson.mail_messages as old
        where old.settled_at <= now() - interval '30 days'
            -- A link to unsubscribe is good for as long as its mail is known.
            and (old.unsubscribe_hash is null or old.settled_at <= now() - interval '90 days')
        order by old.settled_at
        limit row_limit
        for update skip locked
    ) as batch
    where m.user_id = batch.user_id and m.id = batch.id;
    get diagnostics purged = row_count;
    return purged;
end
$$;
alter function keelson._mails_purge(integer) owner to keelson_system;
comment on function keelson._mails_purge(integer) is
    'Delete mails that were settled 30 days ago, or 90 where they have a link to unsubscribe, at most so many; returns how many.';

-- What waits, for the eyes of a developer.

create or replace function keelson.mails_list(row_limit integer default 1000)
returns setof keelson.mail
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    message keelson.mail_messages;
    content jsonb;
    is_development constant boolean := current_setting('keelson.environment') = 'development';
begin
    for message in
        select m.* from keelson.mail_messages as m
        order by m.created_at desc
        limit row_limit
    loop
        content := case when is_development and message.content is not null then
            convert_from(keelson.unseal(message.content, row('mail', null, message.id)::keelson.seal_context), 'UTF8')
        end;
        return next row(
            message.id, message.user_id, message.template, message.recipient, message.state,
            content ->> 'subject', content ->> 'text', content ->> 'html', message.created_at
        )::keelson.mail;
    end loop;
end
$$;
alter function keelson.mails_list(integer) owner to keelson_system;
comment on function keelson.mails_list(integer) is
    'The newest mails, at most so many. In development with the words of those that wait.';
grant execute on function keelson.mails_list(integer) to keelson_admin;

create or replace function keelson.mails_page()
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    mail keelson.mail;
    page text := '';
begin
    if current_setting('keelson.environment') <> 'development' then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such endpoint');
    end if;
    for mail in select * from keelson.mails_list(50) loop
        page := page || format(
            '<article><h2>%s</h2><p>to %s, %s, %s, %s</p>%s%s</article>',
            keelson._html_escape(coalesce(mail.subject, mail.template)), keelson._html_escape(mail.recipient),
            mail.template, mail.state, keelson._time_text(mail.created_at),
            '<pre>' || keelson._html_linked(mail.body_text) || '</pre>',
            '<iframe sandbox="allow-popups" srcdoc="' || keelson._html_escape(mail.body_html) || '"></iframe>'
        );
    end loop;
    return keelson._page('Mails', '<h1>Mails</h1>' || coalesce(nullif(page, ''), '<p>None yet.</p>'),
        'default-src ''none''; style-src ''unsafe-inline''; frame-src ''self''; frame-ancestors ''none''; base-uri ''none''');
end
$$;
comment on function keelson.mails_page() is
    'The mails that wait, as a page, newest first; in development alone.';
grant execute on function keelson.mails_page() to keelson_app;

create or replace function keelson._html_linked(value text)
returns text
language sql
immutable
strict
parallel safe
as $$
select pg_catalog.regexp_replace(
    keelson._html_escape(value), '(https?://[A-Za-z0-9._~:/?#@!$()*+,;=%-]+)', '<a href="\1">\1</a>', 'g')
$$;
comment on function keelson._html_linked(text) is
    'The text as HTML in which its links can be followed.';
