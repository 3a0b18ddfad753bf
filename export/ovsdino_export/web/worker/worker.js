// What runs beside the page: opens the model once, then answers one question after the other.
//   {open: {settings, assets, provider}}             -> {opened: description} or {error}
//   {segment: {photo, classes, onlyClasses}}         -> {state}..., then {result} or {error}
// `photo` is absent where the question is about the last photo again.

let segmenter = null;
let encoded = null;
let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  queue = queue.then(() => answer(data)).catch(reportError);
};

function reportError(error) {
  if (!(error instanceof UserError)) console.error(error);
  const line = error instanceof UserError ? error.message : `The program failed: ${error.message ?? error}`;
  self.postMessage({ error: line, expected: error instanceof UserError });
}

async function answer({ open, segment }) {
  if (open) {
    const engine = await openModel(open);
    self.postMessage({ opened: engine.description });
  }
  if (segment) self.postMessage({ result: await segmentPhoto(segment) });
}

async function openModel({ settings, assets, provider }) {
  const files = {};
  for (const [name, parts] of Object.entries(assets)) files[name] = await decodeAsset(parts);
  const engine = await openEngine(files, settings, provider);
  if (provider === "webgpu") {
    const expected = new Float32Array(files["golden.features"].buffer);
    await checkGolden(engine, settings, files["golden.image"], expected);
  }
  const tokenizer = JSON.parse(new TextDecoder().decode(files["tokenizer.json"]));
  segmenter = new Segmenter(settings, openTokenizer(tokenizer, settings.text.context_length), engine);
  return engine;
}

async function segmentPhoto({ photo, classes, onlyClasses }) {
  const { vocabularies, surroundings } = segmenter.settings;
  let vocabulary = readClasses(classes, vocabularies); // what is refused, is refused before the work
  if (onlyClasses) vocabulary = withBackgroundClasses(vocabulary, vocabularies[surroundings]);
  const start = performance.now();
  if (photo) {
    encoded = null;
    encoded = await segmenter.encode(photo, (done, all) =>
      self.postMessage({ state: `Looking at the photo: part ${done + 1} of ${all}` }),
    );
  }
  self.postMessage({ state: "Finding the words" });
  const middle = performance.now();
  const result = await segmenter.segment(encoded, vocabulary);
  const seconds = { photo: (middle - start) / 1000, words: (performance.now() - middle) / 1000 };
  return { labels: result.labels, names: result.names, background: result.background, seconds };
}
