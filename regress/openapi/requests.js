/*
 * requests.js: generators of requests to the operations of an OpenAPI description, for fast-check. A request is
 * {caller, path: {name: choice}, query: [[name, value]], headers, body: {type, text}}. Values are as their schemas
 * ask, or not at all so; those of a path may be ones that replies have told before, which whoever sends them puts in.
 */
'use strict';

const fc = require('fast-check');

/* Text that is awkward somewhere: for SQL, paths, JSON, logs, terminals, JavaScript. */
const awkward = fc.constantFrom('', ' ', '\'', '"', '\\', '%', '_', '\u0000', '\n', '\u007f', '\u202e', '\ufeff', '😀', 'é', 'null', 'true', '-1', '0', '1e400', '9007199254740993',
    '../..', '<script>', '{{x}}', '\'; drop table keelson.users; --', '$1', ':id', '$.a ? (@ == 1)', 'infinity', '__proto__', '127.0.0.1', 'http://169.254.169.254/', 'a'.repeat(1500),
    'whsec_', 'ks_test_', 'eyJhbGciOiJub25lIn0..');
const anyText = fc.oneof(awkward, fc.string({ unit: 'binary', maxLength: 40 }).map((text) => text.replace(/[\ud800-\udfff]/g, '')), fc.string({ maxLength: 20 }));
const anyValue = fc.oneof(fc.constantFrom(null, true, false, 0, -1, 1.5, 1e308, 2147483648, '', [], {}, [[]], { a: {} }), anyText, fc.array(anyText, { maxLength: 3 }),
    fc.dictionary(fc.string({ maxLength: 8 }), fc.integer(), { maxKeys: 3 }));

/* Words that mean something here, so that a free text is not always refused. */
const words = fc.constantFrom('user.updated', 'user.*', 'free', 'pro', 'user', 'admin', 'users.read', 'active', 'stripe', 'openai', 'usage.write', 'https://example.com/hooks',
    'correct horse battery', 'ada@example.com', 'Ada', 'en', '10.0.0.0/8', 'a fine word', 'createdAt', 'keelson', '5m', '2025-01-15', '0194e0a0-0000-7000-8000-000000000000');

function resolve(description, schema) {
    const name = /schemas\/(.*)$/.exec((schema && schema.$ref) || '');
    return name ? description.components.schemas[name[1]] : schema || {};
}

function stringOf(schema) {
    const moment = (date) => date.toISOString();
    const dates = fc.date({ min: new Date('2000-01-01'), max: new Date('2100-01-01'), noInvalidDate: true });
    switch (schema.format) {
        case 'uuid':
            return fc.uuid();
        case 'date-time':
            return dates.map(moment);
        case 'date':
            return dates.map((date) => moment(date).slice(0, 10));
        default:
    }
    if (schema.pattern && schema.pattern.includes('@'))
        return fc.integer({ min: 0, max: 999999 }).map((n) => `somebody${n}@example.com`);
    if (schema.pattern)
        return fc.stringMatching(new RegExp(schema.pattern, 'u')).filter((text) => text.length <= 60);
    return fc.oneof(words, fc.string({ minLength: schema.minLength || 0, maxLength: Math.min(schema.maxLength || 30, 30) }));
}

/* A value as the schema asks. */
function valueOf(description, given, depth = 0) {
    const schema = resolve(description, given);
    if (schema.enum)
        return fc.constantFrom(...schema.enum);
    if (schema.anyOf)
        return fc.oneof(...schema.anyOf.map((one) => valueOf(description, one, depth)));
    const types = [].concat(schema.type || []);
    if (types.length === 0 || depth > 4)
        return fc.oneof(anyValue, fc.constant('user.*'));
    return fc.oneof(...types.map((type) => {
        switch (type) {
            case 'null':
                return fc.constant(null);
            case 'boolean':
                return fc.boolean();
            case 'integer':
                return fc.oneof(fc.integer({ min: schema.minimum ?? 0, max: Math.min(schema.maximum ?? 200, 2000) }), fc.integer());
            case 'number':
                return fc.double({ min: schema.minimum ?? 0, max: schema.maximum ?? 1e6, noNaN: true });
            case 'array':
                return fc.array(valueOf(description, schema.items, depth + 1), { maxLength: 4 });
            case 'object':
                return objectOf(description, schema, depth);
            default:
                return stringOf(schema);
        }
    }));
}

function objectOf(description, schema, depth = 0) {
    const members = Object.fromEntries(Object.entries(schema.properties || {}).map(([name, member]) => [name, valueOf(description, member, depth + 1)]));
    return fc.record(members, { requiredKeys: (schema.required || []).filter((name) => members[name]) });
}

