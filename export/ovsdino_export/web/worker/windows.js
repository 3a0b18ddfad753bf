// How a photo is cut into windows: the runtime's geometry/windows.py and geometry/preprocess.py.

/** Scale a size so that it just fits both limits. Returns [height, width]. */
function fitSize(height, width, { short_side, long_side }) {
  const scale = Math.min(long_side / Math.max(height, width), short_side / Math.min(height, width));
  return [height, width].map((side) => Math.max(1, Math.trunc(side * scale + 0.5)));
}

/** Place windows along one side; the last one moves inward instead of hanging over the edge. */
function windowStarts(length, { size, stride }) {
  const count = Math.max(0, Math.ceil((length - size) / stride)) + 1;
  return Array.from({ length: count }, (_, i) => Math.max(0, Math.min(i * stride, length - size)));
}

/** Weigh the pixels along one side of a window: least at its edges, where it sees the least around a pixel. */
function windowWeights(length, taper) {
  return Float32Array.from({ length }, (_, i) =>
    taper === null ? 1 : Math.min(1, (Math.min(i, length - 1 - i) + 0.5) / (taper * length)),
  );
}

/** Cover a photo with windows that form a grid. Returns {tops, lefts, height, width}. */
function planWindows(height, width, policy) {
  return {
    tops: windowStarts(height, policy),
    lefts: windowStarts(width, policy),
    height: Math.min(policy.size, height),
    width: Math.min(policy.size, width),
  };
}

/** Cut a window, normalise its colours, and stretch it where it is not square. Returns (3, size, size). */
function cutWindow(photo, { top, left, height, width }, size, { mean, std }) {
  const rows = bilinearTaps(height, size);
  const columns = bilinearTaps(width, size);
  const pixels = new Float32Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++) {
    const gain = 1 / (255 * std[channel]);
    const shift = mean[channel] / std[channel];
    const at = (row, column) => photo.data[3 * ((top + row) * photo.width + left + column) + channel];
    for (let y = 0; y < size; y++) {
      const down = rows.blend[y];
      for (let x = 0; x < size; x++) {
        const right = columns.blend[x];
        const upper = at(rows.low[y], columns.low[x]) * (1 - right) + at(rows.low[y], columns.high[x]) * right;
        const lower = at(rows.high[y], columns.low[x]) * (1 - right) + at(rows.high[y], columns.high[x]) * right;
        pixels[(channel * size + y) * size + x] = (upper * (1 - down) + lower * down) * gain - shift;
      }
    }
  }
  return pixels;
}
