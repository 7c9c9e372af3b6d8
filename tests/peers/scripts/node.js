// A client or a server with the module tls of Node.js.
//
// Its one argument is a JSON object; it prints a JSON object for each connection.
'use strict';

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

// A server answers with what it knows of the connection.
function serve() {
  const server = tls.createServer(
    { ...options, requestCert: Boolean(given.authorities), rejectUnauthorized: true },
    (socket) => socket.once('data', () => socket.end(JSON.stringify(facts(socket)))),
  );
  server.listen(0, '127.0.0.1', () => say({ port: server.address().port }));
}

if (given.role === 'client') {
  ask(undefined, given.connections);
} else {
  serve();
}
