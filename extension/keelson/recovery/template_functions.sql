-- What Keelson's own mails say, and how a template becomes a mail.

do $types$
begin
    if pg_catalog.to_regtype('keelson._mail_words') is null then
        create type keelson._mail_words as (
            name text,
            language text,
            subject text,
            body_text text,
            body_html text,
            is_security boolean
        );
    end if;
end
$types$;
comment on type keelson._mail_words is
    'A template in one language.';

create or replace function keelson._mail_core_templates()
returns table (name text, language text, subject text, body_text text, body_html text)
language sql
immutable
as $$
select
    words.name,
    'en',
    words.subject,
    words.greeting || E'\n\n' || words.body
        || case when words.action is null then '' else E'\n\n' || words.action || E':\n{{link}}' end
        || E'\n\n' || words.closing || E'\n\n{{product}}\n',
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>' || words.subject || '</title>'
        || '<body style="font-family:sans-serif;max-width:36em;margin:2em auto;line-height:1.5"><p>' || words.greeting || '</p><p>'
        || words.body || '</p>'
        || case when words.action is null then '' else
            '<p><a href="{{link}}" style="display:inline-block;padding:.6em 1.2em;background:#1a4f8b;color:#fff;text-decoration:none;border-radius:4px">'
            || words.action || '</a></p><p style="color:#555">{{link}}</p>' end
        || '<p>' || words.closing || '</p><p>{{product}}</p></body></html>'
from (
    values
        (
            'email.verify', 'Confirm your e-mail address', 'Hello {{name}},',
            'please confirm that {{email}} is your address. The link is good for 24 hours.',
            'Confirm the address',
            'If you have not asked for this, leave it alone: whoever has knows the password. Should you want the account, ask for a new password at {{appUrl}} instead.'
        ),
        (
            'password.reset', 'Set a new password', 'Hello {{name}},',
            'somebody, presumably you, asked to set a new password for {{email}}. The link is good for one hour and works once.',
            'Set a new password', 'If it was not you, ignore this mail: your password stays as it is.'
        ),
        (
            'password.changed', 'Your password was changed', 'Hello {{name}},',
            'the password of your account was changed at {{time}}, from {{ip}}. All other sessions have ended.',
            null, 'If it was not you, ask for a new password at once at {{appUrl}}.'
        ),
        (
            'email.changed', 'Your e-mail address was changed', 'Hello {{name}},',
            'the address of your account was changed from this one to {{email}} at {{time}}, from {{ip}}.',
            'Undo the change', 'If you did it, there is nothing to do. The link to undo it is good for 7 days.'
        ),
        (
            'email.changed_for_good', 'Your e-mail address was changed', 'Hello {{name}},',
            'the address of your account was changed from this one to {{email}} at {{time}}, from {{ip}}.',
            null, 'If it was not you, write to us.'
        ),
        (
            'email.undo_open', 'Your account can still be taken back', 'Hello {{name}},',
            'the account that you have set a new password for had another address before. Until {{until}} whoever reads mail there can take it back, with all that is in it.',
            null, 'If that address was never yours, somebody has put yours into an account of theirs: keep nothing in it.'
        ),
        (
            'factor.changed', 'Your second factor was changed', 'Hello {{name}},',
            'the second factor of your account was {{change}} at {{time}}, from {{ip}}.',
            null, 'If it was not you, change your password at once at {{appUrl}}.'
        ),
        (
            'session.new_device', 'A new device has signed in', 'Hello {{name}},',
            'a device that had not signed in before has signed in to your account at {{time}}, from {{ip}}: {{device}}.',
            null, 'If it was not you, change your password at once at {{appUrl}}.'
        ),
        (
            'session.reused', 'A session of yours was ended', 'Hello {{name}},',
            'a session of your account was ended at {{time}}, because a token of it that had been used before came back, from {{ip}}. Somebody may have copied it.',
            null, 'Sign in again. If you see anything odd, change your password at {{appUrl}}.'
        ),
        (
            'access_key.created', 'An access key was made', 'Hello {{name}},',
            'an access key of your account was made at {{time}}, from {{ip}}: {{key}}, which begins with {{prefix}}. With it a service can act in your name until it is revoked.',
            null, 'If it was not you, revoke it and change your password at once at {{appUrl}}.'
        ),
        (
            'identity.linked', 'Another way to sign in', 'Hello {{name}},',
            'from {{time}} on your account can be entered with your account at {{issuer}}.',
            null, 'If you did not expect this, take it away again among your external identities at {{appUrl}}.'
        ),
        (
            'tier.changed', 'Your plan was changed', 'Hello {{name}},',
            'your plan is now {{tier}}, as of {{time}}.',
            null, 'If you did not expect this, write to us.'
        ),
        (
            'role.changed', 'Your roles were changed', 'Hello {{name}},',
            'the roles of your account were changed at {{time}}. They are now: {{roles}}.',
            null, 'If you did not expect this, write to us.'
        ),
        (
            'webhook.disabled', 'A webhook of yours was disabled', 'Hello {{name}},',
            'nothing more is sent to {{url}}: {{reason}}. What waits for it is kept and sent once you enable it again.',
            null, 'You find it among your webhooks at {{appUrl}}.'
        ),
        (
            'alert', 'Alert: {{rule}}', 'Hello {{name}},',
            '{{rule}}: {{message}} (at {{time}}).',
            null, 'This alert stays quiet for {{quiet}}.'
        )
) as words (name, subject, greeting, body, action, closing)
$$;
comment on function keelson._mail_core_templates() is
    'The mails that Keelson itself sends, in English, as migrate() puts them into keelson.mail_templates.';

