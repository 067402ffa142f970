-- Who may see what of second factors: through functions alone.

select keelson._user_policies('keelson.totp_factors');
select keelson._user_policies('keelson.recovery_codes');
select keelson._user_policies('keelson.login_challenges');

insert into keelson.audit_event_types (name, category, description, is_reserved)
values
    ('factor.enroll', 'authentication', 'An authenticator app was enrolled, and is not in force yet.', true),
    ('factor.change', 'authentication', 'A second factor was put in force, removed or reset.', true),
    ('factor.use', 'authentication', 'A second factor was shown anew, or a wrong code of one.', true)
on conflict (name) do update
set category = excluded.category, description = excluded.description, is_reserved = excluded.is_reserved
where (audit_event_types.category, audit_event_types.description, audit_event_types.is_reserved)
    is distinct from (excluded.category, excluded.description, excluded.is_reserved);
