// Files of the page: gzip in base64, in scripts, since a page opened from a disk may load scripts alone.

/** Decode a file. Takes the base64 text of its parts, in their order; returns its bytes. */
async function decodeAsset(parts) {
  const packed = new Blob(parts.map(decodeBase64));
  const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function decodeBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}
