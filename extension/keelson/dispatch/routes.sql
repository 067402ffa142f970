-- The description of the API. It is large, and making it anew takes a third of a second: not on the pool of the quick calls.
select keelson.route(
    'GET openapi.json',
    'keelson.openapi_document',
    is_public => true,
    is_raw => true,
    pool => 'slow',
    content_types => array['application/json'],
    returns => 'jsonb'::regtype
);
