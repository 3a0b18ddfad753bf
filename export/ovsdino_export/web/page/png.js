// Label maps as grey PNGs, 8 or 16 bits deep: the value of a pixel is its label.

"use strict";

/** Encode labels (H * W). Returns a Blob. */
async function encodeGreyPng(labels, width, height, depth) {
  const size = depth / 8;
  const rows = new Uint8Array(height * (1 + width * size)); // each row begins with its filter: 0, none
  for (let row = 0, to = 0; row < height; row++) {
    to++;
    for (let p = row * width; p < (row + 1) * width; p++) {
      if (size === 2) rows[to++] = labels[p] >> 8;
      rows[to++] = labels[p] & 255;
    }
  }
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([depth, 0, 0, 0, 0], 8); // grey, deflate, five filters, not interlaced
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  const chunks = [pngChunk("IHDR", head), pngChunk("IDAT", packed), pngChunk("IEND", new Uint8Array(0))];
  return new Blob([signature, ...chunks], { type: "image/png" });
}

function pngChunk(kind, data) {
  const chunk = new Uint8Array(12 + data.length);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, data.length);
  chunk.set(new TextEncoder().encode(kind), 4);
  chunk.set(data, 8);
  view.setUint32(8 + data.length, crc32(chunk.subarray(4, 8 + data.length)));
  return chunk;
}

/** The check sum of PNG. Source: ISO 3309, the polynomial 0xedb88320. */
function crc32(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return (sum ^ 0xffffffff) >>> 0;
}
