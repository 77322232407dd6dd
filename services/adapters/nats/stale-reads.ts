/**
 * Keeps what a lost connection still had to say out of the next one.
 *
 * The nats package makes a new parser when it connects again, and goes on feeding it what the old socket had left in its queue. The beginning of a
 * cut message then waits in the new parser for its end, and takes the first bytes of the new connection for it: a message of MAIL comes out with
 * half a protocol line in its body. Seen under 300 pod kills (four messages became dead letters); package version 2.29.3.
 *
 * And a dial that was given up (to a node that is gone, where packets vanish) may close minutes later: its end is not the end of the connection that
 * stands by then.
 *
 * Here every chunk remembers the socket that it came from, and is parsed only while that socket is the current one. What is dropped was
 * never delivered: ordered readers see the gap and read again, work queues offer again.
 */
interface Transport {
  closed(): Promise<unknown>;
  [Symbol.asyncIterator](): AsyncIterator<Uint8Array>;
}
interface Parser {
  parse(chunk: Uint8Array): void;
}
/** The two fields of the package's protocol handler that matter here. */
export interface Protocol {
  transport: Transport;
  parser: Parser;
}

export function dropStaleReads(protocol: Protocol): void {
  const origins = new WeakMap<Uint8Array, Transport>();
  let transport = protocol.transport;
  let parser = protocol.parser;
  const marked = (given: Transport): Transport => {
    const closed = given.closed.bind(given);
    given.closed = () =>
      closed().then((reason) => (transport === given ? reason : new Promise(() => undefined)));
    const iterate = given[Symbol.asyncIterator].bind(given);
    given[Symbol.asyncIterator] = async function* () {
      for await (const chunk of { [Symbol.asyncIterator]: iterate }) {
        origins.set(chunk, given);
        yield chunk;
      }
    };
    return given;
  };
  const guarded = (given: Parser): Parser => {
    const parse = given.parse.bind(given);
    given.parse = (chunk) => {
      const origin = origins.get(chunk);
      // The first connection is being read already: its chunks are the ones without a mark.
      if (origin === undefined ? transport === first : origin === transport) parse(chunk);
    };
    return given;
  };
  const first = transport;
  guarded(parser);
  Object.defineProperty(protocol, 'transport', {
    get: () => transport,
    set: (next: Transport) => {
      transport = marked(next);
    },
  });
  Object.defineProperty(protocol, 'parser', {
    get: () => parser,
    set: (next: Parser) => {
      parser = guarded(next);
    },
  });
}
