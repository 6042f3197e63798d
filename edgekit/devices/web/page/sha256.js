// SHA-256 in hexadecimal. Browsers offer it only to secure pages, and a page over plain HTTP isn't one.
"use strict";

const ROUNDS = new Uint32Array(64), START = new Uint32Array(8);
for (let prime = 2, found = 0; found < 64; prime++) {
  let divisor = 2;
  while (prime % divisor) divisor++;
  if (divisor < prime) continue;
  const fraction = (root) => Math.floor((root - Math.floor(root)) * 2 ** 32);
  if (found < 8) START[found] = fraction(Math.sqrt(prime));
  ROUNDS[found++] = fraction(Math.cbrt(prime));
}

async function sha256(bytes) {
  const digest = self.crypto?.subtle ? new DataView(await crypto.subtle.digest("SHA-256", bytes)) : ownSha256(bytes);
  return Array.from({length: 8}, (_, word) => digest.getUint32(4 * word).toString(16).padStart(8, "0")).join("");
}

function ownSha256(bytes) {
  const length = (bytes.length + 9 + 63) & ~63, state = new Uint32Array(START), words = new Uint32Array(64);
  const tail = new Uint8Array(length - (bytes.length & ~63)); // the last block of the data, padding and length
  tail.set(bytes.subarray(bytes.length & ~63));
  tail[bytes.length & 63] = 0x80;
  new DataView(tail.buffer).setBigUint64(tail.length - 8, BigInt(bytes.length) * 8n);
  const right = (x, n) => (x >>> n) | (x << (32 - n));
  for (const part of [bytes.subarray(0, bytes.length & ~63), tail]) {
    const view = new DataView(part.buffer, part.byteOffset, part.length);
    for (let block = 0; block < part.length; block += 64) {
      for (let i = 0; i < 16; i++) words[i] = view.getUint32(block + 4 * i);
      for (let i = 16; i < 64; i++) {
        const a = words[i - 15], b = words[i - 2];
        words[i] = words[i - 16] + (right(a, 7) ^ right(a, 18) ^ (a >>> 3)) + words[i - 7] + (right(b, 17) ^ right(b, 19) ^ (b >>> 10));
      }
      let [a, b, c, d, e, f, g, h] = state;
      for (let i = 0; i < 64; i++) {
        const one = (h + (right(e, 6) ^ right(e, 11) ^ right(e, 25)) + ((e & f) ^ (~e & g)) + ROUNDS[i] + words[i]) | 0;
        const two = ((right(a, 2) ^ right(a, 13) ^ right(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
        h = g, g = f, f = e, e = (d + one) | 0;
        d = c, c = b, b = a, a = (one + two) | 0;
      }
      [a, b, c, d, e, f, g, h].forEach((value, i) => (state[i] += value));
    }
  }
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((value, i) => digest.setUint32(4 * i, value));
  return digest;
}
