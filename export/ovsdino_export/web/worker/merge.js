// Scores of all windows become one score a pixel, as in the runtime's geometry/merge.py: each window is
// upsampled, overlapping windows are averaged, the average is resized. All of it is linear and separable:
//     scores (H, W) = rows @ mosaic @ columns.T
// A side is held sparsely: of each pixel the few nodes that matter to it, and their weights.

/** The sides of a merge. `grid` is [h, w] of a window's features, `resized` and `size` are [height, width]. */
function mergeGeometry(windows, grid, resized, size, taper) {
  return {
    rows: spreadSide(averageWindows(windows.tops, windows.height, grid[0], resized[0], taper), size[0]),
    columns: spreadSide(averageWindows(windows.lefts, windows.width, grid[1], resized[1], taper), size[1]),
  };
}

/** One side of the windows' weighted average: for each pixel of the resized photo a row of all nodes. */
function averageWindows(starts, length, cells, resized, taper) {
  const { low, high, blend } = bilinearTaps(cells, length);
  const weights = windowWeights(length, taper);
  const rows = Array.from({ length: resized }, () => new Float64Array(starts.length * cells));
  starts.forEach((start, index) => {
    for (let i = 0; i < length; i++) {
      rows[start + i][index * cells + low[i]] += (1 - blend[i]) * weights[i];
      rows[start + i][index * cells + high[i]] += blend[i] * weights[i];
    }
  });
  return rows.map((row) => {
    const sum = row.reduce((all, weight) => all + weight, 0);
    return row.map((weight) => weight / sum);
  });
}

/** Resize the rows of a side to `length` pixels, and keep what is not zero: {nodes, weights} of each pixel. */
function spreadSide(rows, length) {
  const { low, high, blend } = bilinearTaps(rows.length, length);
  return Array.from({ length }, (_, pixel) => {
    const nodes = [];
    const weights = [];
    for (let node = 0; node < rows[0].length; node++) {
      const weight = rows[low[pixel]][node] * (1 - blend[pixel]) + rows[high[pixel]][node] * blend[pixel];
      if (weight > 0) {
        nodes.push(node);
        weights.push(weight);
      }
    }
    return { nodes, weights };
  });
}

/**
 * Cosines of all classes at all nodes.
 * `features` are those of each window, (D, h, w), windows in row-major order; `text` is (N, D).
 * Returns {height, width, count, data}: data (node rows, node columns, N).
 */
function nodeCosines(features, windows, [h, w], text, depth) {
  const down = windows.tops.length;
  const across = windows.lefts.length;
  const count = text.length / depth;
  const [height, width] = [down * h, across * w];
  const data = new Float32Array(height * width * count);
  features.forEach((window, index) => {
    const top = Math.trunc(index / across) * h;
    const left = (index % across) * w;
    for (let cell = 0; cell < h * w; cell++) {
      const at = ((top + Math.trunc(cell / w)) * width + left + (cell % w)) * count;
      for (let n = 0; n < count; n++) {
        let cosine = 0;
        for (let d = 0; d < depth; d++) cosine += window[d * h * w + cell] * text[n * depth + d];
        data[at + n] = cosine;
      }
    }
  });
  return { height, width, count, data };
}

/** Spread the nodes' scores over the pixels; `use(row, column, scores)` gets the scores (N,) of each pixel. */
function spreadScores(cosines, geometry, use) {
  const { width, count, data } = cosines;
  const line = new Float32Array(width * count); // of one row of pixels, at the nodes' columns
  const scores = new Float32Array(count);
  geometry.rows.forEach(({ nodes, weights }, row) => {
    line.fill(0);
    nodes.forEach((node, i) => {
      const from = node * width * count;
      for (let j = 0; j < line.length; j++) line[j] += data[from + j] * weights[i];
    });
    geometry.columns.forEach((column, place) => {
      scores.fill(0);
      for (let i = 0; i < column.nodes.length; i++) {
        const from = column.nodes[i] * count;
        const weight = column.weights[i];
        for (let n = 0; n < count; n++) scores[n] += line[from + n] * weight;
      }
      use(row, place, scores);
    });
  });
}

/** The best class of each pixel, and its cosine. Returns {height, width, labels, cosine}. */
function mergeArgmax(cosines, geometry) {
  const height = geometry.rows.length;
  const width = geometry.columns.length;
  const labels = new Uint16Array(height * width);
  const cosine = new Float32Array(height * width);
  spreadScores(cosines, geometry, (row, column, scores) => {
    let best = 0;
    for (let n = 1; n < scores.length; n++) if (scores[n] > scores[best]) best = n;
    labels[row * width + column] = best;
    cosine[row * width + column] = scores[best];
  });
  return { height, width, labels, cosine };
}

/** The cosines of some classes at every pixel: a plane (H * W) of each. */
function mergeScores(cosines, geometry, classes) {
  const width = geometry.columns.length;
  const planes = classes.map(() => new Float32Array(geometry.rows.length * width));
  spreadScores(cosines, geometry, (row, column, scores) => {
    classes.forEach((number, k) => (planes[k][row * width + column] = scores[number]));
  });
  return planes;
}

/** Confidence of a cosine, in 0..1. */
function confidence(cosine, head) {
  return 1 / (1 + Math.exp(-(head.scale * cosine + head.bias)));
}

/** The cosine of a threshold on the confidence; -Infinity without one. */
function cosineThreshold(threshold, head) {
  if (threshold === null) return -Infinity;
  const inside = Math.min(Math.max(threshold, 1e-9), 1 - 1e-9);
  return (Math.log(inside / (1 - inside)) - head.bias) / head.scale;
}
