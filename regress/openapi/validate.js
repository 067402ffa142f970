/*
 * validate.js FILE: holds replies against an OpenAPI description. Standard input has one reply a line, as JSON:
 * {"method", "path" (as in the description), "status", "type", "body"}. Prints what does not fit, one a line.
 */
'use strict';

const Ajv = require('@redocly/ajv/dist/2020').default;
const { readFileSync } = require('fs');
const { createInterface } = require('readline');

const description = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const ajv = new Ajv({ strict: false, allErrors: true, validateFormats: true });

/* The formats that are used, so that they are checked and not passed over. */
const formats = {
    uuid: /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
    'date-time': /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/,
    date: /^\d{4}-\d\d-\d\d$/,
    'uri-reference': /^\S*$/,
};
for (const [name, pattern] of Object.entries(formats))
    ajv.addFormat(name, pattern);
for (const name of ['int32', 'int64', 'float', 'double'])
    ajv.addFormat(name, { type: 'number', validate: () => true });
ajv.addSchema({ $id: 'api', ...description });

/* The place of a reply's schema in the description, null where it is not described. */
function placeOf({ method, path, status, type }) {
    const operation = ((description.paths[path] || {})[method.toLowerCase()] || {}).responses || {};
    const reply = operation[status] || operation[`${String(status)[0]}XX`];
    if (!reply)
        return null;
    const base = type.replace(/;.*/, '');
    if (!reply.content)
        return base === '' ? true : null;
    if (!reply.content[base])
        return reply.content['*/*'] ? true : null;
    if (!reply.content[base].schema)
        return true;
    const escape = (part) => encodeURIComponent(String(part).replace(/~/g, '~0').replace(/\//g, '~1'));
    const key = operation[status] ? status : `${String(status)[0]}XX`;
    return `api#/${['paths', path, method.toLowerCase(), 'responses', key, 'content', base, 'schema'].map(escape).join('/')}`;
}

function check(reply) {
    const name = `${reply.method} ${reply.path} ${reply.status} ${reply.type}`;
    const place = placeOf(reply);
    if (place === null)
        return [`${name}: not described`];
    if (place === true)
        return [];
    const validate = ajv.getSchema(place);
    if (!validate)
        return [`${name}: no schema at ${place}`];
    return validate(reply.body) ? [] : validate.errors.map((fault) => `${name}: ${fault.instancePath} ${fault.message} ${JSON.stringify(fault.params)}`);
}

let faults = 0;
createInterface({ input: process.stdin }).on('line', (line) => {
    for (const fault of check(JSON.parse(line))) {
        faults++;
        console.log(fault);
    }
}).on('close', () => process.exit(faults ? 1 : 0));
