/**
 * A baseline that one message cannot carry, in several: each says which of how many it is.
 *
 * The first byte of a chunk is never the start of deflated data (it has the reserved block type),
 * so that a reader tells the two apart. Chunks of two writers may lie between each other: each set
 * has an id.
 */
import { randomBytes } from 'node:crypto';

const mark = 0x07;
const headBytes = 9; // mark, id (4), index (2), count (2)

export const isChunk = (bytes: Uint8Array): boolean => bytes[0] === mark;

/** @param bytesMax  of one message */
export function chunksOf(packed: Uint8Array, bytesMax: number): Buffer[] {
  const room = bytesMax - headBytes;
  const count = Math.ceil(packed.length / room);
  const id = randomBytes(4);
  return Array.from({ length: count }, (_, index) => {
    const head = Buffer.alloc(headBytes);
    head[0] = mark;
    id.copy(head, 1);
    head.writeUInt16BE(index, 5);
    head.writeUInt16BE(count, 7);
    return Buffer.concat([head, packed.subarray(index * room, (index + 1) * room)]);
  });
}

/** Joins chunks in their order. A set that its writer never finished is left out. */
export function joined(messages: readonly Uint8Array[]): Uint8Array[] {
  const sets = new Map<string, Uint8Array[]>();
  return messages.flatMap((message): Uint8Array[] => {
    if (!isChunk(message)) return [message];
    const head = Buffer.from(message.buffer, message.byteOffset, message.length);
    if (head.length < headBytes) return [];
    const id = head.toString('hex', 1, 5);
    const index = head.readUInt16BE(5);
    const set = sets.get(id) ?? [];
    // One that is stored twice stands there once.
    if (index === set.length) set.push(head.subarray(headBytes));
    sets.set(id, set);
    if (set.length < head.readUInt16BE(7)) return [];
    sets.delete(id);
    return [Buffer.concat(set)];
  });
}
