/*
 * tokens.js ISSUER AUDIENCE: keys and tokens of an external issuer, made by the library jose, and such as no library makes,
 * put together by hand. Prints an object: jwks, other (a second set, of other keys), pem (by algorithm), good, expired and
 * bad (tokens by name).
 */
'use strict';

const crypto = require('crypto');
const jose = require('jose');

const [issuer, audience] = process.argv.slice(2);
const algorithms = ['RS256', 'PS256', 'ES256', 'EdDSA'];
const now = Math.floor(Date.now() / 1000);
const claims = {
    iss: issuer, aud: audience, sub: 'subject-1', iat: now, exp: now + 3600,
    email: 'grace@issuer.example', email_verified: true, name: 'Grace Hopper',
};

const encode = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');

/* A token of any header and payload (objects, or texts as they are), signed with RS256. */
function byHand(key, header, payload) {
    const text = `${encode(header)}.${encode(payload)}`;
    return `${text}.${crypto.sign('sha256', Buffer.from(text), key).toString('base64url')}`;
}

/* The last character's unused bits set: another text of the same bytes. */
function reencoded(token) {
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    return token.slice(0, -1) + alphabet[alphabet.indexOf(token.slice(-1)) | 1];
}

async function main() {
    const keys = {};
    const jwks = { keys: [] };
    const other = { keys: [] };
    const pem = {};
    for (const alg of algorithms) {
        keys[alg] = await jose.generateKeyPair(alg, { modulusLength: 2048, extractable: true });
        const publish = { ...(await jose.exportJWK(keys[alg].publicKey)), kid: alg, alg, use: 'sig' };
        jwks.keys.push(publish);
        pem[alg] = await jose.exportSPKI(keys[alg].publicKey);
    }
    const stranger = await jose.generateKeyPair('RS256', { modulusLength: 2048, extractable: true });
    other.keys.push({ ...(await jose.exportJWK(stranger.publicKey)), kid: 'other', alg: 'RS256' });

    const sign = (alg, payload, header = {}, key = keys[alg].privateKey) =>
        new jose.SignJWT(payload).setProtectedHeader({ alg, kid: alg, typ: 'JWT', ...header }).sign(key);
    const rsa = keys.RS256.privateKey;
    const head = { alg: 'RS256', kid: 'RS256', typ: 'JWT' };
    const good = {};
    const bad = {};
    for (const alg of algorithms) {
        good[alg] = await sign(alg, claims);
        const [header, payload, signature] = good[alg].split('.');
        bad[`${alg}: cut`] = good[alg].slice(0, -1);
        bad[`${alg}: cut to half`] = good[alg].slice(0, good[alg].length / 2);
        bad[`${alg}: padded`] = `${good[alg]}=`;
        bad[`${alg}: a fourth part`] = `${good[alg]}.x`;
        bad[`${alg}: no signature`] = `${header}.${payload}.`;
        bad[`${alg}: another payload`] = `${header}.${encode({ ...claims, sub: 'somebody else' })}.${signature}`;
        bad[`${alg}: another key`] = await sign('RS256', claims, { kid: alg }, stranger.privateKey);
        bad[`${alg}: kid of another algorithm`] = await sign(alg, claims, { kid: algorithms[(algorithms.indexOf(alg) + 1) % 4] });
        bad[`${alg}: unknown kid`] = await sign(alg, claims, { kid: 'unknown' });
    }
    good['no typ'] = await sign('ES256', claims, { typ: undefined });
    good['at+jwt'] = await sign('ES256', claims, { typ: 'application/at+JWT' });
    good['no kid'] = await sign('ES256', claims, { kid: undefined });
    good['several audiences'] = await sign('ES256', { ...claims, aud: ['https://elsewhere.example', audience] });
    good['clocks differ a little'] = await sign('ES256', { ...claims, iat: now + 20, nbf: now + 20 });
    good['just expired'] = await sign('ES256', { ...claims, exp: now - 5 });

    const hmac = (secret) => {
        const text = `${encode({ alg: 'HS256', kid: 'RS256', typ: 'JWT' })}.${encode(claims)}`;
        return `${text}.${crypto.createHmac('sha256', secret).update(text).digest('base64url')}`;
    };
    bad['HS256 with the public key'] = hmac(pem.RS256);
    bad['HS256 with the modulus'] = hmac(Buffer.from(jwks.keys[0].n, 'base64url'));
    bad['alg none'] = `${encode({ alg: 'none', typ: 'JWT' })}.${encode(claims)}.`;
    bad['alg None, signed'] = byHand(rsa, { ...head, alg: 'None' }, claims);
    bad['no alg'] = byHand(rsa, { kid: 'RS256', typ: 'JWT' }, claims);
    bad['RS256 called PS256'] = byHand(rsa, { ...head, alg: 'PS256' }, claims);
    bad['RS512'] = await sign('RS512', claims, { kid: 'RS256' }, await jose.importPKCS8(await jose.exportPKCS8(rsa), 'RS512'));
    const embedded = await jose.exportJWK(stranger.publicKey);
    bad['its own jwk'] = byHand(stranger.privateKey, { alg: 'RS256', typ: 'JWT', jwk: embedded }, claims);
    for (const [name, value] of Object.entries({ jku: 'https://evil.example/jwks', x5u: 'https://evil.example/x', x5c: ['AA=='], crit: ['exp'], b64: false }))
        bad[`header ${name}`] = byHand(rsa, { ...head, [name]: value }, claims);
    bad['header names alg twice'] = byHand(rsa, '{"alg":"none","alg":"RS256","kid":"RS256","typ":"JWT"}', claims);
    bad['payload names sub twice'] = byHand(rsa, head, JSON.stringify(claims).replace('{', '{"sub":"admin",'));
    bad['payload is an array'] = byHand(rsa, head, [claims]);
    bad['payload is no JSON'] = byHand(rsa, head, 'hello');
    bad['payload is empty'] = byHand(rsa, head, '');
    bad['payload is not UTF-8'] = byHand(rsa, head, JSON.stringify(claims)).replace(/\.[^.]+\./, `.${Buffer.from([0x7b, 0xff, 0x7d]).toString('base64url')}.`);
    bad['payload has U+0000'] = byHand(rsa, head, JSON.stringify({ ...claims, name: '\u0000' }));
    bad['17 levels'] = byHand(rsa, head, { ...claims, deep: JSON.parse('['.repeat(16) + ']'.repeat(16)) });
    bad['over 8 KiB'] = byHand(rsa, head, { ...claims, long: 'x'.repeat(8192) });
    bad['re-encoded'] = reencoded(good.RS256);
    bad['base64, not base64url'] = byHand(rsa, head, { ...claims, name: '???>>>???' }).replace(/-/g, '+').replace(/_/g, '/');
    bad['a blank inside'] = good.RS256.replace('.', '. ');

    for (const typ of ['logout+jwt', 'secevent+jwt', 'dpop+jwt', 'JWE', ''])
        bad[`typ "${typ}"`] = await sign('ES256', claims, { typ });
    bad['not yet valid'] = await sign('ES256', { ...claims, nbf: now + 120 });
    bad['issued in the future'] = await sign('ES256', { ...claims, iat: now + 120 });
    bad['no exp'] = await sign('ES256', { ...claims, exp: undefined });
    bad['exp is text'] = byHand(rsa, head, { ...claims, exp: String(now + 3600) });
    bad['exp is vast'] = byHand(rsa, head, JSON.stringify(claims).replace(String(now + 3600), '1e400'));
    bad['no sub'] = await sign('ES256', { ...claims, sub: undefined });
    bad['empty sub'] = await sign('ES256', { ...claims, sub: '' });
    bad['sub is a number'] = byHand(rsa, head, { ...claims, sub: 1 });
    bad['sub is too long'] = await sign('ES256', { ...claims, sub: 'x'.repeat(256) });
    bad['no iss'] = await sign('ES256', { ...claims, iss: undefined });
    bad['another iss'] = await sign('ES256', { ...claims, iss: 'https://elsewhere.example' });
    bad['iss with a slash'] = await sign('ES256', { ...claims, iss: `${issuer}/` });
    bad['iss is an array'] = byHand(rsa, head, { ...claims, iss: [issuer] });
    bad['no aud'] = await sign('ES256', { ...claims, aud: undefined });
    bad['another aud'] = await sign('ES256', { ...claims, aud: 'https://elsewhere.example' });
    bad['aud begins alike'] = await sign('ES256', { ...claims, aud: `${audience}x` });
    bad['aud has a number'] = byHand(rsa, head, { ...claims, aud: [audience, 1] });

    const expired = { RS256: await sign('RS256', { ...claims, exp: now - 60 }), ES256: await sign('ES256', { ...claims, exp: 1 }) };
    const people = {
        parallel: { sub: 'parallel', email: 'parallel@issuer.example' },
        blocked: { sub: 'blocked', email: 'blocked@issuer.example' },
        service: { sub: 'service', email: undefined, name: undefined },
        unverified: { sub: 'unverified', email: 'unverified@issuer.example', email_verified: false },
        'verified in words': { sub: 'words', email: 'words@issuer.example', email_verified: 'true' },
        taken: { sub: 'taken', email: 'Ada@Example.com' },
        strange: { sub: 'strange', email: 'no address', name: 'a\nb' },
    };
    const tokens = {};
    for (const [name, more] of Object.entries(people))
        tokens[name] = await sign('ES256', { ...claims, ...more });
    tokens.other = await sign('RS256', claims, { kid: 'other' }, stranger.privateKey);
    process.stdout.write(JSON.stringify({ jwks, other, pem, good, bad, expired, people: tokens }));
}

main();
