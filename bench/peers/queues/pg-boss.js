// pg-boss, tuned: eight workers that fetch batches of 500 twice a second.
'use strict';

const PgBoss = require('pg-boss');

const queue = 'deliveries';

function boss(settings, options) {
    const made = new PgBoss({ ...settings, ...options });
    made.on('error', () => {});
    return made;
}

exports.migrate = async (pool, settings) => {
    const made = boss(settings);
    await made.start();
    await made.createQueue(queue);
    await made.stop({ graceful: false });
};

exports.fill = async (pool, count, body, settings) => {
    const made = boss(settings, { supervise: false, schedule: false });
    await made.start();
    for (let left = count; left > 0; left -= 5000) {
        await made.insert(Array.from({ length: Math.min(left, 5000) }, () => ({ name: queue, data: { body } })));
    }
    await made.stop({ graceful: false });
};

exports.run = async (settings, send) => {
    const made = boss(settings);
    await made.start();
    for (let n = 0; n < 8; n++) {
        await made.work(queue, { batchSize: 500, pollingIntervalSeconds: 0.5 }, async (jobs) => {
            await Promise.all(jobs.map(({ id, data }) => send({ id, body: data.body })));
        });
    }
};
