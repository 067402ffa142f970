-- Deliveries are their user's to see through the functions of their kind; writing is the core's.

select keelson._user_policies('keelson.deliveries');
select keelson._user_policies('keelson.deliveries_log');
select keelson._user_policies('keelson.delivery_attempts');
select keelson._user_policies('keelson.courier_lanes');
select keelson._user_policies('keelson.http_requests');

grant select on keelson.deliveries, keelson.deliveries_log, keelson.delivery_attempts, keelson.courier_lanes to keelson_app;
grant select on keelson.courier_fence to keelson_admin;

select keelson.deliveries_partitions_make();
