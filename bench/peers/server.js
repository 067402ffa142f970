// A peer that serves HTTP: as many processes as it is told, sharing one port, as node's cluster does it.
//
//   PORT=… PROCESSES=2 POOL=4 SECRET=… PGHOST=… node server.js express
'use strict';

const cluster = require('node:cluster');

if (cluster.isPrimary && process.env.PROCESSES > 1) {
    for (let n = 0; n < process.env.PROCESSES; n++) cluster.fork();
    cluster.on('exit', () => process.exit(1));
} else {
    require(`./http/${process.argv[2]}.js`)({
        port: Number(process.env.PORT),
        secret: process.env.SECRET,
        pool: { max: Number(process.env.POOL), application_name: `peer ${process.argv[2]}` },
    });
}
