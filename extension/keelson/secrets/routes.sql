-- The keys by which anybody verifies our access tokens.
select keelson.route(
    'GET /.well-known/jwks.json',
    'keelson.jwks_document',
    is_public => true,
    is_raw => true,
    content_types => array['application/json'],
    returns => 'jsonb'::regtype
);
