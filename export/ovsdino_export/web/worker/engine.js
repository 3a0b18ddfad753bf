// ONNX Runtime Web, from files that are in the page.

const MAX_THREADS = 4;
const MIN_GOLDEN_COSINE = 0.999; // as the runtime asks of an engine in FP32

/**
 * Open the graphs of a model.
 * `files` holds bytes by name: ort.js, ort.mjs and ort.wasm, the graphs, and the weights of each;
 * `provider` is "wasm" or "webgpu".
 */
async function openEngine(files, settings, provider) {
  const address = (name) => URL.createObjectURL(new Blob([files[name]], { type: "text/javascript" }));
  importScripts(address("ort.js"));
  ort.env.logLevel = "error";
  ort.env.wasm.wasmBinary = files["ort.wasm"].buffer;
  ort.env.wasm.wasmPaths = { mjs: address("ort.mjs") };
  ort.env.wasm.numThreads = self.crossOriginIsolated
    ? Math.min(MAX_THREADS, Math.max(1, Math.trunc(navigator.hardwareConcurrency / 2)))
    : 1; // threads need memory that they share, which browsers give to isolated pages alone
  const open = (graph, providers) =>
    ort.InferenceSession.create(files[settings.graphs[graph].file], {
      executionProviders: providers,
      externalData: settings.graphs[graph].weights.map((name) => ({ path: name, data: files[name] })),
    });
  const vision = await open("vision", [provider]);
  const text = await open("text", ["wasm"]);
  const run = async (session, type, data, dims) => {
    const outputs = await session.run({ [session.inputNames[0]]: new ort.Tensor(type, data, dims) });
    return outputs[session.outputNames[0]].getData();
  };
  const threads = ort.env.wasm.numThreads;
  return {
    description: provider === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`,
    vision: (pixels, dims) => run(vision, "float32", pixels, dims),
    text: (ids, dims) => run(text, "int64", ids, dims),
  };
}

/** Compare an engine with the features that the torch model gave; refuse it where they differ. */
async function checkGolden(engine, settings, image, expected) {
  const size = settings.windows.size;
  const photo = { height: size, width: size, data: image };
  const window = { top: 0, left: 0, height: size, width: size };
  const pixels = cutWindow(photo, window, size, settings.preprocessing);
  const features = await engine.vision(pixels, [1, 3, size, size]);
  const cosine = meanCosine(features, expected, settings.grid[0] * settings.grid[1]);
  if (!(cosine >= MIN_GOLDEN_COSINE)) throw new Error(`does not reproduce the model: cosine ${cosine.toFixed(5)}`);
}

/** The mean over all cells of the cosine of two maps of features, (D, cells) each. */
function meanCosine(first, second, cells) {
  let sum = 0;
  for (let cell = 0; cell < cells; cell++) {
    let [both, one, other] = [0, 0, 0];
    for (let i = cell; i < first.length; i += cells) {
      both += first[i] * second[i];
      one += first[i] ** 2;
      other += second[i] ** 2;
    }
    sum += both / Math.sqrt(one * other);
  }
  return sum / cells;
}
