/**
 * Keeps JSON where others can read it: AES-256-GCM, under a key that only the executors of a pool
 * have. What is sealed for one name opens under no other.
 */
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';
import { Refused } from '../core/errors.ts';
import { jsonOf } from '../core/json.ts';
import type { Credentials, SealedStore } from '../ports/credentials.ts';

const nonceBytes = 12; // NIST SP 800-38D, 8.2
const tagBytes = 16;
const keyLengthMin = 32; // characters: as many as 128 bits have in hexadecimal

/** @param secret  of the executors of this pool; undefined where none is set */
export function sealed(store: SealedStore, pool: string, secret: string | undefined): Credentials {
  const opening = () => {
    if (secret === undefined || secret.length < keyLengthMin)
      throw new Refused(
        'CREDENTIAL_KEY_MISSING',
        `UNDERSTUDY_CREDENTIAL_KEY ${secret ? `has less than ${keyLengthMin} characters` : 'is not set'} for the executors: what a person signs in for cannot be kept`,
      );
    return Buffer.from(hkdfSync('sha256', secret, 'understudy credentials', pool, 32));
  };
  return {
    async read(key) {
      const secretKey = opening();
      const found = await store.read(key);
      if (!found) return undefined;
      const text = opened(secretKey, key, Buffer.from(found.bytes));
      return { value: text === undefined ? undefined : jsonOf(text), version: found.version };
    },
    write: (key, value, version) =>
      store.write(key, closed(opening(), key, JSON.stringify(value)), version),
  };
}

function closed(secretKey: Buffer, name: string, text: string): Buffer {
  const nonce = randomBytes(nonceBytes);
  const cipher = createCipheriv('aes-256-gcm', secretKey, nonce).setAAD(Buffer.from(name));
  const body = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
  return Buffer.concat([nonce, cipher.getAuthTag(), body]);
}

/** @returns undefined for what was sealed with another key, for another name, or was changed */
function opened(secretKey: Buffer, name: string, bytes: Buffer): string | undefined {
  try {
    const nonce = bytes.subarray(0, nonceBytes);
    const tag = bytes.subarray(nonceBytes, nonceBytes + tagBytes);
    const decipher = createDecipheriv('aes-256-gcm', secretKey, nonce, { authTagLength: tagBytes });
    decipher.setAAD(Buffer.from(name)).setAuthTag(tag);
    const body = decipher.update(bytes.subarray(nonceBytes + tagBytes));
    return Buffer.concat([body, decipher.final()]).toString('utf8');
  } catch {
    return undefined;
  }
}
