// PostGraphile 4 over functions of a schema: it verifies the token, and gives its claims to the transaction as settings.
'use strict';

const { createSecretKey } = require('node:crypto');
const http = require('node:http');
const { Pool } = require('pg');
const { postgraphile } = require('postgraphile');

module.exports = ({ port, secret, pool: settings }) => {
    const pool = new Pool(settings);
    // As a key: of a string, jsonwebtoken tries each time whether it is a public key, which takes a third of a millisecond.
    const key = createSecretKey(Buffer.from(secret));
    http.createServer(postgraphile(pool, 'peer_graphql', {
        jwtPublicKey: (header, answer) => answer(null, key),
        jwtVerifyOptions: { algorithms: ['HS256'], audience: undefined },
        // As its manual has it for production.
        retryOnInitFail: true,
        dynamicJson: true,
        setofFunctionsContainNulls: false,
        ignoreRBAC: false,
        graphiql: false,
        enableQueryBatching: true,
        disableQueryLog: true,
        legacyRelations: 'omit',
        watchPg: false,
    })).listen(port, '127.0.0.1');
};
