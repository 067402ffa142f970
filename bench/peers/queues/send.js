// Sends an event to a receiver as Keelson does: signed by the receiver's secret, 64 requests under way at most.
'use strict';

const { createHmac } = require('node:crypto');
const { Pool } = require('undici');

const secret = Buffer.from('a secret of the receiver, of 32B');

module.exports = (url, atOnce) => {
    const { origin, pathname } = new URL(url);
    const pool = new Pool(origin, { connections: atOnce, pipelining: 1 });

    return async ({ id, body }) => {
        const timestamp = Math.floor(Date.now() / 1000);
        const signature = createHmac('sha256', secret).update(`${id}.${timestamp}.${body}`).digest('base64');
        const reply = await pool.request({
            method: 'POST',
            path: pathname,
            headers: {
                'content-type': 'application/json',
                'user-agent': 'peer',
                'webhook-id': id,
                'webhook-timestamp': String(timestamp),
                'webhook-signature': `v1,${signature}`,
            },
            body,
        });
        await reply.body.dump();
        if (reply.statusCode >= 300) throw new Error(`the receiver answered ${reply.statusCode}`);
        return reply.statusCode;
    };
};
