// better-auth: who is this, by the session's cookie.
'use strict';

const http = require('node:http');
const { Pool } = require('pg');

module.exports = async ({ port, secret, pool: settings }) => {
    const { betterAuth } = await import('better-auth');
    const { toNodeHandler } = await import('better-auth/node');
    const auth = betterAuth({
        baseURL: `http://127.0.0.1:${port}`,
        secret,
        database: new Pool({ ...settings, options: '-c search_path=peer_auth' }),
        emailAndPassword: { enabled: true },
        rateLimit: { enabled: false },
        telemetry: { enabled: false },
    });
    http.createServer(toNodeHandler(auth)).listen(port, '127.0.0.1');
};
