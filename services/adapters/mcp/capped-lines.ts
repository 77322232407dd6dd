/**
 * Lines of a stdio server, of which one may be larger than an executor holds: it fails the call that it
 * answers, and no other.
 *
 * It stands in for the buffer of the package's transport, which closes the connection instead.
 */
import { deserializeMessage, type JSONRPCMessage } from '@modelcontextprotocol/client';

const headBytes = 4_096; // an id stands in front of the result, or behind it
const newline = 10;

export class CappedLines {
  readonly #bytesMax: number;
  #chunks: Buffer[] = [];
  #bytes = 0;
  /** Beginning and end of a line that is too large; the middle is thrown away. */
  #oversized: { head: Buffer; tail: Buffer; bytes: number } | undefined;
  readonly #lines: (string | JSONRPCMessage)[] = [];

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  append(chunk: Buffer): void {
    let from = 0;
    for (let at = chunk.indexOf(newline); at >= 0; at = chunk.indexOf(newline, from)) {
      this.#add(chunk.subarray(from, at));
      this.#end();
      from = at + 1;
    }
    if (from < chunk.length) this.#add(chunk.subarray(from));
  }

  /** @throws SyntaxError for a line that is no message; the next call reads on behind it */
  readMessage(): JSONRPCMessage | null {
    for (;;) {
      const line = this.#lines.shift();
      if (line === undefined) return null;
      if (typeof line !== 'string') return line;
      if (line.trim() !== '') return deserializeMessage(line);
    }
  }

  clear(): void {
    this.#chunks = [];
    this.#bytes = 0;
    this.#oversized = undefined;
    this.#lines.length = 0;
  }

  #add(part: Buffer): void {
    const before = this.#oversized;
    if (before) {
      before.bytes += part.length;
      before.tail = Buffer.concat([before.tail, part]).subarray(-headBytes);
      return;
    }
    this.#chunks.push(part);
    this.#bytes += part.length;
    if (this.#bytes <= this.#bytesMax) return;
    const all = Buffer.concat(this.#chunks);
    const [head, tail] = [all.subarray(0, headBytes), all.subarray(-headBytes)];
    this.#oversized = { head: Buffer.from(head), tail: Buffer.from(tail), bytes: all.length };
    this.#chunks = [];
    this.#bytes = 0;
  }

  #end(): void {
    const large = this.#oversized;
    this.#oversized = undefined;
    if (!large) {
      this.#lines.push(Buffer.concat(this.#chunks).toString('utf8').replace(/\r$/, ''));
      this.#chunks = [];
      this.#bytes = 0;
      return;
    }
    const id = idIn(large.head.toString('latin1')) ?? idIn(large.tail.toString('latin1'));
    if (id === undefined) return; // a notification, or an answer to nobody
    const message = `its answer has ${large.bytes} bytes, which is too large: ${this.#bytesMax} are allowed`;
    this.#lines.push({ jsonrpc: '2.0', id, error: { code: -32_000, message } });
  }
}

/** The id of a message of which only a part is there; one within a result would be quoted deeper. */
function idIn(text: string): string | number | undefined {
  const found =
    /^\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d+|"[^"\\]*")/.exec(text) ??
    /,\s*"id"\s*:\s*(\d+|"[^"\\]*")\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$/.exec(text);
  return found ? (JSON.parse(found[1]!) as string | number) : undefined;
}
