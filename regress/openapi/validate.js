/*
 * validate.js FILE: holds replies against an OpenAPI description. Standard input has one reply a line, as JSON:
 * {"method", "path" (as in the description), "status", "type", "body"}. Prints what does not fit, one a line.
 */
'use strict';

const { readFileSync } = require('fs');
const { createInterface } = require('readline');

const { Replies } = require('./replies');

const replies = new Replies(JSON.parse(readFileSync(process.argv[2], 'utf8')));
let faults = 0;
createInterface({ input: process.stdin }).on('line', (line) => {
    for (const fault of replies.check(JSON.parse(line))) {
        faults++;
        console.log(fault);
    }
}).on('close', () => process.exit(faults ? 1 : 0));
