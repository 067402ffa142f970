-- The description of the API. Reading the whole catalogue takes a third of a second: not on the pool of the quick calls,
-- and nobody who is not signed in keeps a processor busy with it.
select keelson.route(
    'GET openapi.json',
    'keelson.openapi_document',
    is_public => true,
    is_raw => true,
    pool => 'slow',
    rate_cost => 5,
    content_types => array['application/json'],
    returns => 'jsonb'::regtype
);