/* What somebody sends who does not care for the schema: one member changed, left out or added, or no object at all. */
function spoiledOf(description, schema) {
    const names = Object.keys(schema.properties || {});
    const name = fc.oneof(fc.constantFrom(...(names.length ? names : ['a'])), fc.constantFrom('nonsense', '__proto__', 'userId', 'isAdmin', 'user_id', ''));
    return fc.oneof(
        fc.tuple(objectOf(description, schema), name, anyValue).map(([body, key, value]) => JSON.stringify(Object.assign(Object.create(null), body, { [key]: value }))),
        fc.tuple(objectOf(description, schema), name).map(([body, key]) => JSON.stringify({ ...body, [key]: undefined })),
        anyValue.map((value) => JSON.stringify(value)),
        fc.constantFrom('', '{', '{"a":1,"a":2}', '[1,]', 'nul', '"\\ud800"', '"\\u0000"', '['.repeat(40), '{"a":1e400}', '{"a":0e-99999}', '\ufeff{}', '{"a":"\u0001"}'));
}

function bodyOf(description, operation) {
    const content = (operation.requestBody || {}).content;
    if (!content)
        return fc.constant(null);
    const types = Object.keys(content);
    if (!types.some((type) => type.includes('json')))
        return fc.record({ type: fc.constantFrom(...types, 'text/html').map((type) => type.replace('*/*', 'application/octet-stream')), text: anyText });
    const schema = resolve(description, content[types[0]].schema);
    return fc.oneof(
        { weight: 5, arbitrary: objectOf(description, schema).map((body) => ({ type: 'application/json', text: JSON.stringify(body) })) },
        { weight: 4, arbitrary: spoiledOf(description, schema).map((text) => ({ type: 'application/json', text })) },
        { weight: 1, arbitrary: fc.record({ type: fc.constantFrom('text/plain', 'application/x-www-form-urlencoded', 'application/json; charset=latin1', ''), text: anyText }) });
}

/* A cursor that a reply has told before, or one of it with a letter changed: whoever sends it puts it in. */
const toldCursor = fc.tuple(fc.nat(100), fc.oneof(fc.constant(-1), fc.nat(60))).map(([which, place]) => `@cursor ${which} ${place}`);

/* The parameters in the query: some of them, now and then an unknown one, one twice, or one that makes no sense. */
function queryOf(description, parameters) {
    const pairs = parameters.map((parameter) => fc.oneof(
        { weight: parameter.required ? 1 : 15, arbitrary: fc.constant(null) },
        {
            weight: 4,
            arbitrary: (parameter.name === 'cursor' ? toldCursor : valueOf(description, parameter.schema))
                .map((value) => [parameter.name, Array.isArray(value) ? value.join(',') : String(value)]),
        },
        { weight: 1, arbitrary: anyText.map((value) => [parameter.name, value]) }));
    const extra = fc.option(fc.tuple(fc.constantFrom('nonsense', 'limit', 'cursor', 'id', 'user_id', ''), anyText), { freq: 1, nil: null });
    return fc.tuple(fc.tuple(...pairs), fc.oneof({ weight: 5, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: extra })).map(([some, more]) => [...some, more].filter((pair) => pair));
}

/* The operation's requests; `callers` are the names of who may send them. */
function requestOf(description, path, operation, callers) {
    const parameters = (operation.parameters || []).filter((parameter) => !parameter.$ref);
    const inPath = parameters.filter((parameter) => parameter.in === 'path');
    const choice = (schema) => fc.oneof(
        { weight: 6, arbitrary: fc.nat(1000).map((known) => ({ known })) },
        { weight: 2, arbitrary: valueOf(description, schema).map((value) => ({ value: String(value) })) },
        { weight: 1, arbitrary: anyText.map((value) => ({ value })) });
    return fc.record({
        caller: fc.constantFrom(...callers),
        path: fc.record(Object.fromEntries(inPath.map((parameter) => [parameter.name, choice(parameter.schema)]))),
        query: queryOf(description, parameters.filter((parameter) => parameter.in === 'query')),
        headers: fc.oneof({ weight: 5, arbitrary: fc.constant({}) }, {
            weight: 2,
            arbitrary: fc.constantFrom({ Accept: 'application/problem+json' }, { 'Idempotency-Key': 'same' }, { 'Idempotency-Key': 'x'.repeat(300) }, { Accept: 'text/html' }, { 'X-Request-ID': 'nonsense' },
                { Origin: 'https://evil.example' }, { Cookie: '__Host-ks_access=x; __Host-ks_csrf=y' }, { 'X-Forwarded-For': '10.0.0.1' }, { traceparent: '00-x' }, { 'If-None-Match': '"x"' }),
        }),
        body: bodyOf(description, operation),
    });
}

module.exports = { requestOf };
