-- The description of the API. Reading the whole catalogue takes a while: not on the pool of the quick calls.
select keelson.route(
    'GET openapi.json',
    'keelson.openapi_document',
    is_public => true,
    is_raw => true,
    pool => 'slow',
    content_types => array['application/json'],
    returns => 'jsonb'::regtype
);
