// A peer that delivers webhooks out of PostgreSQL: makes its tables, fills them, or works.
//
//   PGHOST=… POOL=8 node worker.js skip-locked migrate
//   PGHOST=… POOL=8 node worker.js skip-locked fill COUNT BODY
//   PGHOST=… POOL=8 URL=… node worker.js skip-locked run
'use strict';

const { Pool } = require('pg');
const sender = require('./queues/send.js');

const atOnce = 64;
const [, , name, act, count, body] = process.argv;
const queue = require(`./queues/${name}.js`);
const settings = { host: process.env.PGHOST, port: Number(process.env.PGPORT), user: process.env.PGUSER, database: process.env.PGDATABASE, max: Number(process.env.POOL) };

async function main() {
    if (act === 'run') return queue.run(settings, sender(process.env.URL, atOnce), atOnce);
    const pool = new Pool(settings);
    if (act === 'migrate') await queue.migrate(pool, settings);
    else await queue.fill(pool, Number(count), body, settings);
    await pool.end();
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
