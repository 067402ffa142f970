/*
 * lint.js FILE: checks an OpenAPI description with Redocly's linter: the structure of OpenAPI 3.1, references,
 * parameters of paths, unique operation ids, and every example against its schema. Prints what is wrong, one
 * problem a line; ends with status 1 if there is any.
 */
'use strict';

const { createConfig, lintFromString } = require('@redocly/openapi-core');
const { readFileSync } = require('fs');

const rules = {
    struct: 'error',
    'no-unresolved-refs': 'error',
    'spec-strict-refs': 'error',
    'no-identical-paths': 'error',
    'no-ambiguous-paths': 'off',
    'path-declaration-must-exist': 'error',
    'path-not-include-query': 'error',
    'path-parameters-defined': 'error',
    'path-params-defined': 'off',
    'operation-description': 'off',
    'operation-summary': 'error',
    'operation-operationId': 'error',
    'operation-operationId-unique': 'error',
    'operation-operationId-url-safe': 'error',
    'operation-parameters-unique': 'error',
    'operation-2xx-response': 'error',
    'operation-tag-defined': 'error',
    'security-defined': 'error',
    'no-enum-type-mismatch': 'error',
    'no-required-schema-properties-undefined': 'error',
    'no-schema-type-mismatch': 'error',
    'no-invalid-schema-examples': 'error',
    'no-invalid-parameter-examples': 'error',
    'no-invalid-media-type-examples': 'error',
    'no-unused-components': 'off',
    'no-empty-servers': 'error',
    'tags-alphabetical': 'error',
    'info-license': 'error',
};

async function main() {
    const source = readFileSync(process.argv[2], 'utf8');
    const known = new Set(Object.keys(require('@redocly/openapi-core/lib/rules/oas3').rules));
    const config = await createConfig({
        rules: Object.fromEntries(Object.entries(rules).filter(([name]) => known.has(name))),
    });
    const problems = await lintFromString({ source, absoluteRef: process.argv[2], config });
    for (const problem of problems)
        console.log(`${problem.ruleId} at ${(problem.location[0] || {}).pointer}: ${problem.message.replace(/\s+/g, ' ')}`);
    process.exit(problems.length ? 1 : 0);
}

main();
