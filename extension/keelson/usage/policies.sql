-- Who may see what of usage: everybody their own.

select keelson._user_policies('keelson.usage_events');
select keelson._user_policies('keelson.usage_keys');
select keelson._user_policies('keelson.usage_quarters');
select keelson._user_policies('keelson.usage_days');
select keelson._user_policies('keelson.usage_totals');

drop trigger if exists usage_features_changed on keelson.usage_features;
create trigger usage_features_changed
    after insert or update or delete or truncate on keelson.usage_features
    for each statement execute function keelson._usage_features_changed();

insert into keelson.usage_features (name, is_open, description)
values ('*', true, 'All features that are not declared.')
on conflict do nothing;

insert into keelson.usage_watermark (era, xid, event_id, tail_from)
values (0, '0', '00000000-0000-0000-0000-000000000000', (pg_catalog.now() at time zone 'UTC')::date - 1)
on conflict do nothing;

grant select on keelson.usage_events, keelson.usage_quarters, keelson.usage_days, keelson.usage_totals to keelson_app;
grant select on keelson.usage_features to keelson_app, keelson_admin;
grant select on keelson.usage_watermark to keelson_admin;

-- A key is a client's own name for an event; kept is its hash, which tells its owner nothing.
insert into keelson.user_data_rules (relation, column_name, is_kept, is_hidden, open_expression, reason)
values
    ('keelson.usage_keys', '*', false, true, null, 'Hashes alone: what was counted under a key is in keelson.usage_events')
on conflict (relation, column_name) do update
set is_kept = excluded.is_kept, is_hidden = excluded.is_hidden, open_expression = excluded.open_expression, reason = excluded.reason
where (user_data_rules.is_kept, user_data_rules.is_hidden, user_data_rules.open_expression, user_data_rules.reason)
    is distinct from (excluded.is_kept, excluded.is_hidden, excluded.open_expression, excluded.reason);

select keelson.usage_partitions_make();
