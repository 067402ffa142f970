// A mail server: npm's smtp-server, with STARTTLS and login, or TLS from the start; and one that misbehaves.
//
//   node mail_server.js <folder> <key.pem> <cert.pem> <password>
//
// Writes its ports to <folder>/ports as JSON, and a line of JSON for each mail to <folder>/mails, before it answers 250.
// What a recipient's name begins with says what becomes of the mail:
//   reject    550 5.1.1 to RCPT          defer-<n>   451 to the first n tries
//   refuse    554 after the text         slow-<ms>   250 after so long
// Ports: starttls, implicit, plain (no TLS, no login), bad. What is wrong with "bad" stands in <folder>/fault:
//   hang (says nothing), garbage (speaks something else), greeting (554), drop (closes after the text), sender (550 to MAIL)
'use strict';
const fs = require('fs');
const net = require('net');
const path = require('path');
const { SMTPServer } = require('smtp-server');

const [folder, key, cert, password] = process.argv.slice(2);
const log = fs.openSync(path.join(folder, 'mails'), 'a');
const tries = new Map();
let connections = 0;

function failure(code, text) {
	return Object.assign(new Error(text), { responseCode: code });
}

function recipient(address, session, done) {
	const [what, count] = address.address.split('@')[0].split('-');
	const seen = tries.get(address.address) || 0;
	tries.set(address.address, seen + 1);
	if (what === 'reject')
		return done(failure(550, '5.1.1 no such mailbox'));
	if (what === 'defer' && seen < Number(count))
		return done(failure(451, '4.7.1 come back later'));
	return done();
}

function text(stream, session, done) {
	const parts = [];
	stream.on('data', (part) => parts.push(part));
	stream.on('end', () => {
		const to = session.envelope.rcptTo.map((rcpt) => rcpt.address);
		const [what, time] = to[0].split('@')[0].split('-');
		if (what === 'refuse')
			return done(failure(554, '5.7.1 not in these words'));
		fs.writeSync(log, JSON.stringify({
			at: Date.now(), from: session.envelope.mailFrom.address, to, user: session.user || null, secure: session.secure,
			name: session.hostNameAppearsAs, session: session.id, data: Buffer.concat(parts).toString('utf8')
		}) + '\n');
		return what === 'slow' ? setTimeout(done, Number(time)) : done();
	});
}

function server(options) {
	return new SMTPServer({
		key: fs.readFileSync(key), cert: fs.readFileSync(cert), banner: 'test', disableReverseLookup: true, logger: false,
		onConnect: (session, done) => { connections += 1; fs.writeFileSync(path.join(folder, 'connections'), String(connections)); done(); },
		onAuth: (auth, session, done) => auth.username === 'keelson' && auth.password === password
			? done(null, { user: auth.username }) : done(failure(535, '5.7.8 wrong name or password')),
		onRcptTo: recipient, onData: text, ...options
	}).on('error', () => undefined);
}

// Enough SMTP to misbehave in.
function misbehave(socket) {
	const fault = fs.readFileSync(path.join(folder, 'fault'), 'utf8').trim();
	let inText = false;
	let rest = '';
	socket.on('error', () => undefined);
	if (fault === 'hang')
		return undefined;
	if (fault === 'garbage')
		return socket.end('\0\xff this is no mail server\r\n\r\n2');
	if (fault === 'greeting')
		return socket.end('554 5.3.2 not today\r\n');
	socket.write('220 bad ESMTP\r\n');
	return socket.on('data', (data) => {
		rest += data.toString('latin1');
		for (let end = rest.indexOf('\r\n'); end >= 0; end = rest.indexOf('\r\n')) {
			const line = rest.slice(0, end);
			rest = rest.slice(end + 2);
			if (inText) {
				if (line === '.') {
					fs.writeSync(log, JSON.stringify({ at: Date.now(), dropped: true }) + '\n');
					return socket.destroy();
				}
			} else if (line === 'DATA') {
				inText = true;
				socket.write('354 go on\r\n');
			} else if (fault === 'sender' && line.startsWith('MAIL')) {
				socket.write('550 5.7.1 you may not send\r\n');
			} else {
				socket.write('250 fine\r\n');
			}
		}
		return undefined;
	});
}

const servers = {
	starttls: server({}),
	implicit: server({ secure: true }),
	plain: server({ disabledCommands: ['STARTTLS', 'AUTH'], authOptional: true }),
	bad: net.createServer(misbehave)
};
const ports = {};
for (const [name, each] of Object.entries(servers)) {
	const listening = each.listen(0, '127.0.0.1', () => {
		ports[name] = (listening || each).address ? (listening || each).address().port : each.server.address().port;
		if (Object.keys(ports).length === Object.keys(servers).length) {
			fs.writeFileSync(path.join(folder, 'ports.new'), JSON.stringify(ports));
			fs.renameSync(path.join(folder, 'ports.new'), path.join(folder, 'ports'));
		}
	});
}
