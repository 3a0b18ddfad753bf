// A photo and classes to labels: the runtime's HostPipeline and Segmenter.

class Segmenter {
  /**
   * @param settings what the runtime's manifest says of the model
   * @param tokenize see openTokenizer
   * @param engine {vision(pixels, dims), text(ids, dims)}: run a graph, return its output's numbers
   */
  constructor(settings, tokenize, engine) {
    this.settings = settings;
    this.engine = engine;
    this.words = new ClassEncoder(settings, tokenize, engine.text);
  }

  /** Run everything that does not depend on the classes. `report(done, all)` follows the windows. */
  async encode(photo, report = () => {}) {
    const { preprocessing, windows: policy } = this.settings;
    const [height, width] = fitSize(photo.height, photo.width, preprocessing);
    const resized = resizePhoto(photo, height, width);
    const windows = planWindows(height, width, policy);
    const places = windows.tops.flatMap((top) => windows.lefts.map((left) => ({ ...windows, top, left })));
    const features = [];
    for (const place of places) {
      report(features.length, places.length);
      const pixels = cutWindow(resized, place, policy.size, preprocessing); // (3, S, S)
      features.push(await this.engine.vision(pixels, [1, 3, policy.size, policy.size])); // (D, h, w)
    }
    return { size: [photo.height, photo.width], resized, windows, features };
  }

  /** Give each pixel of an encoded photo one of the classes, as `readClasses` returns them. */
  async segment(encoded, vocabulary) {
    const { head, single_class } = this.settings;
    const threshold = chooseThreshold(vocabulary, head, single_class);
    const used = { ...vocabulary, background: vocabulary.background || threshold !== null };
    const text = await this.words.encode([...used.classes, ...used.backgroundClasses]);
    const found = this.merge(encoded, text, threshold);
    putBackground(found, head, threshold);
    const names = labelNames(used);
    found.labels.forEach((label, p) => {
      if (label >= names.length) found.labels[p] = 0; // a background class
    });
    return { ...found, names, background: used.background };
  }

  merge(encoded, text, threshold) {
    const { head, grid, text: { width: depth }, windows: { taper }, refine } = this.settings;
    const { resized, windows, features, size } = encoded;
    const resizedSize = [resized.height, resized.width];
    const cosines = nodeCosines(features, windows, grid, text, depth);
    if (!refine) return mergeArgmax(cosines, mergeGeometry(windows, grid, resizedSize, size, taper));
    const coarse = coarseSize(resizedSize);
    return refineArgmax(cosines, mergeGeometry(windows, grid, resizedSize, coarse, taper), {
      guide: resizePhoto(resized, ...coarse),
      cell: Math.max(windows.height / grid[0], windows.width / grid[1]) / 2,
      size,
      threshold: cosineThreshold(threshold, head),
      refinement: refine,
    });
  }
}

/** Make pixels that are less sure than the threshold background, label 0; the classes follow from 1. */
function putBackground({ labels, cosine }, head, threshold) {
  if (threshold === null) return;
  labels.forEach((label, p) => (labels[p] = confidence(cosine[p], head) < threshold ? 0 : label + 1));
}
