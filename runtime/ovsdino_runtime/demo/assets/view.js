// The view of an answer: photo, regions over it, legend, and what is under the pointer.
// `element`, `props` and `watch` are Gradio's; the page re-renders the template, so elements are looked up each time.
const find = (name) => element.querySelector("." + name);
const LINE = 255; // opacity of the line between regions, of 255
const FAINT = 40; // opacity of what is not marked
let shown = null; // {answer, labels, scores, width, height}: the last answer that was drawn
let marked = null; // label under the pointer in the legend
let opacity = 60; // [%]
let turn = 0; // of answers: an older one that is decoded later is not drawn

function url(name) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("the answer cannot be shown"));
    image.src = name;
  });
}

// Red and green are a label's low and high byte, blue is the score in hundredths.
async function unpack(answer) {
  const image = await url(answer.labels);
  const canvas = document.createElement("canvas");
  const [width, height] = [(canvas.width = image.width), (canvas.height = image.height)];
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  context.drawImage(image, 0, 0);
  const bytes = context.getImageData(0, 0, width, height).data;
  const labels = new Uint16Array(width * height);
  const scores = new Uint8Array(width * height);
  for (let i = 0; i < labels.length; i++) {
    labels[i] = bytes[4 * i] | (bytes[4 * i + 1] << 8);
    scores[i] = bytes[4 * i + 2];
  }
  return { answer, labels, scores, width, height };
}

function paint() {
  const { answer, labels, width, height } = shown;
  const canvas = find("regions");
  [canvas.width, canvas.height] = [width, height];
  const colours = new Map(answer.entries.map((entry) => [entry.label, entry.colour]));
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  const pixels = new Uint32Array(picture.data.buffer); // ABGR
  const colour = new Uint32Array(65536);
  for (const [label, [red, green, blue]] of colours) {
    const clear = answer.background && label === 0 && marked !== 0;
    const strength = clear ? 0 : marked === null || marked === label ? 255 : FAINT;
    colour[label] = ((strength << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  }
  const line = ((LINE << 24) | 0xffffff) >>> 0;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const label = labels[i];
      const edge = (x > 0 && labels[i - 1] !== label) || (y > 0 && labels[i - width] !== label);
      pixels[i] = edge ? line : colour[label];
    }
  }
  context.putImageData(picture, 0, 0);
  canvas.style.opacity = opacity / 100;
  canvas.setAttribute("aria-label", "Regions: " + answer.entries.map((entry) => entry.name).join(", "));
}

const percent = (share) => (share < 0.001 ? "< 0.1 %" : (100 * share).toFixed(share < 0.1 ? 1 : 0) + " %");
const time = (ms) => (ms < 10 ? ms.toFixed(1) : Math.round(ms)) + " ms";

function describe(answer) {
  const now = answer.new ? "photo " + time(answer.image_features) + ", " : "";
  const before = answer.new ? "" : " Photo seen before, in " + time(answer.image_features) + ".";
  const parts = now + "words " + time(answer.words) + ", naming " + time(answer.naming);
  const took = time(answer.total) + ": " + parts + ", drawing " + time(answer.drawing);
  return answer.model + " on " + answer.engine + "." + before + " This answer in " + took + ".";
}

function list(answer) {
  find("legend").replaceChildren(
    ...answer.entries.map((entry) => {
      const item = document.createElement("li");
      item.dataset.label = entry.label;
      item.style.setProperty("--swatch", "rgb(" + entry.colour.join(" ") + ")");
      item.title = "mean confidence " + Math.round(100 * entry.score) + " %";
      const share = document.createElement("span");
      share.className = "share";
      share.textContent = percent(entry.share);
      item.append(entry.name, share);
      return item;
    }),
  );
}

// What is downloaded: labels and JSON come with the answer, the overlay is drawn as it is seen.
function offer(answer) {
  for (const [name, file] of Object.entries(answer.files)) {
    const link = find("files").querySelector("[data-file=" + name + "]");
    link.href = file;
    link.download = name === "labels" ? "labels.png" : "result.json";
  }
  find("python").querySelector("pre").textContent = answer.python;
}

