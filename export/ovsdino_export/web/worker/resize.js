// Photos of another size. A photo is {height, width, data}: RGB, data (H, W, 3) in 0..255.

const PRECISION = 22; // bits behind the point of Pillow's weights

/** Resize a photo as Pillow does with BILINEAR: an average over all pixels that fall into one, rounded. */
function resizePhoto(photo, height, width) {
  let resized = photo;
  if (width !== resized.width) resized = resizeSide(resized, width, true);
  if (height !== resized.height) resized = resizeSide(resized, height, false);
  return resized;
}

function resizeSide(photo, target, across) {
  const source = across ? photo.width : photo.height;
  const height = across ? photo.height : target;
  const width = across ? target : photo.width;
  const data = new Uint8ClampedArray(height * width * 3);
  const step = across ? 3 : 3 * photo.width; // from one pixel of the average to the next
  antialiasWeights(source, target).forEach(({ first, weights }, place) => {
    for (let line = 0; line < (across ? height : width); line++) {
      let from = across ? 3 * (line * photo.width + first) : 3 * (first * photo.width + line);
      let red = 1 << (PRECISION - 1);
      let green = red;
      let blue = red;
      for (let i = 0; i < weights.length; i++, from += step) {
        red += photo.data[from] * weights[i];
        green += photo.data[from + 1] * weights[i];
        blue += photo.data[from + 2] * weights[i];
      }
      const to = 3 * (across ? line * width + place : place * width + line);
      data[to] = red >> PRECISION;
      data[to + 1] = green >> PRECISION;
      data[to + 2] = blue >> PRECISION;
    }
  });
  return { height, width, data };
}

/** Which source pixels make each target pixel along one side, and their weights in fixed point. */
function antialiasWeights(source, target) {
  const scale = source / target;
  const reach = Math.max(scale, 1);
  return Array.from({ length: target }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const stop = Math.min(source, Math.trunc(centre + reach + 0.5));
    const weights = [];
    for (let i = first; i < stop; i++) weights.push(Math.max(0, 1 - Math.abs((i - centre + 0.5) / reach)));
    const sum = weights.reduce((all, weight) => all + weight, 0);
    return { first, weights: weights.map((weight) => Math.trunc(0.5 + (weight / sum) * 2 ** PRECISION)) };
  });
}

/** The two source pixels of each target pixel along one side, and the share of the upper one: no antialias. */
function bilinearTaps(source, target) {
  const low = new Int32Array(target);
  const high = new Int32Array(target);
  const blend = new Float32Array(target);
  for (let i = 0; i < target; i++) {
    const centre = Math.min(Math.max((i + 0.5) * (source / target) - 0.5, 0), source - 1);
    low[i] = Math.floor(centre);
    high[i] = Math.min(low[i] + 1, source - 1);
    blend[i] = centre - low[i];
  }
  return { low, high, blend };
}
