/** What any client in any language may write to a broker, and no library of ours looks at. */
import { once } from 'node:events';
import { connect } from 'node:net';

/** @param header  lines of a message's headers, as they are */
export async function publishByHand(
  url: string,
  subject: string,
  header: string,
  body: string,
): Promise<void> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  const headers = Buffer.from(`NATS/1.0\r\n${header}\r\n\r\n`);
  const words = Buffer.from(body);
  const command = `CONNECT {"verbose":false,"headers":true}\r\nHPUB ${subject} ${headers.length} ${headers.length + words.length}\r\n`;
  socket.write(Buffer.concat([Buffer.from(command), headers, words, Buffer.from('\r\nPING\r\n')]));
  for (;;) {
    const [chunk] = (await once(socket, 'data')) as [Buffer];
    if (chunk.toString().includes('PONG')) break;
  }
  socket.destroy();
}
