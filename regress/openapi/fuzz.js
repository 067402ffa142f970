/*
 * fuzz.js CONFIGURATION: sends generated requests, good ones and bad ones, to every operation of an OpenAPI description.
 * Whatever is sent, the answer is one that the description has, with a body as its schema, no fault inside, and without
 * a word of the inside or of another user's.
 *
 * CONFIGURATION is a JSON file: url, description (a file), seed, runs (of each operation), seconds (0: no bound; all
 * operations again and again until they are over), callers {name: {headers, seesAll, renewal}}, strangers (texts of
 * other users), protected (ids and names in paths that are not to be changed).
 * Prints TAP, a test for each operation; one that fails shows the request and what is wrong with the answer.
 */
'use strict';

const fc = require('fast-check');
const http = require('http');
const { readFileSync } = require('fs');

const { Replies } = require('./replies');
const { requestOf } = require('./requests');

const configuration = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const description = JSON.parse(readFileSync(configuration.description, 'utf8'));
const replies = new Replies(description);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

/* What no answer says: SQL and its errors, source files, stacks, our own inner names, hashes. */
const inside = [
    /\bat \S+ \(\S+:\d+:\d+\)/, /\b[a-z_]+\.(c|h|sql|js):\d+/, /PL\/pgSQL|SQLSTATE|\bSPI\b|ERROR:|CONTEXT:|QUERY:/, /\bkeelson\._?[a-z]+_[a-z_]*\(/, /\bkeelson\._/,
    /\b(relation|column|constraint|operator|function|schema|type) "[a-z_]+/, /violates|syntax error|pg_catalog|pg_temp|search_path/, /\/(usr|home|tmp|var|work)\//, /\$argon2/,
    /select .+ from |insert into |update .+ set /i,
];
/* Documents and names that are made of such words, for all to see. */
const speaksOfItself = /^\/(api\/(docs|openapi\.json|dev\/)|metrics|health|live|ready)/;
const spoken = JSON.stringify(description);

/* Ids and names that replies have told, by the first word of the path and the member's name. */
const known = {};

function remember(path, body) {
    const place = path.split('/').filter((part) => part && part !== 'api' && part !== 'admin')[0];
    const walk = (value, name) => {
        if (value && typeof value === 'object')
            for (const [key, member] of Object.entries(value))
                walk(member, Array.isArray(value) ? name : key);
        else if (typeof value === 'string' && /^(id|name|source|userId|deliveryId)$/.test(name) && value.length < 80) {
            const list = known[`${place} ${name}`] = known[`${place} ${name}`] || [];
            if (!list.includes(value) && list.push(value) > 50)
                list.shift();
        }
    };
    walk(body, '');
}

/* What is protected is not changed: else nobody would be left who may do all. */
function pathOf(method, path, choices) {
    const place = path.split('/').filter((part) => part && part !== 'api' && part !== 'admin')[0];
    return path.replace(/\{(\w+)\}/g, (all, name) => {
        const list = known[`${place} ${name}`] || known[`${place} id`] || known[`users ${name}`] || ['0194e0a0-0000-7000-8000-000000000000'];
        const choice = choices[name];
        const value = choice.value ?? list[choice.known % list.length];
        /* A segment of dots would be gone before it is sent. */
        if (/^\.{0,2}$/.test(value))
            return '%20';
        return encodeURIComponent(method !== 'GET' && configuration.protected.includes(value) ? 'protected' : value);
    });
}

/* Cursors that replies have told, of whatever list. */
const cursors = [];

function queryOf(request) {
    return request.query.map(([name, value]) => {
        const told = /^@cursor (\d+) (-?\d+)$/.exec(value);
        const cursor = told && cursors.length ? cursors[told[1] % cursors.length] : value;
        const place = told ? told[2] % cursor.length : -1;
        return [name, place < 0 ? cursor : `${cursor.slice(0, place)}x${cursor.slice(place + 1)}`].map(encodeURIComponent).join('=');
    }).join('&');
}

function send(method, path, request) {
    const query = queryOf(request);
    const headers = { ...configuration.callers[request.caller].headers, ...request.headers };
    const body = request.body ? Buffer.from(request.body.text) : null;
    if (body && request.body.type)
        headers['Content-Type'] = request.body.type;
    if (body)
        headers['Content-Length'] = body.length;
    return new Promise((resolve, reject) => {
        const sent = http.request(`${configuration.url}${pathOf(method, path, request.path)}${query ? `?${query}` : ''}`, { method, headers, agent }, (answer) => {
            const chunks = [];
            const done = () => resolve({ status: answer.statusCode, type: answer.headers['content-type'] || '', headers: answer.headers, text: Buffer.concat(chunks).toString() });
            answer.on('data', (chunk) => chunks.push(chunk)).on('end', done).on('error', reject);
            /* What goes on for ever has been seen when it has begun. */
            if (/event-stream/.test(answer.headers['content-type'])) {
                sent.destroy();
                done();
            }
        });
        sent.on('error', reject);
        sent.end(body);
    });
}

/* What is wrong with an answer, in sentences. */
function faultsOf(method, path, request, answer) {
    const faults = [];
    const body = /json/.test(answer.type) && answer.text ? JSON.parse(answer.text) : answer.text;
    const isFine = answer.status < 500 || (answer.status === 502 && (description.paths[path][method.toLowerCase()].responses[502]));
    if (!isFine)
        faults.push('a fault inside');
    if (!/^[0-9a-f-]{36}$/.test(answer.headers['x-request-id'] || ''))
        faults.push('no request id');
    faults.push(...replies.check({ method, path, status: answer.status, type: answer.type, body }));
    if (!speaksOfItself.test(path)) {
        /* A refusal may repeat what it refuses. */
        const own = answer.status < 300 ? '' : JSON.stringify(request);
        for (const pattern of inside) {
            const found = pattern.exec(answer.text);
            if (found && !own.includes(found[0]))
                faults.push(`speaks of the inside: ${found[0]}`);
        }
        /* Names in JSON are camelCase: one of a column's would come from inside. */
        const column = /\b[a-z]+_[a-z_]+\b/.exec(answer.status >= 400 && typeof body === 'object' ? `${body.error} ${JSON.stringify(body.details || [])}` : '');
        if (column && !JSON.stringify(request).includes(column[0]) && !spoken.includes(column[0]))
            faults.push(`names a column: ${column[0]}`);
    }
    if (!configuration.callers[request.caller].seesAll && !speaksOfItself.test(path))
        for (const text of configuration.strangers)
            if (answer.text.includes(text))
                faults.push(`tells of another user: ${text}`);
    if (answer.status < 300)
        remember(path, body);
    const next = ((body.meta || {}).pagination || {}).nextCursor;
    if (next && cursors.push(next) > 30)
        cursors.shift();
    return faults;
}

/* Somebody whose account or session the requests have ended is somebody new from then on. */
async function renew(request, answer) {
    const caller = configuration.callers[request.caller];
    if (answer.status !== 401 || !caller.renewal)
        return;
    const email = `renewed${Date.now()}${Math.random().toString(36).slice(2)}@example.com`;
    const registered = await send('POST', '/api/auth/register', {
        caller: 'nobody', path: {}, query: [], headers: {}, body: { type: 'application/json', text: JSON.stringify({ email, password: 'correct horse battery staple' }) },
    });
    if (registered.status === 201)
        caller.headers = { Authorization: `Bearer ${JSON.parse(registered.text).data.accessToken}` };
}

function operations() {
    const all = [];
    for (const [path, methods] of Object.entries(description.paths))
        for (const [method, operation] of Object.entries(methods))
            if (/^(get|post|put|patch|delete)$/.test(method))
                all.push({ method: method.toUpperCase(), path, operation });
    /* Who has signed out has little to say: what makes things comes first, what ends them last. */
    const rank = ({ method, path }) => (/logout|end-sessions|totp|block|cron|reset|newPassword/.test(path) || method === 'DELETE' ? 2 : method === 'POST' ? 0 : 1);
    return all.sort((a, b) => rank(a) - rank(b) || `${a.path} ${a.method}`.localeCompare(`${b.path} ${b.method}`));
}

/* Runs the property; null, or the counterexample in words. */
async function fuzz({ method, path, operation }, seed, statuses) {
    const property = fc.asyncProperty(requestOf(description, path, operation, Object.keys(configuration.callers)), async (request) => {
        const answer = await send(method, path, request);
        const faults = faultsOf(method, path, request, answer);
        statuses[answer.status] = (statuses[answer.status] || 0) + 1;
        await renew(request, answer);
        if (faults.length)
            throw new Error(`${faults.join('\n')}\n${method} ${pathOf(method, path, request.path)}?${queryOf(request)} by ${request.caller}: ${JSON.stringify(request).slice(0, 1500)}\n${answer.status} ${answer.text.slice(0, 1500)}`);
    });
    /* What takes long to make and is the same for all need not be seen often. */
    const runs = path === '/api/openapi.json' ? 1 : configuration.runs;
    const result = await fc.check(property, { seed, numRuns: runs, endOnFailure: true });
    return result.failed ? (result.errorInstance || {}).message || 'the property failed' : null;
}

async function main() {
    const until = Date.now() + configuration.seconds * 1000;
    const all = operations();
    let number = 0;
    let failures = 0;
    for (let seed = configuration.seed; number === 0 || Date.now() < until; seed++) {
        for (const one of all) {
            const statuses = {};
            const began = Date.now();
            const fault = await fuzz(one, seed * 1000 + number, statuses);
            number++;
            failures += fault ? 1 : 0;
            console.log(`${fault ? 'not ok' : 'ok'} ${number} - ${one.method} ${one.path} (seed ${seed}, ${Date.now() - began} ms): ${Object.entries(statuses).map(([status, count]) => `${count} of ${status}`).join(', ')}`);
            if (fault)
                console.log(fault.replace(/^/gm, '# '));
        }
    }
    console.log(`1..${number}`);
    agent.destroy();
    process.exit(failures ? 1 : 0);
}

main();
