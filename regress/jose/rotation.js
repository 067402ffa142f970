/*
 * rotation.js ISSUER AUDIENCE COUNT: so many keys of an issuer that rotates them, with a token that each has signed. Prints
 * an array of {jwk, token}.
 */
'use strict';

const jose = require('jose');

const [issuer, audience, count] = process.argv.slice(2);

async function make(number) {
    const pair = await jose.generateKeyPair('ES256', { extractable: true });
    const token = await new jose.SignJWT({ email: 'grace@issuer.example', email_verified: true })
        .setProtectedHeader({ alg: 'ES256', kid: `key-${number}`, typ: 'JWT' })
        .setIssuer(issuer).setAudience(audience).setSubject('subject-1').setIssuedAt().setExpirationTime('1h')
        .sign(pair.privateKey);
    return { jwk: { ...(await jose.exportJWK(pair.publicKey)), kid: `key-${number}`, alg: 'ES256', use: 'sig' }, token };
}

async function main() {
    const keys = [];
    for (let number = 1; number <= Number(count); number++)
        keys.push(await make(number));
    process.stdout.write(JSON.stringify(keys));
}

main();
