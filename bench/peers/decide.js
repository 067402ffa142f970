// Decisions of rate-limiter-flexible, 32 under way, over ten thousand callers: how many they are, and the CPU time of this
// process for each. With "check" instead: how many of twelve requests a limit of five allows.
//
//   PGHOST=… REDIS_SOCKET=… POOL=8 node decide.js redis SECONDS | check
'use strict';

const { Pool } = require('pg');
const limiter = require('./limiter.js');

const [, , kind, what] = process.argv;
const settings = { max: Number(process.env.POOL) };

async function decideFor(limit, milliseconds) {
    const end = performance.now() + milliseconds;
    let decided = 0;
    await Promise.all(Array.from({ length: 32 }, async (_, n) => {
        for (let key = n; performance.now() < end; key += 32) {
            await limit.consume(`user-${key % 10000}`);
            decided++;
        }
    }));
    return decided;
}

async function main() {
    const pool = new Pool(settings);
    if (what === 'check') {
        const limit = limiter(kind, { pool, points: 5, duration: 60 });
        let allowed = 0;
        for (let n = 0; n < 12; n++) await limit.consume('check').then(() => allowed++, () => {});
        console.error(`allowed=${allowed}`);
    } else {
        const limit = limiter(kind, { pool, points: 1e9, duration: 60 });
        await decideFor(limit, 2000);
        const cpu = process.cpuUsage();
        const decided = await decideFor(limit, what * 1000);
        const { user, system } = process.cpuUsage(cpu);
        console.error(`decided=${decided} cpu_us=${((user + system) / decided).toFixed(3)}`);
    }
    process.exit(0);
}

main();
