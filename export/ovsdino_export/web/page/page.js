// What a person does on the page, and what the worker answers. All computing is in the worker (program.js).

"use strict";

const MAX_PIXELS = 50e6; // of a photo; canvases of phones end near there
const element = (id) => document.getElementById(id);
const assets = {}; // name -> base64 texts of its parts, as the scripts in data/ bring them
let settings = null;
let opening = null; // the promise of the worker, once the first photo is there
let photo = null; // the photo on the page: {name, height, width, data}
let known = null; // the photo that the worker has encoded
let asked = false; // a question is being answered
let waiting = false; // another was asked meanwhile
let answered = null; // the last question that was answered: {photo, classes, onlyClasses}

/** Called by data/settings.js. */
function receiveSettings(given) {
  settings = given;
  element("classes").value = settings.classes;
  element("about").textContent =
    `Model ${settings.name}, ${(settings.bytes / 1e6).toFixed(0)} MB with its engine, loaded with the first photo. ` +
    `Made by ovsdino ${settings.version}, with ONNX Runtime Web ${settings.runtime}.`;
}

/** Called by each script in data/ that brings a part of a file. */
function receiveAsset(name, part, text) {
  (assets[name] ??= [])[part] = text;
}

function loadScript(address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = resolve;
    script.onerror = () => reject(new UserError(`${address} cannot be loaded; reload the page, or copy its folder whole`));
    document.head.append(script);
  });
}

/** Load the files of the model and of an engine, with the progress on the page. */
async function loadFiles(groups) {
  const scripts = groups.flatMap((group) => settings.scripts[group]);
  const all = scripts.reduce((sum, script) => sum + script.bytes, 0);
  let done = 0;
  for (const { file, bytes } of scripts) {
    showState(`Loading the model: ${(done / 1e6).toFixed(0)} of ${(all / 1e6).toFixed(0)} MB`);
    await loadScript(`data/${file}`);
    done += bytes;
  }
  showState("Starting the model");
}

/** Open the model on the GPU where the browser has one that reproduces it, else on the processor. */
async function openModel() {
  if (await hasGpu()) {
    try {
      return await openWorker("webgpu");
    } catch (error) {
      console.warn(`WebGPU is not used: ${error.message}`);
    }
  }
  return openWorker("wasm");
}

async function hasGpu() {
  if (!navigator.gpu) return false;
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  if (!adapter) return false;
  const software = adapter.isFallbackAdapter || (adapter.info && adapter.info.isFallbackAdapter);
  return !software || settings.softwareGpu;
}

async function openWorker(provider) {
  await loadFiles(provider === "webgpu" ? ["model", "webgpu", "golden"] : ["model", "wasm"]);
  const source = new Blob([`"use strict";(${program})();`], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(source));
  const answer = ask(worker, { open: { settings, assets, provider } });
  for (const name of Object.keys(assets)) if (provider === "wasm" || name.startsWith("ort.")) delete assets[name];
  const { opened } = await answer.catch((error) => {
    worker.terminate();
    throw error;
  });
  return { worker, engine: opened };
}

/** Send a message to the worker; the promise of its answer. States that come before it go to the page. */
function ask(worker, message, transfer = []) {
  return new Promise((resolve, reject) => {
    worker.onerror = (event) => reject(new Error(event.message));
    worker.onmessage = ({ data }) => {
      if (data.state) showState(data.state);
      else if (data.error) reject(data.expected ? new UserError(data.error) : new Error(data.error));
      else resolve(data);
    };
    worker.postMessage(message, transfer);
  });
}

class UserError extends Error {}

/** Decode a photo as it is to be seen: upright, sRGB, white behind what is transparent. */
async function readPhoto(file) {
  const image = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => {
    throw new UserError(`${file.name}: not a photo that this browser can read; use JPEG, PNG or WebP`);
  });
  const { width, height } = image;
  if (width * height > MAX_PIXELS) {
    throw new UserError(
      `${file.name}: ${(width * height / 1e6).toFixed(0)} megapixels: expected at most ${MAX_PIXELS / 1e6}; make it smaller`,
    );
  }
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  image.close();
  const pixels = context.getImageData(0, 0, width, height).data; // RGBA
  const data = new Uint8ClampedArray(3 * width * height);
  for (let from = 0, to = 0; from < pixels.length; from += 4) {
    data[to++] = pixels[from];
    data[to++] = pixels[from + 1];
    data[to++] = pixels[from + 2];
  }
  return { name: file.name.replace(/\.[^.]*$/, "") || "photo", width, height, data };
}

async function choosePhoto(file) {
  try {
    photo = await readPhoto(file);
    known = null;
    showPhoto(photo);
    await segment();
  } catch (error) {
    showError(error);
  }
}

function question() {
  return { photo, classes: element("classes").value, onlyClasses: element("only").checked };
}

function isAnswered() {
  const now = question();
  return answered !== null && Object.keys(now).every((key) => now[key] === answered[key]);
}

/** Segment the photo on the page into the classes of the form; a question that comes meanwhile is asked after. */
async function segment() {
  if (!photo) throw new UserError("no photo is chosen; choose one first");
  waiting = true;
  if (asked) return;
  asked = true;
  answered = null;
  element("picture").classList.add("busy");
  try {
    while (waiting && !isAnswered()) {
      waiting = false;
      await segmentOnce(question());
    }
  } finally {
    asked = waiting = false;
    element("picture").classList.remove("busy");
  }
}

async function segmentOnce(current) {
  opening ??= openModel();
  const { worker, engine } = await opening.catch((error) => {
    opening = null;
    throw error;
  });
  const { width, height, data } = current.photo;
  const fresh = known === current.photo ? {} : { photo: { width, height, data } };
  showState("Looking at the photo");
  known = null;
  const { result } = await ask(worker, { segment: { ...current, photo: fresh.photo } });
  known = current.photo;
  if (photo !== current.photo) return; // another photo was chosen meanwhile
  answered = current;
  showResult(photo, result, settings.palette);
  const { photo: first, words } = result.seconds;
  const parts = first >= 0.05 ? [`photo ${first.toFixed(1)} s`] : [];
  showState(`Done: ${[...parts, `classes ${words.toFixed(1)} s`].join(", ")}. ${engine}.`, "done");
}

/** Segment again where the form has changed. */
function follow() {
  if (photo && !isAnswered()) segment().catch(showError);
}

/** Say what is going on: `kind` is busy, done or error. */
function showState(text, kind = "busy") {
  element("message").className = kind;
  element("message").textContent = text;
}

function showError(error) {
  if (!(error instanceof UserError)) console.error(error);
  showState(error instanceof UserError ? error.message : `The program failed: ${error.message}`, "error");
}

element("file").addEventListener("change", (event) => {
  if (event.target.files.length) choosePhoto(event.target.files[0]);
});
element("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  segment().catch(showError);
});
element("only").addEventListener("change", follow);
element("classes").addEventListener("change", follow);
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) choosePhoto(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = Array.from(event.clipboardData.files).find(({ type }) => type.startsWith("image/"));
  if (file) choosePhoto(file);
});
