// graphile-worker, tuned as its manual has it for throughput: 64 jobs at once, a local queue, completions in batches.
'use strict';

const { randomUUID } = require('node:crypto');
const { Pool } = require('pg');
const { makeWorkerUtils, run, Logger } = require('graphile-worker');

const logger = new Logger(() => () => {});

exports.migrate = async (pool) => {
    const utils = await makeWorkerUtils({ pgPool: pool, logger });
    await utils.migrate();
    await utils.release();
};

exports.fill = async (pool, count, body) => {
    const utils = await makeWorkerUtils({ pgPool: pool, logger });
    for (let left = count; left > 0; left -= 5000) {
        await utils.addJobs(Array.from({ length: Math.min(left, 5000) },
            () => ({ identifier: 'deliver', payload: { id: randomUUID(), body } })));
    }
    await utils.release();
};

exports.run = async (settings, send, atOnce) => {
    await run({
        pgPool: new Pool(settings),
        logger,
        noHandleSignals: true,
        preset: {
            worker: {
                concurrentJobs: atOnce,
                pollInterval: 500,
                localQueue: { size: 500 },
                completeJobBatchDelay: 0,
                failJobBatchDelay: 0,
            },
        },
        taskList: { deliver: (payload) => send(payload) },
    });
};
