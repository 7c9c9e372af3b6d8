// A client or a server that talks TLS with the module tls of Node.js.
//
// Its one argument is a JSON object; it prints a JSON object for each connection.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const tls = require('tls');

const given = JSON.parse(process.argv[2]);
const say = (facts) => console.log(JSON.stringify(facts));
const options = { minVersion: given.version, maxVersion: given.version };
if (given.certificate) {
  options.cert = fs.readFileSync(given.certificate);
  options.key = fs.readFileSync(given.key);
}
if (given.authorities) {
  options.ca = fs.readFileSync(given.authorities);
}

const facts = (socket) => ({ version: socket.getProtocol(), resumed: socket.isSessionReused() });

// A client asks for a page, as often as it is to, with the session of the time before.
function ask(session, times) {
  let answer = '';
  let next = session;
  const socket = tls.connect(
    { ...options, host: '127.0.0.1', port: given.port, servername: 'localhost', session },
    () => socket.write('GET / HTTP/1.0\r\n\r\n'),
  );
  let known;
  socket.on('secureConnect', () => { known = facts(socket); });
  socket.on('session', (each) => { next = each; });
  socket.on('data', (data) => { answer += data; });
  socket.on('close', () => {
    say({ ...known, answer });
    if (times > 1) {
      ask(next, times - 1);
    }
  });
}

function serve(talk) {
  const server = tls.createServer(
    { ...options, requestCert: Boolean(given.authorities), rejectUnauthorized: true },
    talk,
  );
  server.listen(0, '127.0.0.1', () => say({ port: server.address().port }));
  return server;
}

// Sends the bytes of a file and reads what comes, both at once, until the peer closes.
function exchange(socket) {
  const known = facts(socket);
  const digest = crypto.createHash('sha256');
  socket.on('data', (data) => digest.update(data));
  socket.on('end', () => {
    say({ ...known, digest: digest.digest('hex'), unsent: 0 });
    socket.end();
  });
  fs.createReadStream(given.file).pipe(socket, { end: false });
}

if (given.act === 'ask') {
  ask(undefined, given.connections);
} else if (given.act === 'answer') {
  serve((socket) => socket.once('data', () => socket.end(JSON.stringify(facts(socket)))));
} else if (given.role === 'client') {
  const socket = tls.connect(
    { ...options, host: '127.0.0.1', port: given.port, servername: 'localhost' },
    () => exchange(socket),
  );
} else {
  const server = serve((socket) => {
    exchange(socket);
    server.close();
  });
}