create or replace function keelson._html_escape(value text)
returns text
language sql
immutable
strict
parallel safe
as $$
select pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
    value, '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;'), '''', '&#39;')
$$;
comment on function keelson._html_escape(text) is
    'The text as it stands in HTML, in attributes too.';

create or replace function keelson._mail_plain(value text)
returns text
language sql
immutable
strict
parallel safe
as $$
select pg_catalog.regexp_replace(value, '[/@:\\\u2024\u3002\uff0e\uff0f\uff1a\uff20\uff61]+|\.(?![\s0-9]|$)', ' ', 'g')
$$;
comment on function keelson._mail_plain(text) is
    'The text without what a mail program makes a link of: no slashes, colons or @, no dot before a letter.';

create or replace function keelson._mail_fill(template text, "values" jsonb, is_html boolean, is_line boolean)
returns text
language plpgsql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    filled text := '';
    rest text := template;
    place integer;
    name text;
    value text;
begin
    -- From left to right, once: a value that looks like a placeholder is a value.
    loop
        place := strpos(rest, '{{');
        exit when place = 0;
        name := substring(rest from place for 70) collate "C";
        name := (regexp_match(name, '^\{\{([A-Za-z][A-Za-z0-9_]{0,62})\}\}'))[1];
        if name is null then
            perform keelson.raise(400, 'VALIDATION_FAILED', 'the template holds {{ without a name and }} after it', field => 'template');
        end if;
        value := "values" ->> name;
        if value is null then
            perform keelson.raise(400, 'VALIDATION_FAILED', format('the template needs the value "%s"', name), field => 'values');
        end if;
        if is_line then
            value := regexp_replace(value, '[\u0001-\u001f\u007f\u0085\u2028\u2029]+', ' ', 'g');
        end if;
        filled := filled || left(rest, place - 1) || case when is_html then keelson._html_escape(value) else value end;
        rest := substring(rest from place + char_length(name) + 4);
    end loop;
    return filled || rest;
end
$$;
comment on function keelson._mail_fill(text, jsonb, boolean, boolean) is
    'The template with its {{names}} replaced: escaped in HTML, without line breaks in a line. 400 for a value that is missing.';

create or replace function keelson._mail_template(name text, language text)
returns keelson._mail_words
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    words keelson._mail_words;
begin
    -- pt-BR, else pt, else English.
    select t.name, t.language, t.subject, t.body_text, t.body_html, t.is_security into words
    from keelson.mail_templates as t
    join unnest(array[
        lower(_mail_template.language), lower(split_part(_mail_template.language, '-', 1)), 'en'
    ]) with ordinality as wanted (language, place) on wanted.language = lower(t.language)
    where t.name = _mail_template.name
    order by wanted.place
    limit 1;
    if words.name is null then
        perform keelson.raise(404, 'NOT_FOUND', format('there is no mail template "%s"', name), field => 'template');
    end if;
    return words;
end
$$;
comment on function keelson._mail_template(text, text) is
    'The template in the language, in its base language, or in English; 404 without any.';

create or replace function keelson._mail_core_values(template text)
returns jsonb
language sql
immutable
as $$
select pg_catalog.jsonb_object_agg(known.name, '')
from (
    select pg_catalog.unnest(array['name', 'email', 'product', 'appUrl', 'time', 'ip'])
    union
    select (pg_catalog.regexp_matches(t.subject || t.body_text, '\{\{([A-Za-z0-9_]+)\}\}', 'g'))[1]
    from keelson._mail_core_templates() as t
    where t.name = template
) as known (name)
$$;
comment on function keelson._mail_core_values(text) is
    'The values that one of Keelson''s own mails is given, each empty.';

create or replace function keelson.mail_template_set(
    name text,
    subject text,
    body_text text,
    body_html text default null,
    language text default 'en'
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known record;
begin
    perform keelson._require(name, 'name'), keelson._require(subject, 'subject'), keelson._require(body_text, 'body_text');
    select is_security, is_core, is_enabled into known
    from keelson.mail_templates as t
    where t.name = mail_template_set.name
    limit 1;
    -- Nobody's password stays as it is because the notice of it cannot be written.
    if known.is_core then
        perform keelson._mail_fill(words.part, keelson._mail_core_values(name), false, false)
        from unnest(array[subject, body_text, body_html]) as words (part);
    end if;
    insert into keelson.mail_templates as t (name, language, subject, body_text, body_html, is_security, is_core, is_enabled)
    values (
        name, language, subject, body_text, body_html, coalesce(known.is_security, false), coalesce(known.is_core, false),
        coalesce(known.is_enabled, true)
    )
    on conflict on constraint mail_templates_pkey do update
    set subject = excluded.subject,
        body_text = excluded.body_text,
        body_html = excluded.body_html,
        updated_at = now();
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'mail template', 'which', name, 'language', language, 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.mail_template_set(text, text, text, text, text) is
    'Write a mail template, or change it, in one language. {{name}} stands for a value; every value that it names must be given when it is sent.';
grant execute on function keelson.mail_template_set(text, text, text, text, text) to keelson_admin;
