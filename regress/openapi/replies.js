/*
 * replies.js: holds replies against an OpenAPI description. check({method, path (as in the description), status, type,
 * body}) returns what does not fit, one sentence each.
 */
'use strict';

const Ajv = require('ajv/dist/2020').default;

/* The formats that are used, so that they are checked and not passed over. */
const formats = {
    uuid: /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
    'date-time': /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/,
    date: /^\d{4}-\d\d-\d\d$/,
    'uri-reference': /^\S*$/,
};

class Replies {
    constructor(description) {
        this.description = description;
        this.ajv = new Ajv({ strict: false, allErrors: true, validateFormats: true });
        for (const [name, pattern] of Object.entries(formats))
            this.ajv.addFormat(name, pattern);
        for (const name of ['int32', 'int64', 'float', 'double'])
            this.ajv.addFormat(name, { type: 'number', validate: () => true });
        this.ajv.addSchema({ $id: 'api', ...description });
    }

    /* The place of a reply's schema in the description, true where any body will do, null where it is not described. */
    placeOf({ method, path, status, type }) {
        const operation = ((this.description.paths[path] || {})[method.toLowerCase()] || {}).responses || {};
        const key = operation[status] ? status : `${String(status)[0]}XX`;
        const reply = operation[key];
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
        return `api#/${['paths', path, method.toLowerCase(), 'responses', key, 'content', base, 'schema'].map(escape).join('/')}`;
    }

    check(reply) {
        const name = `${reply.method} ${reply.path} ${reply.status} ${reply.type}`;
        const place = this.placeOf(reply);
        if (place === null)
            return [`${name}: not described`];
        if (place === true)
            return [];
        const validate = this.ajv.getSchema(place);
        if (!validate)
            return [`${name}: no schema at ${place}`];
        return validate(reply.body) ? [] : validate.errors.map((fault) => `${name}: ${fault.instancePath} ${fault.message} ${JSON.stringify(fault.params)}`);
    }
}

module.exports = { Replies };
