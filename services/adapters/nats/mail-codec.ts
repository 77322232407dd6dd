/**
 * The bytes of a MAIL message: JSON, and when it is long and shrinks, zlib. A tool's page of text takes a quarter of the room then, on
 * every replica of the stream. The first byte tells: JSON here begins with `{` or `[`, zlib with 0x78.
 */
import { deflateSync, inflateSync } from 'node:zlib';

const compressFrom = 4_096; // characters; below it the CPU costs more than the bytes
const plainBytesMax = 64 * 1_048_576; // whoever may write here could otherwise fill a reader's memory with a kilobyte

export function encodeMail(text: string): string | Uint8Array {
  if (text.length < compressFrom) return text;
  const packed = deflateSync(text, { level: 1 });
  return packed.length < text.length ? packed : text;
}

/** What cannot be read gives text that is no JSON, so that it ends as a dead letter and holds nobody up. */
export function decodeMail(bytes: Uint8Array): string {
  if (bytes[0] !== 0x78)
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
  try {
    return inflateSync(bytes, { maxOutputLength: plainBytesMax }).toString('utf8');
  } catch {
    return `not readable: ${Buffer.from(bytes.subarray(0, 64)).toString('base64')}`;
  }
}