const GAP = 12; // [px] around a legend's entries
function overlay() {
  const { answer, width, height } = shown;
  const size = Math.max(13, Math.round(Math.sqrt(width * height) / 36)); // [px] of the letters
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const font = size + "px system-ui, sans-serif";
  context.font = font;
  const texts = answer.entries.map((entry) => entry.name + "  " + percent(entry.share));
  const column = Math.max(...texts.map((text) => context.measureText(text).width)) + 2 * size + GAP;
  const columns = Math.max(1, Math.floor((width - GAP) / column));
  const line = Math.round(1.6 * size);
  [canvas.width, canvas.height] = [width, height + 2 * GAP + line * Math.ceil(texts.length / columns)];
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(find("photo"), 0, 0, width, height);
  context.globalAlpha = opacity / 100;
  context.drawImage(find("regions"), 0, 0, width, height);
  context.globalAlpha = 1;
  context.font = font;
  context.textBaseline = "middle";
  answer.entries.forEach((entry, i) => {
    const left = GAP + column * (i % columns);
    const middle = height + GAP + line * (Math.floor(i / columns) + 0.5);
    context.fillStyle = "rgb(" + entry.colour.join(" ") + ")";
    context.fillRect(left, middle - size / 2, size, size);
    context.fillStyle = "#18181b";
    context.fillText(texts[i], left + 1.5 * size, middle);
  });
  return canvas.toDataURL("image/png");
}

function press(event) {
  if (event.target.closest("[data-file=overlay]") && shown) {
    const link = document.createElement("a");
    [link.href, link.download] = [overlay(), "overlay.png"];
    link.click();
  }
  const copy = event.target.closest("[data-copy]");
  if (!copy) return;
  const text = find("python").querySelector("pre");
  const told = (word) => {
    copy.textContent = word;
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  };
  const select = () => {
    getSelection().selectAllChildren(text); // no clipboard without https: the reader copies what is marked
    told("Selected");
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text.textContent).then(() => told("Copied"), select);
  else select();
}

function say(text, error) {
  const message = find("message");
  message.textContent = text;
  message.classList.toggle("error", error);
  message.setAttribute("role", error ? "alert" : "status");
}

async function show() {
  const mine = ++turn;
  const { answer, message, error } = props.value || {};
  if (!answer) {
    say(message || error || "", Boolean(error));
    find("answer").hidden = true;
    return;
  }
  const next = await unpack(answer);
  if (mine !== turn) return;
  [shown, marked] = [next, null];
  say("", false);
  find("photo").src = answer.photo;
  find("photo").width = next.width;
  find("photo").height = next.height;
  find("opacity").querySelector("input").value = opacity;
  find("tip").hidden = true;
  find("answer").hidden = false;
  paint();
  list(answer);
  offer(answer);
  find("facts").textContent = describe(answer);
}

function point(event) {
  const canvas = event.target.closest(".regions");
  const tip = find("tip");
  if (!canvas || !shown) {
    if (tip) tip.hidden = true;
    return;
  }
  const box = canvas.getBoundingClientRect();
  const across = event.clientX - box.left;
  const down = event.clientY - box.top;
  const x = Math.min(shown.width - 1, Math.max(0, Math.floor((across / box.width) * shown.width)));
  const y = Math.min(shown.height - 1, Math.max(0, Math.floor((down / box.height) * shown.height)));
  const label = shown.labels[y * shown.width + x];
  const entry = shown.answer.entries.find((one) => one.label === label);
  tip.textContent = entry.name + "  " + shown.scores[y * shown.width + x] + " %";
  tip.hidden = false;
  const left = Math.min(across + 14, box.width - tip.offsetWidth - 4);
  const top = down + 18 + tip.offsetHeight > box.height ? down - tip.offsetHeight - 10 : down + 18;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, top) + "px";
}

function mark(event) {
  const item = event.target.closest(".legend li");
  const label = item ? Number(item.dataset.label) : null;
  if (!shown || label === marked) return;
  marked = label;
  for (const other of find("legend").children) other.classList.toggle("marked", other === item);
  paint();
}

element.addEventListener("pointermove", point);
element.addEventListener("pointerdown", point);
element.addEventListener("pointerover", mark);
element.addEventListener("pointerleave", (event) => {
  if (event.pointerType === "mouse") find("tip").hidden = true;
  mark(event);
});
element.addEventListener("click", press);
element.addEventListener("input", (event) => {
  if (!event.target.closest(".opacity")) return;
  opacity = Number(event.target.value);
  find("regions").style.opacity = opacity / 100;
});
watch("value", show);
show();
