// Runs inside a sandbox, as the job of an attacker would: the body of an async function of `input`. Every probe must be refused.
// input: { tcp: { name: 'host:port', ... }, dns: 'address of the cluster DNS' }; gives [{ probe, refused, detail }].
const net = require('node:net');
const fs = require('node:fs');
const dgram = require('node:dgram');
const http = require('node:http');
const { spawnSync } = require('node:child_process');
const results = [];
const note = (probe, refused, detail) => results.push({ probe, refused, detail: String(detail).slice(0, 120) });

const connects = (host, port) =>
  new Promise((resolve) => {
    const socket = net.connect({ host, port: Number(port) });
    const end = (how) => {
      socket.destroy();
      resolve(how);
    };
    socket.setTimeout(1500, () => end('timeout'));
    socket.once('connect', () => end('connected'));
    socket.once('error', (error) => end(error.code));
  });
// Of the sandboxes given one may be this one: talking to itself is no way out.
const own = new Set(Object.values(require('node:os').networkInterfaces()).flatMap((all) => all.map(({ address }) => address)));
await Promise.all(
  Object.entries(input.tcp).map(async ([name, address]) => {
    const at = address.lastIndexOf(':');
    if (own.has(address.slice(0, at))) return;
    const how = await connects(address.slice(0, at), address.slice(at + 1));
    note(`connect to ${name}`, how !== 'connected', how);
  }),
);

const asks = (server) =>
  new Promise((resolve) => {
    const socket = dgram.createSocket('udp4');
    const end = (how) => {
      socket.close();
      resolve(how);
    };
    const timer = setTimeout(() => end('silence'), 1500);
    socket.on('message', () => {
      clearTimeout(timer);
      end('answered');
    });
    socket.on('error', (error) => {
      clearTimeout(timer);
      end(error.code);
    });
    const query = Buffer.from('00010100000100000000000006736563726574076578616d706c6503636f6d0000010001', 'hex');
    socket.send(query, 53, server, (error) => error && (clearTimeout(timer), end(error.code)));
  });
for (const server of [input.dns, '8.8.8.8']) {
  const how = await asks(server);
  note(`tell a secret to DNS at ${server}`, how !== 'answered', how);
}

const fails = (probe, work) => {
  try {
    note(probe, false, work() ?? 'done');
  } catch (error) {
    note(probe, true, error.code ?? error.message);
  }
};
for (const path of ['/var/lib/kubelet', '/run/containerd/containerd.sock', '/var/run/docker.sock', '/host', '/var/run/secrets/kubernetes.io/serviceaccount/token'])
  fails(`read ${path}`, () => fs.statSync(path).size);
for (const path of ['/app/x', '/etc/x', '/usr/bin/x', '/x']) fails(`write ${path}`, () => fs.writeFileSync(path, 'x'));
fails("read the runner's memory", () => fs.readFileSync('/proc/1/mem').length);
let environment = '';
try {
  environment = fs.readFileSync('/proc/1/environ', 'utf8');
} catch {}
note("secrets in the runner's environment", !/pass|secret|token|key|nats|redis/i.test(environment), environment === '' ? 'unreadable' : 'nothing secret');
let opened = [];
try {
  opened = fs.readdirSync('/proc/1/fd').filter((name) => {
    try {
      fs.closeSync(fs.openSync(`/proc/1/fd/${name}`, 'r+'));
      return fs.readlinkSync(`/proc/1/fd/${name}`).startsWith('socket:');
    } catch {
      return false;
    }
  });
} catch {}
note("forge a result on the runner's own connection", opened.length === 0, `${opened.length} sockets opened`);

const runs = (probe, command, args) => {
  const { status, error } = spawnSync(command, args, { timeout: 3000 });
  note(probe, status !== 0, error ? error.code : `exit ${status}`);
};
runs('mount a file system', 'mount', ['-t', 'tmpfs', 'none', '/mnt']);
runs('a user namespace of its own', 'unshare', ['--user', '--map-root-user', 'true']);
runs('another root', 'chroot', ['/workspace', 'true']);
const status = fs.readFileSync('/proc/self/status', 'utf8');
const capabilities = /CapEff:\s*([0-9a-f]+)/.exec(status)?.[1] ?? 'unknown';
note('raw sockets (needs CAP_NET_RAW)', /^0+$/.test(capabilities) && /^0+$/.test(/CapBnd:\s*([0-9a-f]+)/.exec(status)?.[1] ?? 'x'), `effective capabilities ${capabilities}`);
note('gain rights by a set-uid program', /NoNewPrivs:\s*1/.test(status) || !/NoNewPrivs/.test(status), 'NoNewPrivs');
note('be root', process.getuid() !== 0, `uid ${process.getuid()}`);
note('secrets in the environment', Object.keys(process.env).every((name) => ['PATH', 'HOME', 'LANG', 'TMPDIR', 'PWD', 'SHLVL', '_'].includes(name)), Object.keys(process.env).join(' '));

const posts = (path, headers, body) =>
  new Promise((resolve) => {
    const request = http.request({ host: '127.0.0.1', port: 8080, path, method: 'POST', headers, timeout: 2000 }, (answer) => {
      answer.resume();
      resolve(answer.statusCode);
    });
    request.on('error', (error) => resolve(error.code));
    request.end(JSON.stringify(body));
  });
note('claim itself again', (await posts('/claim', {}, { tenant: 'other', session: 'other' })) === 409, 'POST /claim');
note('run a job for another', (await posts('/jobs', { authorization: 'Bearer guess' }, { language: 'shell', code: 'true' })) === 401, 'POST /jobs');
return results;
