-- Unsubscribing from what is no security mail, by a link or by one click of a
-- mail program (RFC 8058).

do $types$
begin
    if pg_catalog.to_regtype('keelson.unsubscription') is null then
        create type keelson.unsubscription as (
            message text
        );
    end if;
end
$types$;
comment on type keelson.unsubscription is
    'What a recipient is told who has unsubscribed.';

create or replace function keelson._unsubscribe_url(token text)
returns text
language sql
stable
strict
as $$
select pg_catalog.rtrim(pg_catalog.current_setting('keelson.public_url'), '/') || '/api/mail/unsubscribe?token=' || token
$$;
comment on function keelson._unsubscribe_url(text) is
    'The link by which the recipient of a mail unsubscribes.';

create or replace function keelson._unsubscribe_recipient(token text)
returns text
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Whom the mail concerns, the mail, 256 random bits.
    if token !~ '^ksm_[0-9a-f]{64}[A-Za-z0-9_-]{43}$' then
        return null;
    end if;
    return (
        select m.recipient
        from keelson.mail_messages as m
        where m.user_id = substring(token from 5 for 32)::uuid
            and m.id = substring(token from 37 for 32)::uuid
            and m.unsubscribe_hash = keelson.token_hash(token)
    );
end
$$;
alter function keelson._unsubscribe_recipient(text) owner to keelson_system;
comment on function keelson._unsubscribe_recipient(text) is
    'The recipient of the mail that has the link; null for a token that is none.';

create or replace function keelson.mail_unsubscribe(token text)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    recipient text := keelson._unsubscribe_recipient(token);
begin
    if recipient is null then
        return keelson.refuse(400, 'INVALID_TOKEN', 'the link is not valid, or too old: use that of a newer mail', 'token');
    end if;
    perform keelson._mail_suppress(recipient, 'unsubscribe');
    perform keelson.audit('mail.unsubscribe', jsonb_build_object('email', recipient),
        user_id => substring(token from 5 for 32)::uuid);
    if keelson._wants_page() then
        return keelson._page('Unsubscribed', '<h1>Unsubscribed</h1><p>No more of these mails are sent to you.</p>',
            'default-src ''none''; style-src ''' || keelson._csp_hash(keelson._page_style())
            || '''; form-action ''none''; frame-ancestors ''none''; base-uri ''none''');
    end if;
    return keelson.reply_with(row('No more of these mails are sent to you.')::keelson.unsubscription);
end
$$;
comment on function keelson.mail_unsubscribe(text) is
    'Send nothing more to the recipient of the mail that has this link, but what tells of the safety of an account. One click in a mail program (RFC 8058) does it, and so does the button of the page.';
grant execute on function keelson.mail_unsubscribe(text) to keelson_app;

create or replace function keelson.mail_unsubscribe_page(token text)
returns keelson.reply
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._page(
        'Unsubscribe',
        '<h1>Unsubscribe</h1><p>One click, and no more of these mails are sent to you. What tells of the safety of your account still is.</p>'
        || '<form method="post" action="/api/mail/unsubscribe?token=' || coalesce(substring(token from '^ksm_[A-Za-z0-9_-]+$'), '')
        || '"><button>Unsubscribe</button></form>',
        'default-src ''none''; style-src ''' || keelson._csp_hash(keelson._page_style())
        || '''; form-action ''self''; frame-ancestors ''none''; base-uri ''none'''
    );
end
$$;
comment on function keelson.mail_unsubscribe_page(text) is
    'A page with a button to unsubscribe, for the link in a mail; it changes nothing.';
grant execute on function keelson.mail_unsubscribe_page(text) to keelson_app;
