// A limiter of rate-limiter-flexible that counts in Redis or in PostgreSQL; null where none is wanted.
'use strict';

module.exports = (kind, { pool, points, duration }) => {
    if (!kind) return null;
    const { RateLimiterPostgres, RateLimiterRedis } = require('rate-limiter-flexible');
    if (kind === 'redis') {
        const Redis = require('ioredis');
        const storeClient = new Redis(process.env.REDIS_SOCKET, { enableAutoPipelining: true });
        return new RateLimiterRedis({ storeClient, points, duration });
    }
    return new RateLimiterPostgres({ storeClient: pool, schemaName: 'peer', tableName: 'limits', tableCreated: true, points, duration });
};
