// A table of deliveries and a worker that claims batches with "for update skip locked", refills as requests end, and
// records what was answered in batches.
'use strict';

const { Pool } = require('pg');

const batch = 500;

exports.migrate = async (pool) => {
    await pool.query(`
        create table if not exists peer.deliveries (
            id uuid primary key default gen_random_uuid(),
            body text not null,
            due_at timestamptz default now(),
            attempts integer not null default 0,
            status integer,
            delivered_at timestamptz
        );
        create index if not exists deliveries_due_at_idx on peer.deliveries (due_at) where due_at is not null`);
};

exports.fill = async (pool, count, body) => {
    await pool.query('insert into peer.deliveries (body) select $1 from generate_series(1, $2::integer)', [body, count]);
};

// Who claims something has a minute for it; then it is due again.
const claim = `
    update peer.deliveries set due_at = now() + interval '1 minute', attempts = attempts + 1
    where id in (select id from peer.deliveries where due_at <= now() order by due_at limit $1 for update skip locked)
    returning id, body`;
const record = `
    update peer.deliveries as d set due_at = null, delivered_at = now(), status = r.status
    from unnest($1::uuid[], $2::integer[]) as r (id, status)
    where d.id = r.id`;

exports.run = async (settings, send, atOnce) => {
    const pool = new Pool(settings);
    const waiting = [];
    let underWay = 0;
    let isClaiming = false;
    let done = [];

    async function refill() {
        if (isClaiming || waiting.length > batch / 2) return;
        isClaiming = true;
        const { rows, rowCount } = await pool.query({ name: 'claim', text: claim, values: [batch] });
        isClaiming = false;
        waiting.push(...rows);
        go();
        if (rowCount === 0 && underWay === 0) setTimeout(refill, 50);
    }

    async function flush() {
        const batchDone = done;
        done = [];
        if (batchDone.length === 0) return;
        await pool.query({ name: 'record', text: record, values: [batchDone.map((d) => d.id), batchDone.map((d) => d.status)] });
    }

    async function deliver(delivery) {
        // What fails stays claimed, and is due again.
        const status = await send(delivery).catch(() => null);
        if (status !== null && done.push({ id: delivery.id, status }) >= 100) flush();
        underWay--;
        go();
    }

    function go() {
        while (underWay < atOnce && waiting.length > 0) {
            underWay++;
            deliver(waiting.shift());
        }
        refill();
    }

    setInterval(flush, 20);
    go();
};
