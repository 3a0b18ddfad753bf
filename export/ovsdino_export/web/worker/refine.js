// Labels whose outlines follow the photo's edges: the runtime's geometry/refine.py. At half the size of the
// resized photo the classes that win anywhere are filtered with the photo as the guide, small regions join
// their neighbours, and the scores are resized to the photo's size, where the best class is taken.

const MARGIN = 1e-4; // cosine: how clearly a pixel of a small region is put above or below the threshold

/** The size at which scores are filtered. */
function coarseSize([height, width]) {
  return [Math.max(1, Math.trunc(height / 2)), Math.max(1, Math.trunc(width / 2))];
}

/**
 * The best class of each pixel, and its cosine, after filtering.
 * `geometry` merges at the guide's size; `cell` is the side of a cell of the features' grid there [px];
 * `threshold` is the cosine below which a pixel is background. Returns {height, width, labels, cosine}.
 */
function refineArgmax(cosines, geometry, { guide, cell, size, threshold, refinement }) {
  const { height, width } = guide;
  const coarse = mergeArgmax(cosines, geometry);
  const least = refinement.min_area * height * width; // [px]
  const winners = findWinners(coarse, threshold, least);
  const radius = Math.max(1, roundHalfEven(refinement.radius * cell));
  const smooth = guidedFilter(guide, radius, refinement.epsilon);
  const planes = mergeScores(cosines, geometry, winners).map(smooth);
  if (least > 1) absorbSmallRegions(planes, height, width, threshold, Math.ceil(least));
  const result = upsampleArgmax(planes, height, width, size);
  return { ...result, labels: result.labels.map((k) => winners[k]) };
}

/** Round as Python does. */
function roundHalfEven(value) {
  const low = Math.floor(value);
  if (value - low === 0.5) return low % 2 ? low + 1 : low;
  return Math.round(value);
}

/** The classes that can keep a region, in ascending order; at least one. */
function findWinners({ labels, cosine }, threshold, least) {
  const count = (sure) => {
    const counts = [];
    labels.forEach((label, p) => {
      if (sure(p)) counts[label] = (counts[label] ?? 0) + 1;
    });
    return counts;
  };
  let counts = count((p) => cosine[p] >= threshold);
  if (!counts.length) counts = count(() => true);
  const classes = Object.keys(counts).map(Number);
  const winners = classes.filter((n) => counts[n] >= Math.max(1, least));
  if (winners.length) return winners;
  return [classes.reduce((best, n) => (counts[n] > counts[best] ? n : best))];
}

/** Change scores in place so that no region below `minArea` pixels is left. */
function absorbSmallRegions(planes, height, width, threshold, minArea) {
  const { labels: best, top } = bestOf(planes);
  const labels = best.map((k, p) => (top[p] < threshold ? 0 : k + 1));
  const merged = mergeSmallRegions(labels, height, width, minArea);
  merged.forEach((now, p) => {
    if (now === labels[p]) return;
    if (now === 0) {
      for (const plane of planes) plane[p] = Math.min(plane[p], threshold - MARGIN);
      return;
    }
    if (labels[p] > 0) planes[labels[p] - 1][p] = planes[now - 1][p];
    planes[now - 1][p] = Math.max(top[p], threshold + MARGIN);
  });
}

/** The plane with the highest score at each pixel, and that score. */
function bestOf(planes) {
  const labels = new Uint16Array(planes[0].length);
  const top = Float32Array.from(planes[0]);
  planes.forEach((plane, k) => {
    for (let p = 0; p < top.length; p++) {
      if (plane[p] > top[p]) {
        top[p] = plane[p];
        labels[p] = k;
      }
    }
  });
  return { labels, top };
}

/**
 * Resize scores, bilinear, and find the best plane of each pixel and its score. A pixel has the class of one of
 * its four neighbours: where they agree it is theirs, else the best of theirs.
 */
function upsampleArgmax(planes, sourceHeight, sourceWidth, [height, width]) {
  const { labels: best, top } = bestOf(planes);
  const rows = bilinearTaps(sourceHeight, height);
  const columns = bilinearTaps(sourceWidth, width);
  const labels = new Uint16Array(height * width);
  const cosine = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const upper = rows.low[y] * sourceWidth;
    const lower = rows.high[y] * sourceWidth;
    const below = rows.blend[y];
    for (let x = 0; x < width; x++) {
      const a = upper + columns.low[x];
      const b = upper + columns.high[x];
      const c = lower + columns.low[x];
      const d = lower + columns.high[x];
      const beside = columns.blend[x];
      let winner = best[a];
      let value = -Infinity;
      if (best[b] === winner && best[c] === winner && best[d] === winner) {
        value = blendCorners(top, a, b, c, d, beside, below);
      } else {
        for (const corner of [a, b, c, d]) {
          const score = blendCorners(planes[best[corner]], a, b, c, d, beside, below);
          if (score > value) {
            winner = best[corner];
            value = score;
          }
        }
      }
      labels[y * width + x] = winner;
      cosine[y * width + x] = value;
    }
  }
  return { height, width, labels, cosine };
}

/** The value between four pixels: a and b above, c and d below. */
function blendCorners(plane, a, b, c, d, beside, below) {
  const upper = plane[a] * (1 - beside) + plane[b] * beside;
  const lower = plane[c] * (1 - beside) + plane[d] * beside;
  return upper * (1 - below) + lower * below;
}
