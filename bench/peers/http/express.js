// Express and pg as usually written: a query that looks for the session, then the handler's queries; what writes does so
// in a transaction.
'use strict';

const { createSecretKey } = require('node:crypto');
const express = require('express');
const jwt = require('jsonwebtoken');
const { Pool, types } = require('pg');

// Dates and numbers as the API says them.
types.setTypeParser(types.builtins.DATE, (text) => text);
types.setTypeParser(types.builtins.NUMERIC, Number);
types.setTypeParser(types.builtins.INT8, Number);

module.exports = ({ port, secret, pool: settings }) => {
    const pool = new Pool(settings);
    // As a key: of a string, jsonwebtoken tries each time whether it is a public key, which takes a third of a millisecond.
    const key = createSecretKey(Buffer.from(secret));
    const app = express();
    app.disable('x-powered-by');
    app.use(express.json());

    async function authenticate(req, res, next) {
        let claims;
        try {
            claims = jwt.verify((req.headers.authorization || '').replace(/^Bearer /, ''), key, { algorithms: ['HS256'] });
        } catch {
            return res.status(401).json({ success: false });
        }
        const { rows } = await pool.query(
            'select user_id from peer.sessions where id = $1 and user_id = $2 and revoked_at is null and expires_at > now()',
            [claims.session_id, claims.user_id]);
        if (rows.length === 0) return res.status(401).json({ success: false });
        req.userId = rows[0].user_id;
        next();
    }

    app.get('/api/auth/me', authenticate, async (req, res) => {
        const { rows } = await pool.query('select * from peer.users where id = $1', [req.userId]);
        const user = rows[0];
        res.json({
            success: true,
            data: {
                id: user.id, email: user.email, emailVerified: user.email_verified, name: user.name, avatarUrl: user.avatar_url,
                preferences: user.preferences, roles: user.roles, createdAt: user.created_at,
            },
        });
    });

    app.post('/api/bench/events', authenticate, async (req, res) => {
        const { feature, minutes } = req.body;
        if (typeof feature !== 'string' || typeof minutes !== 'number') return res.status(400).json({ success: false });
        const client = await pool.connect();
        try {
            await client.query('begin');
            await client.query('insert into peer.events (user_id, feature, minutes) values ($1, $2, $3)', [req.userId, feature, minutes]);
            const { rows } = await client.query(
                `insert into peer.totals as t (user_id, month, minutes, requests)
                values ($1, date_trunc('month', now() at time zone 'UTC')::date, $2, 1)
                on conflict (user_id, month) do update set minutes = t.minutes + excluded.minutes, requests = t.requests + 1
                returning month, minutes, requests`,
                [req.userId, minutes]);
            await client.query('commit');
            res.json({ success: true, data: rows[0] });
        } catch (error) {
            await client.query('rollback');
            throw error;
        } finally {
            client.release();
        }
    });

    app.listen(port, '127.0.0.1');
};
