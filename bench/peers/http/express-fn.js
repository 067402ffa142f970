// Express with one prepared call of one SQL function for each request.
'use strict';

const { createSecretKey } = require('node:crypto');
const express = require('express');
const jwt = require('jsonwebtoken');
const { Pool } = require('pg');

module.exports = ({ port, secret, pool: settings }) => {
    const pool = new Pool(settings);
    // As a key: of a string, jsonwebtoken tries each time whether it is a public key, which takes a third of a millisecond.
    const key = createSecretKey(Buffer.from(secret));
    const app = express();
    app.disable('x-powered-by');
    app.disable('etag');

    function authenticate(req, res, next) {
        try {
            req.claims = jwt.verify((req.headers.authorization || '').replace(/^Bearer /, ''), key, { algorithms: ['HS256'] });
        } catch {
            return res.status(401).json({ success: false });
        }
        next();
    }

    async function answer(res, name, text, values) {
        const { rows } = await pool.query({ name, text, values, rowMode: 'array' });
        if (rows[0][0] === null) return res.status(401).json({ success: false });
        res.type('json').send(rows[0][0]);
    }

    app.get('/api/auth/me', authenticate, (req, res) =>
        answer(res, 'me', 'select peer.me($1, $2)', [req.claims.session_id, req.claims.user_id]));

    app.post('/api/bench/events', authenticate, express.json(), (req, res) => {
        const { feature, minutes } = req.body;
        if (typeof feature !== 'string' || typeof minutes !== 'number') return res.status(400).json({ success: false });
        return answer(res, 'event_add', 'select peer.event_add($1, $2, $3, $4)', [req.claims.session_id, req.claims.user_id, feature, minutes]);
    });

    app.listen(port, '127.0.0.1');
};
