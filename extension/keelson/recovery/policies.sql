-- Who may see what of mails and one-time tokens.

select keelson._user_policies('keelson.mail_messages');
select keelson._user_policies('keelson.recovery_tokens');

-- Across users, and for the core alone.
do $$
declare
    target text;
begin
    foreach target in array array['mail_suppressions', 'recovery_requests', 'recovery_days'] loop
        execute pg_catalog.format('alter table keelson.%I enable row level security', target);
        execute pg_catalog.format('alter table keelson.%I force row level security', target);
    end loop;
end
$$;

grant select, insert, update, delete on keelson.mail_templates to keelson_admin;
grant select (user_id, id, template, language, recipient, is_security, state, attempts, created_at, settled_at)
    on keelson.mail_messages to keelson_app;

-- Words that an operator has changed stay; new templates come.
insert into keelson.mail_templates (name, language, subject, body_text, body_html, is_security, is_core)
select name, language, subject, body_text, body_html, true, true
from keelson._mail_core_templates()
on conflict on constraint mail_templates_pkey do nothing;

create or replace view keelson.mails as
select * from keelson.mails_list();
comment on view keelson.mails is
    'The newest thousand mails. In development with the words of those that wait; elsewhere those are nobody''s to read.';
grant select on keelson.mails to keelson_admin;

insert into keelson.keyring_uses (name, kind, relation, key_column, id_column, purpose, loss)
values ('mails', 'sealed', 'keelson.mail_messages', 'content', 'id', 'mail', 'Mails that wait to be sent.')
on conflict (name) do update
set kind = excluded.kind, relation = excluded.relation, key_column = excluded.key_column, id_column = excluded.id_column,
    purpose = excluded.purpose, loss = excluded.loss;

insert into keelson.audit_event_types (name, category, description, is_reserved)
values ('mail.unsubscribe', 'email', 'Somebody has unsubscribed from what is no security mail.', true)
on conflict (name) do update
set category = excluded.category, description = excluded.description, is_reserved = excluded.is_reserved
where (audit_event_types.category, audit_event_types.description, audit_event_types.is_reserved)
    is distinct from (excluded.category, excluded.description, excluded.is_reserved);
