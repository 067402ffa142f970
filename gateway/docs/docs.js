/*
 * The API reference: reads /api/openapi.json and shows each operation, with a form that sends it.
 *
 * Nothing is loaded from outside and no text of the description is ever taken for markup: nodes are made by
 * make(), which knows only text. The token stays in this page's memory; it is gone when the page is left.
 */
'use strict';

const SPECIFICATION = '/api/openapi.json';
const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
const DEPTH = 5;

let specification = null;
const byId = (id) => document.getElementById(id);

/* Makes an element: attributes, event handlers (on…) and children, text or nodes. */
function make(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
        if (value === undefined || value === null || value === false)
            continue;
        if (name.startsWith('on'))
            node.addEventListener(name.slice(2), value);
        else
            node.setAttribute(name, value === true ? '' : value);
    }
    node.append(...children.flat().filter((child) => child !== undefined && child !== null));
    return node;
}

/* Follows a local reference such as #/components/schemas/User; what stands beside the reference holds. */
function resolve(thing) {
    for (let turns = 0; thing && thing.$ref && turns < 20; turns++) {
        const { $ref, ...beside } = thing;
        const target = $ref.replace(/^#\//, '').split('/')
            .map((part) => part.replace(/~1/g, '/').replace(/~0/g, '~'))
            .reduce((at, part) => (at || {})[part], specification);
        thing = { ...target, ...beside };
    }
    return thing || {};
}

/* One plain schema: what allOf adds is taken in, and "this or null" becomes a type with null. */
function merged(schema) {
    schema = resolve(schema);
    if (schema.anyOf && schema.anyOf.length === 2 && schema.anyOf[1].type === 'null') {
        const { anyOf, ...beside } = schema;
        const value = merged(anyOf[0]);
        return { ...value, ...beside, type: [].concat(value.type || 'object', 'null') };
    }
    if (!schema.allOf)
        return schema;
    const whole = { ...schema, properties: { ...schema.properties }, required: [...(schema.required || [])] };
    for (const part of schema.allOf.map(merged)) {
        for (const [name, property] of Object.entries(part.properties || {}))
            whole.properties[name] = { ...whole.properties[name], ...property };
        whole.required.push(...(part.required || []));
        whole.type = whole.type || part.type;
    }
    return whole;
}

function typeName(schema) {
    schema = merged(schema);
    const name = [].concat(schema.type || (schema.properties ? 'object' : 'any'))
        .map((type) => type === 'array' ? `array of ${typeName(schema.items)}` : type)
        .join(' or ');
    return schema.format ? `${name} (${schema.format})` : name;
}

/* The limits of a schema in words. */
function limits(schema) {
    schema = merged(schema);
    const words = [];
    if (schema.enum)
        words.push(`one of ${schema.enum.map((value) => JSON.stringify(value)).join(', ')}`);
    if (schema.const !== undefined)
        words.push(`always ${JSON.stringify(schema.const)}`);
    if (schema.default !== undefined)
        words.push(`default ${JSON.stringify(schema.default)}`);
    for (const [key, text] of [['minLength', 'at least % characters'], ['maxLength', 'at most % characters'],
        ['minimum', 'from %'], ['maximum', 'to %'], ['minItems', 'at least % items'],
        ['maxItems', 'at most % items'], ['pattern', 'matches %']]) {
        if (schema[key] !== undefined)
            words.push(text.replace('%', () => schema[key]));
    }
    return words.join('; ');
}

/* Sentences joined, each with its capital and its full stop. */
function inWords(...parts) {
    return parts.filter(Boolean)
        .map((part) => part[0].toUpperCase() + part.slice(1).replace(/([^.!?])$/, '$1.'))
        .join(' ');
}

/* A value to begin with: the schema's own example, else one made from its type, with what is required. */
function sample(schema, depth = 0) {
    schema = merged(schema);
    if (schema.examples && schema.examples.length)
        return schema.examples[0];
    for (const key of ['example', 'default', 'const']) {
        if (schema[key] !== undefined)
            return schema[key];
    }
    if (schema.enum)
        return schema.enum[0];
    if (depth > DEPTH)
        return null;
    switch ([].concat(schema.type || (schema.properties ? 'object' : ''))[0]) {
        case 'object':
            return Object.fromEntries(Object.entries(schema.properties || {})
                .filter(([name]) => !(schema.required || []).length || schema.required.includes(name))
                .map(([name, property]) => [name, sample(property, depth + 1)]));
        case 'array':
            return [sample(schema.items, depth + 1)];
        case 'string':
            return { 'date-time': '2025-01-15T00:00:00Z', date: '2025-01-15', email: 'ada@example.com',
                uuid: '0194e0a0-0000-7000-8000-000000000000', uri: 'https://example.com/' }[schema.format] || '';
        case 'integer':
        case 'number':
            return schema.minimum || 0;
        case 'boolean':
            return false;
        default:
            return null;
    }
}

/* Rows of a table that describe a schema's properties, those of inner objects indented. */
function propertyRows(schema, depth = 0) {
    schema = merged(schema);
    if (schema.items)
        return propertyRows(schema.items, depth);
    if (depth > DEPTH)
        return [];
    const isNeeded = (name) => (schema.required || []).includes(name);
    const properties = Object.entries(schema.properties || {}).sort(([a], [b]) => isNeeded(b) - isNeeded(a));
    return properties.flatMap(([name, property]) => {
        const needed = isNeeded(name);
        const about = inWords(merged(property).description, limits(property));
        return [
            make('tr', {},
                make('td', { class: `indent-${Math.min(depth, 4)}` }, make('span', { class: needed ? 'required' : null }, name)),
                make('td', {}, typeName(property)),
                make('td', {}, about)),
            ...propertyRows(property, depth + 1),
        ];
    });
}

function table(heads, rows) {
    return make('table', {},
        make('thead', {}, make('tr', {}, heads.map((head) => make('th', { scope: 'col' }, head)))),
        make('tbody', {}, rows));
}

function schemaView(schema) {
    const rows = propertyRows(schema);
    return rows.length
        ? table(['Name', 'Type', 'Meaning'], rows)
        : make('p', {}, make('code', {}, typeName(schema)), ' ', limits(schema));
}

const pretty = (value) => typeof value === 'string' ? value : JSON.stringify(value, null, 2);

/* The first content type of a body, its schema and an example. */
function contentOf(body) {
    const [type, media] = Object.entries((resolve(body).content) || {})[0] || [];
    if (!type)
        return null;
    const given = Object.values(media.examples || {}).map((one) => resolve(one).value)[0];
    return { type, schema: media.schema || {}, example: media.example !== undefined ? media.example : given };
}

function parametersView(operation) {
    const parameters = (operation.parameters || []).map(resolve);
    if (!parameters.length)
        return [];
    return [
        make('h3', {}, 'Parameters'),
        table(['Name', 'In', 'Type', 'Meaning'], parameters.map((parameter) => make('tr', {},
            make('td', {}, make('span', { class: parameter.required ? 'required' : null }, parameter.name)),
            make('td', {}, parameter.in),
            make('td', {}, typeName(parameter.schema || {})),
            make('td', {}, inWords(parameter.description || merged(parameter.schema || {}).description, limits(parameter.schema || {})))))),
    ];
}

function bodyView(operation) {
    const content = contentOf(operation.requestBody);
    if (!content)
        return [];
    return [
        make('h3', {}, 'Body ', make('span', { class: 'badge' }, content.type)),
        schemaView(content.schema),
    ];
}

function responsesView(operation) {
    return [
        make('h3', {}, 'Replies'),
        ...Object.entries(operation.responses || {}).map(([status, reply]) => {
            reply = resolve(reply);
            const content = contentOf(reply);
            return make('details', { class: 'more' },
                make('summary', {}, make('code', {}, status), ' ', reply.description || ''),
                content ? schemaView(content.schema) : make('p', { class: 'quiet' }, 'No body.'),
                content && content.example !== undefined ? make('pre', {}, pretty(content.example)) : null);
        }),
    ];
}

/* The call that a filled form describes: address and options of fetch. */
function callOf(form, method, path, operation) {
    const query = new URLSearchParams();
    const headers = { Accept: 'application/json' };
    let address = path;
    for (const field of form.querySelectorAll('[data-in]')) {
        const name = field.dataset.name;
        if (field.dataset.in === 'path')
            address = address.replace(`{${name}}`, encodeURIComponent(field.value));
        else if (field.value !== '' && field.dataset.in === 'query')
            query.append(name, field.value);
        else if (field.value !== '' && field.dataset.in === 'header')
            headers[name] = field.value;
    }
    const options = { method: method.toUpperCase(), headers, credentials: 'same-origin', redirect: 'manual' };
    const token = byId('token').value.trim();
    if (token)
        headers.Authorization = `Bearer ${token}`;
    const body = form.querySelector('[data-body]');
    if (body && body.type === 'file' && body.files.length) {
        options.body = body.files[0];
        headers['Content-Type'] = body.files[0].type || contentOf(operation.requestBody).type;
    } else if (body && body.type !== 'file' && body.value.trim() !== '') {
        options.body = body.value;
        headers['Content-Type'] = contentOf(operation.requestBody).type;
    }
    const rest = query.toString();
    return [rest ? `${address}?${rest}` : address, options];
}

/* Offers to keep the access token of a reply for the next calls. */
function tokenOffer(value) {
    const token = value && value.data && value.data.accessToken;
    if (!token)
        return null;
    return make('button', {
        type: 'button',
        onclick: (event) => {
            byId('token').value = token;
            event.target.replaceWith(make('span', { role: 'status' }, 'Used from now on.'));
        },
    }, 'Use this access token');
}

/* Sends the form's call and shows what came back. */
async function send(form, answer, ...call) {
    const [address, options] = callOf(form, ...call);
    const started = performance.now();
    answer.replaceChildren(make('p', { class: 'quiet' }, 'Sent …'));
    try {
        const reply = await fetch(address, options);
        const text = await reply.text();
        const took = Math.round(performance.now() - started);
        let value = null;
        try {
            value = JSON.parse(text);
        } catch (fault) {
            /* not JSON: shown as it is */
        }
        answer.replaceChildren(
            make('p', {}, make('strong', {}, `${reply.status} ${reply.statusText}`), ` in ${took} ms · `,
                make('code', {}, `${options.method} ${address}`)),
            make('pre', { tabindex: '0', 'aria-label': 'Body of the reply' }, value === null ? text : pretty(value)),
            ...[tokenOffer(value)].filter(Boolean),
            make('details', { class: 'more' }, make('summary', {}, 'Headers'),
                make('pre', {}, [...reply.headers].map(([name, content]) => `${name}: ${content}`).join('\n'))));
    } catch (fault) {
        answer.replaceChildren(make('p', { class: 'fault' }, `The call failed: ${fault.message}`));
    }
}

/* A field for one parameter. */
function parameterField(parameter) {
    const schema = merged(parameter.schema || {});
    const shared = { 'data-in': parameter.in, 'data-name': parameter.name, required: parameter.in === 'path' };
    const values = schema.enum || (schema.type === 'boolean' ? [true, false] : null);
    const field = values
        ? make('select', shared, make('option', { value: '' }, ''), values.map((value) => make('option', { value: String(value) }, String(value))))
        : make('input', { ...shared, type: 'text', autocomplete: 'off', spellcheck: 'false',
            placeholder: schema.default !== undefined ? String(schema.default) : typeName(schema) });
    return make('label', {}, make('span', { class: parameter.required ? 'required' : null }, `${parameter.name} (${parameter.in})`), field);
}

function bodyField(operation) {
    const content = contentOf(operation.requestBody);
    if (!content)
        return null;
    if (!/json/.test(content.type))
        return make('label', {}, `Body (${content.type})`, make('input', { type: 'file', 'data-body': true }));
    const area = make('textarea', { 'data-body': true, spellcheck: 'false' });
    area.value = pretty(content.example !== undefined ? content.example : sample(content.schema));
    return make('label', {}, `Body (${content.type})`, area);
}

function tryForm(method, path, operation) {
    const answer = make('div', { class: 'answer', 'aria-live': 'polite' });
    const form = make('form', {
        class: 'try',
        onsubmit: (event) => {
            event.preventDefault();
            send(form, answer, method, path, operation);
        },
    },
    make('h3', {}, 'Try it'),
    make('div', { class: 'fields' }, (operation.parameters || []).map(resolve).map(parameterField)),
    bodyField(operation),
    make('p', {}, make('button', { type: 'submit', class: 'send' }, 'Send')),
    answer);
    return form;
}

function needsCaller(operation) {
    const ways = operation.security === undefined ? specification.security || [] : operation.security;
    return ways.length > 0 && ways.every((way) => Object.keys(way).length > 0);
}

/* The inside of an operation is made when it is first opened: a page of hundreds stays quick. */
function operationView(method, path, operation) {
    const inside = make('div', {});
    const fill = () => {
        if (inside.childElementCount)
            return;
        inside.append(
            ...(operation.description || '').split('\n\n').filter(Boolean).map((text) => make('p', {}, text)),
            ...parametersView(operation), ...bodyView(operation), ...responsesView(operation), tryForm(method, path, operation));
    };
    return make('details', {
        class: `operation ${operation.deprecated ? 'deprecated' : ''}`,
        id: operation.operationId,
        'data-words': [method, path, operation.operationId, operation.summary, operation.description,
            ...(operation.tags || [])].join(' ').toLowerCase(),
        ontoggle: fill,
    },
    make('summary', {},
        make('span', { class: `method ${method}` }, method.toUpperCase()),
        make('span', { class: 'path' }, path),
        make('span', {}, operation.summary || ''),
        needsCaller(operation) ? make('span', { class: 'badge' }, 'signed in') : null,
        operation.deprecated ? make('span', { class: 'badge' }, 'deprecated') : null),
    inside);
}

/* Where a tag stands: signing in and the user first, the product's own, then what administrators and machines use. */
const FIRST = ['auth', 'user', 'users'];
const LAST = ['admin', 'audit', 'cron', 'dev', 'health', 'openapi.json', '.well-known'];

function rank(tag) {
    return FIRST.includes(tag) ? FIRST.indexOf(tag) - FIRST.length : LAST.indexOf(tag) + 1;
}

/* All operations as [tag, method, path, operation], by tag and path: the description's own order is no order. */
function operationsOf() {
    return Object.entries(specification.paths || {}).flatMap(([path, item]) => METHODS
        .filter((method) => item[method])
        .map((method) => [(item[method].tags || ['other'])[0], method, path,
            { ...item[method], parameters: [...(item.parameters || []), ...(item[method].parameters || [])] }]))
        .sort(([tagA, , pathA], [tagB, , pathB]) =>
            rank(tagA) - rank(tagB) || tagA.localeCompare(tagB) || pathA.localeCompare(pathB));
}

function contentsEntry(method, path, operation) {
    return make('li', { 'data-for': operation.operationId },
        make('a', { href: `#${operation.operationId}`, title: operation.summary },
            make('span', { class: `method ${method}` }, method.toUpperCase()),
            make('span', {}, path)));
}

function show() {
    const operations = operationsOf();
    const about = new Map((specification.tags || []).map((tag) => [tag.name, tag.description]));
    document.title = specification.info.title;
    byId('title').textContent = `${specification.info.title} ${specification.info.version}`;
    byId('about').replaceChildren(specification.info.description || '', ' ',
        make('a', { href: SPECIFICATION }, 'The description as JSON'));
    for (const tag of new Set(operations.map(([name]) => name))) {
        const mine = operations.filter(([name]) => name === tag);
        byId('operations').append(make('section', { 'data-tag': tag },
            make('h2', {}, tag),
            about.get(tag) ? make('p', { class: 'quiet' }, about.get(tag)) : null,
            mine.map(([, method, path, operation]) => operationView(method, path, operation))));
        byId('contents').append(make('section', { 'data-tag': tag },
            make('h2', {}, tag),
            make('ul', {}, mine.map(([, method, path, operation]) => contentsEntry(method, path, operation)))));
    }
    filter();
    openNamed();
}

/* Shows the operations that hold every word of the search. */
function filter() {
    const words = byId('search').value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = [...document.querySelectorAll('details.operation')];
    let shown = 0;
    for (const view of all) {
        view.hidden = !words.every((word) => view.dataset.words.includes(word));
        shown += view.hidden ? 0 : 1;
        document.querySelector(`li[data-for="${CSS.escape(view.id)}"]`).hidden = view.hidden;
    }
    for (const section of document.querySelectorAll('main section, nav section'))
        section.hidden = !section.querySelector('details.operation:not([hidden]), li:not([hidden])');
    byId('status').textContent = words.length ? `${shown} of ${all.length} operations` : `${all.length} operations`;
}

/* Opens the operation that the address names. */
function openNamed() {
    const view = location.hash.length > 1 ? byId(decodeURIComponent(location.hash.slice(1))) : null;
    if (!view || view.tagName !== 'DETAILS')
        return;
    view.open = true;
    view.querySelector('summary').focus();
    view.scrollIntoView();
}

function connect() {
    byId('tools').addEventListener('submit', (event) => event.preventDefault());
    byId('search').addEventListener('input', filter);
    byId('token-clear').addEventListener('click', () => {
        byId('token').value = '';
    });
    byId('token-show').addEventListener('click', (event) => {
        const shown = byId('token').type === 'password';
        byId('token').type = shown ? 'text' : 'password';
        event.target.textContent = shown ? 'Hide' : 'Show';
        event.target.setAttribute('aria-pressed', String(shown));
    });
    byId('open-all').addEventListener('click', (event) => {
        const open = event.target.textContent === 'Open all';
        document.querySelectorAll('details.operation').forEach((view) => {
            view.open = open;
        });
        event.target.textContent = open ? 'Close all' : 'Open all';
    });
    window.addEventListener('hashchange', openNamed);
    document.addEventListener('keydown', (event) => {
        if (event.key === '/' && !/INPUT|TEXTAREA|SELECT/.test(document.activeElement.tagName)) {
            event.preventDefault();
            byId('search').focus();
        }
    });
}

async function start() {
    connect();
    try {
        const reply = await fetch(SPECIFICATION, { headers: { Accept: 'application/json' } });
        if (!reply.ok)
            throw new Error(`${SPECIFICATION} answered ${reply.status}`);
        specification = await reply.json();
        show();
    } catch (fault) {
        byId('status').replaceChildren(make('span', { class: 'fault' }, `The description could not be read: ${fault.message}`));
    }
}

start();
