// The result: the photo with its regions, the legend, and files to save. Looks as the runtime's overlay.

"use strict";

const TINT = 140; // opacity of a region, 0..255
const LINE = 235; // opacity of the line between two regions
let shown = null; // {photo, labels, names, background, palette}: what is on the page
let single = null; // the label that is shown alone, by the legend

function showPhoto(photo) {
  shown = null;
  const canvas = element("photo");
  canvas.width = photo.width;
  canvas.height = photo.height;
  canvas.getContext("2d").putImageData(imageOf(photo), 0, 0);
  canvas.hidden = false;
  element("regions").hidden = true;
  element("empty").hidden = true;
  element("picture").classList.add("shown");
  element("legend").replaceChildren();
  element("after").hidden = true;
}

function imageOf({ width, height, data }) {
  const image = new ImageData(width, height);
  for (let from = 0, to = 0; from < data.length; ) {
    image.data[to++] = data[from++];
    image.data[to++] = data[from++];
    image.data[to++] = data[from++];
    image.data[to++] = 255;
  }
  return image;
}

function showResult(photo, { labels, names, background }, palette) {
  shown = { photo, labels, names, background, palette };
  single = null;
  drawRegions();
  drawLegend();
  element("after").hidden = false;
}

function colourOf(label) {
  const number = label - (shown.background ? 1 : 0);
  return shown.palette[number % shown.palette.length];
}

/** Tint each region, and draw lines between regions; the background stays as it is. */
function drawRegions() {
  const { photo: { width, height }, labels, names, background } = shown;
  const canvas = element("regions");
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer); // RGBA of each
  const tints = names.map((_, label) => {
    const hidden = (background && label === 0) || (single !== null && label !== single);
    return hidden ? 0 : packColour([...colourOf(label), TINT]);
  });
  const line = packColour([255, 255, 255, LINE]);
  const lines = edges(labels, width, height);
  for (let p = 0; p < labels.length; p++) pixels[p] = lines[p] && single === null ? line : tints[labels[p]];
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.hidden = false;
}

/** The four bytes of a colour as one number, in the order in which this machine keeps them. */
function packColour(bytes) {
  return new Uint32Array(Uint8Array.from(bytes).buffer)[0];
}

/** Mark the pixels above and left of which another region begins. */
function edges(labels, width, height) {
  const thickness = Math.max(1, Math.round(Math.min(width, height) / 400));
  const marked = new Uint8Array(labels.length);
  for (let p = 0; p < labels.length; p++) {
    const column = p % width;
    const begins = (column && labels[p] !== labels[p - 1]) || (p >= width && labels[p] !== labels[p - width]);
    if (!begins) continue;
    for (let down = 0; down < thickness && p + down * width < labels.length; down++) {
      marked.fill(1, p + down * width, p + down * width + Math.min(thickness, width - column));
    }
  }
  return marked;
}

/** The classes of the photo with their shares, the largest first; those that were not found at the end. */
function drawLegend() {
  const counts = new Array(shown.names.length).fill(0);
  for (const label of shown.labels) counts[label]++;
  const order = counts.map((_, label) => label).filter((label) => counts[label] || !(shown.background && label === 0));
  order.sort((a, b) => counts[b] - counts[a] || a - b);
  const items = order.slice(0, 60).map((label) => legendItem(label, counts[label] / shown.labels.length));
  if (order.length > items.length) items.push(Object.assign(document.createElement("li"), { textContent: `${order.length - items.length} more` }));
  element("legend").replaceChildren(...items);
}

function legendItem(label, share) {
  const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
  if (!(shown.background && label === 0)) swatch.style.background = `rgb(${colourOf(label).join(" ")})`;
  const name = Object.assign(document.createElement("span"), { className: "name", textContent: shown.names[label] });
  const part = Object.assign(document.createElement("span"), { className: "share", textContent: percent(share) });
  const button = Object.assign(document.createElement("button"), { type: "button", title: "Show this class alone" });
  button.append(swatch, name, part);
  button.disabled = !share;
  button.addEventListener("click", () => {
    single = single === label ? null : label;
    for (const other of element("legend").querySelectorAll("button")) other.ariaPressed = String(other === button && single !== null);
    drawRegions();
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function percent(share) {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

function pointAt(event) {
  const box = element("regions").getBoundingClientRect();
  const { width, height } = shown.photo;
  const column = Math.floor(((event.clientX - box.left) / box.width) * width);
  const row = Math.floor(((event.clientY - box.top) / box.height) * height);
  const inside = column >= 0 && row >= 0 && column < width && row < height;
  element("tip").hidden = !inside;
  if (!inside) return;
  const frame = element("picture").getBoundingClientRect();
  element("tip").textContent = shown.names[shown.labels[row * width + column]];
  element("tip").style.left = `${event.clientX - frame.left}px`;
  element("tip").style.top = `${Math.max(40, event.clientY - frame.top)}px`;
}

function save(blob, ending) {
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(blob),
    download: `${shown.photo.name}_${ending}.png`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function saveOverlay() {
  const { width, height } = shown.photo;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(element("photo"), 0, 0);
  context.globalAlpha = element("opacity").value / 100;
  context.drawImage(element("regions"), 0, 0);
  canvas.toBlob((blob) => save(blob, "overlay"));
}

element("picture").addEventListener("pointermove", (event) => shown && pointAt(event));
element("picture").addEventListener("pointerdown", (event) => shown && pointAt(event));
element("picture").addEventListener("pointerleave", () => (element("tip").hidden = true));
element("opacity").addEventListener("input", (event) => (element("regions").style.opacity = event.target.value / 100));
element("save-overlay").addEventListener("click", saveOverlay);
element("save-labels").addEventListener("click", async () => {
  const { photo: { width, height }, labels, names } = shown;
  save(await encodeGreyPng(labels, width, height, names.length > 256 ? 16 : 8), "labels");
});
