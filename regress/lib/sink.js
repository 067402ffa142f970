// A receiver that misbehaves as it is told by the path of each request.
//
//   node sink.js <folder> [<key.pem> <cert.pem>]
//
// Writes its port ($SINK_PORT, else any) to <folder>/port and a line of JSON for each request to <folder>/requests, before it answers: also how
// many of that path are being answered then (this one included). With a key it speaks HTTP/2 too.
//
//   /status/<n>          answers with that status          /drip           a byte now and then, for ever
//   /retry-after/<n>/<s> that status and Retry-After: s    /huge           a megabyte of body
//   /redirect?to=<url>   302                               /reset          closes without an answer
//   /hang                never answers                     /partial        closes within the body
//   /slow/<ms>           200 after so long                 /garbage        not HTTP at all
//   /fail/<key>/<n>      500 for the first n requests of the key, then 200
//   /switch/<file>       the status that stands in <folder>/<file>, perhaps with milliseconds to wait before
//   /as/<file>           what the path that stands in <folder>/<file> would answer
//   /file/<file>         <folder>/<file>, with the header fields in <file>.headers if that is there
'use strict';
const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const path = require('path');

const [folder, key, cert] = process.argv.slice(2);
const log = fs.openSync(path.join(folder, 'requests'), 'a');
const failures = new Map();
const answering = new Map();

function answer(request, response, body, target = request.url) {
	const url = new URL(target, 'http://sink');
	const [, what, first, second] = url.pathname.split('/');
	const socket = request.socket;
	switch (what) {
	case 'status':
		response.writeHead(Number(first), { 'content-type': 'text/plain' });
		return response.end(`status ${first}`);
	case 'retry-after':
		response.writeHead(Number(first), { 'retry-after': decodeURIComponent(second) });
		return response.end();
	case 'redirect':
		response.writeHead(302, { location: url.searchParams.get('to') });
		return response.end();
	case 'hang':
		return undefined;
	case 'slow':
		return setTimeout(() => response.end('late'), Number(first));
	case 'drip': {
		response.writeHead(200);
		const timer = setInterval(() => response.write('.'), 200);
		return socket.on('close', () => clearInterval(timer));
	}
	case 'huge':
		response.writeHead(200);
		return response.end(Buffer.alloc(1 << 20, 'x'));
	case 'reset':
		return socket.resetAndDestroy && !socket.encrypted ? socket.resetAndDestroy() : socket.destroy();
	case 'partial':
		response.writeHead(200, { 'content-length': 1000 });
		response.write('some');
		return setTimeout(() => socket.destroy(), 20);
	case 'garbage':
		return socket.end('\0\xff this is not HTTP\r\n\r\n');
	case 'binary':
		response.writeHead(200);
		return response.end(Buffer.from([0, 0xff, 0xfe, 0x41, 0xc3, 0xa9]));
	case 'fail': {
		const seen = failures.get(first) || 0;
		failures.set(first, seen + 1);
		response.writeHead(seen < Number(second) ? 500 : 200);
		return response.end();
	}
	case 'switch': {
		const [status, wait] = fs.readFileSync(path.join(folder, first), 'utf8').split(' ').map(Number);
		response.writeHead(status);
		return setTimeout(() => response.end(), wait || 0);
	}
	case 'as':
		return answer(request, response, body, fs.readFileSync(path.join(folder, first), 'utf8').trim());
	case 'file': {
		const fields = path.join(folder, `${first}.headers`);
		response.writeHead(200, {
			'content-type': 'application/json', ...(fs.existsSync(fields) ? JSON.parse(fs.readFileSync(fields, 'utf8')) : {})
		});
		return response.end(fs.readFileSync(path.join(folder, first)));
	}
	default:
		response.writeHead(200, { 'content-type': 'application/json', 'cache-control': 'max-age=600' });
		return response.end(JSON.stringify({ ok: true, echo: body.length }));
	}
}

function receive(request, response) {
	const parts = [];
	const at = Date.now();
	answering.set(request.url, (answering.get(request.url) || 0) + 1);
	response.on('close', () => answering.set(request.url, answering.get(request.url) - 1));
	request.on('data', (part) => parts.push(part));
	request.on('end', () => {
		const body = Buffer.concat(parts);
		fs.writeSync(log, JSON.stringify({
			at, method: request.method, path: request.url, headers: request.headers, body: body.toString('utf8'),
			client: request.socket.remotePort, version: request.httpVersion, answering: answering.get(request.url)
		}) + '\n');
		try {
			answer(request, response, body);
		} catch {
			// The path names a file that is not there.
			response.writeHead(404);
			response.end();
		}
	});
}

const server = key === undefined ? http.createServer(receive)
	: http2.createSecureServer({ key: fs.readFileSync(key), cert: fs.readFileSync(cert), allowHTTP1: true }, receive);
server.keepAliveTimeout = 60000;
server.listen(Number(process.env.SINK_PORT || 0), '127.0.0.1', 1024, () => {
	fs.writeFileSync(path.join(folder, 'port.new'), String(server.address().port));
	fs.renameSync(path.join(folder, 'port.new'), path.join(folder, 'port'));
});
