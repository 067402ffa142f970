-- What has been applied to this database may be read by administrators.
grant select on keelson.migrations, keelson.installation to keelson_admin;
grant select on keelson.eras to keelson_admin;
select keelson._current_era();
