// The guided filter with a colour guide, as in the runtime's geometry/guided_filter.py.
// Source: K. He, J. Sun, X. Tang, "Guided Image Filtering", PAMI 2013, equations 15 to 18.

/** Prepare a filter for a guide (a photo). Returns a function: plane (H * W) -> filtered plane. */
function guidedFilter(guide, radius, epsilon) {
  const { height, width } = guide;
  const pixels = height * width;
  const share = addSquares(new Float32Array(pixels).fill(1), height, width, radius).map((count) => 1 / count);
  const boxMean = (plane) => addSquares(plane, height, width, radius).map((sum, i) => sum * share[i]);

  const colours = [0, 1, 2].map((channel) => centred(guide, channel));
  const means = colours.map(boxMean);
  const entry = ([i, j]) => {
    const squares = boxMean(colours[i].map((value, p) => value * colours[j][p]));
    return squares.map((square, p) => square - means[i][p] * means[j][p] + (i === j ? epsilon : 0));
  };
  const inverse = invert([[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]].map(entry));

  return (plane) => {
    const mean = boxMean(plane);
    const covariance = colours.map((colour, c) =>
      boxMean(colour.map((value, p) => value * plane[p])).map((both, p) => both - means[c][p] * mean[p]),
    );
    const linear = multiply(inverse, covariance);
    const offset = mean.map((value, p) => value - dot(linear, means, p));
    const smooth = linear.map(boxMean);
    return boxMean(offset).map((value, p) => value + dot(smooth, colours, p));
  };
}

/** One channel of a photo in 0..1, less its mean: of small numbers float32 holds the squares. */
function centred(photo, channel) {
  const plane = new Float32Array(photo.height * photo.width);
  for (let p = 0; p < plane.length; p++) plane[p] = photo.data[3 * p + channel] / 255;
  const mean = plane.reduce((sum, value) => sum + value, 0) / plane.length;
  return plane.map((value) => value - mean);
}

/** Sums over squares of side 2 * radius + 1; beyond the border there is nothing. */
function addSquares(plane, height, width, radius) {
  const across = new Float64Array(plane.length);
  addRuns(plane, across, { lines: height, line: width, length: width, step: 1, radius });
  const sums = new Float64Array(plane.length);
  addRuns(across, sums, { lines: width, line: 1, length: height, step: width, radius });
  return sums;
}

/** Running sums of 2 * radius + 1 values along each line. */
function addRuns(from, to, { lines, line, length, step, radius }) {
  for (let number = 0; number < lines; number++) {
    const start = number * line;
    let sum = 0;
    for (let i = 0; i < Math.min(radius, length); i++) sum += from[start + i * step];
    for (let i = 0; i < length; i++) {
      if (i + radius < length) sum += from[start + (i + radius) * step];
      if (i - radius > 0) sum -= from[start + (i - radius - 1) * step];
      to[start + i * step] = sum;
    }
  }
}

/** The inverses of symmetric 3x3 matrices, each given and returned by its six planes. */
function invert([rr, rg, rb, gg, gb, bb]) {
  const planes = Array.from({ length: 6 }, () => new Float64Array(rr.length));
  for (let p = 0; p < rr.length; p++) {
    const adjugate = [
      gg[p] * bb[p] - gb[p] * gb[p],
      rb[p] * gb[p] - rg[p] * bb[p],
      rg[p] * gb[p] - rb[p] * gg[p],
      rr[p] * bb[p] - rb[p] * rb[p],
      rb[p] * rg[p] - rr[p] * gb[p],
      rr[p] * gg[p] - rg[p] * rg[p],
    ];
    const determinant = rr[p] * adjugate[0] + rg[p] * adjugate[1] + rb[p] * adjugate[2];
    adjugate.forEach((value, i) => (planes[i][p] = value / determinant));
  }
  return planes;
}

function multiply([rr, rg, rb, gg, gb, bb], [r, g, b]) {
  return [
    r.map((_, p) => rr[p] * r[p] + rg[p] * g[p] + rb[p] * b[p]),
    r.map((_, p) => rg[p] * r[p] + gg[p] * g[p] + gb[p] * b[p]),
    r.map((_, p) => rb[p] * r[p] + gb[p] * g[p] + bb[p] * b[p]),
  ];
}

function dot(first, second, p) {
  return first[0][p] * second[0][p] + first[1][p] * second[1][p] + first[2][p] * second[2][p];
}
