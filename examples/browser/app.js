// Scores images with an exported model, in the page alone. Pixels are made as by cxr_sklearn's own decoder.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1;  // several would need headers that a plain server does not send

/** From the bytes of an exported model to what it says of itself; throws if they are not one, or not whole. */
export async function readMetadata(bytes) {
  let found;
  for (const [number, entry] of fields(bytes)) {
    if (number !== 14) continue;  // ModelProto.metadata_props
    const parts = Object.fromEntries(fields(entry));
    if (text(parts[1]) === "cxr_sklearn") found = parts[2];
  }
  if (!found) throw Error("this is not a model that cxr-sklearn exported");
  let facts;
  try { facts = JSON.parse(text(found)); } catch { throw Error("this is not a whole model"); }
  if (facts.format !== 1) throw Error(`this page reads format 1, not ${facts.format}`);
  // The digest is that of the file with zeros in its own place.
  const at = found.byteOffset - bytes.byteOffset + text(found).indexOf(facts.sha256);
  const zeroed = bytes.slice();
  zeroed.fill(48, at, at + 64);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", zeroed));
  if ([...digest].map(byte => byte.toString(16).padStart(2, "0")).join("") !== facts.sha256)
    throw Error("the model is damaged: its content has changed since it was exported");
  return facts;
}

// Latin-1, so that a character is a byte; the names and digits looked for are ASCII.
const text = bytes => bytes ? new TextDecoder("latin1").decode(bytes) : "";

/** The number and bytes of each field of a protocol buffer that has bytes. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      if (at >= bytes.length) throw Error("this is not an ONNX file, or not a whole one");
      value += (bytes[at] & 127) * scale;
      if (bytes[at++] < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint(), kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const size = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + size)];
      at += size;
    } else throw Error("this is not an ONNX file");
  }
}

/** Half to even, as Python rounds. */
const round = x => Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x);

/** Weights of the input pixels for each output pixel: a triangle as wide as the step, in 22 bits, as Pillow has them. */
function weights(start, end, before, after) {
  const scale = (end - start) / after, support = Math.max(scale, 1);
  return Array.from({length: after}, (_, i) => {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), before);
    const heights = Array.from({length: last - first}, (_, k) =>
      Math.max(1 - Math.abs((k + first - centre + 0.5) * (1 / support)), 0));
    const sum = heights.reduce((a, b) => a + b, 0);
    return [first, heights.map(height => Math.trunc(height / sum * (1 << 22) + 0.5))];
  });
}

/**
 * Resize a box of grey pixels {width, height, data}: first along rows, then along columns, 8 bits in between.
 * Pillow 13 sometimes takes the columns first, which changes some pixels by one grey level.
 */
export function resize(image, width, height, [left, top, right, bottom] = [0, 0, image.width, image.height]) {
  const across = weights(left, right, image.width, width), down = weights(top, bottom, image.height, height);
  const middle = new Uint8Array(width * image.height), data = new Uint8Array(width * height);
  for (let y = 0; y < image.height; y++) across.forEach(([first, taps], x) => {
    let sum = 1 << 21;
    for (let k = 0; k < taps.length; k++) sum += image.data[y * image.width + first + k] * taps[k];
    middle[y * width + x] = Math.min(sum >> 22, 255);
  });
  down.forEach(([first, taps], y) => {
    for (let x = 0; x < width; x++) {
      let sum = 1 << 21;
      for (let k = 0; k < taps.length; k++) sum += middle[(first + k) * width + x] * taps[k];
      data[y * width + x] = Math.min(sum >> 22, 255);
    }
  });
  return {width, height, data};
}

/** A part of an image; what lies outside of it is black. */
function part(image, left, top, width, height) {
  const data = new Uint8Array(width * height);
  for (let y = Math.max(-top, 0); y < Math.min(height, image.height - top); y++)
    for (let x = Math.max(-left, 0); x < Math.min(width, image.width - left); x++)
      data[y * width + x] = image.data[(y + top) * image.width + x + left];
  return {width, height, data};
}

/** Grey pixels as the model takes them: the central part, in the size of the model. */
export function fitted(image, {size: [height, width], crop, fit}) {
  const margin = side => Math.min(round(side * (1 - crop) / 2), Math.floor((side - 1) / 2));
  const [left, top] = [margin(image.width), margin(image.height)];
  if (crop < 1) image = part(image, left, top, image.width - 2 * left, image.height - 2 * top);
  const ratio = image.width / image.height, wanted = width / height;
  if (fit === "stretch" || ratio === wanted) return resize(image, width, height);
  if (fit === "crop") {
    const w = ratio > wanted ? wanted * image.height : image.width;
    const h = ratio > wanted ? image.height : image.width / wanted;
    const [x, y] = [(image.width - w) / 2, (image.height - h) / 2];
    return resize(image, width, height, [x, y, x + w, y + h].map(Math.fround));
  }
  const w = ratio > wanted ? width : round(ratio * height);
  const h = ratio > wanted ? round(image.height / image.width * width) : height;
  if (!w || !h) throw Error("the image is too narrow");
  return part(resize(image, w, h), -round((width - w) / 2), -round((height - h) / 2), width, height);
}

/** Grey pixels of a file, as Pillow makes them: transparent ones are on black. */
export async function greyPixels(file) {
  const start = new Uint8Array(await file.slice(0, 32).arrayBuffer());
  const isPng = text(start.subarray(1, 4)) === "PNG";
  if (isPng && start[24] === 16) throw Error("16-bit PNG images are scored by cxr-sklearn predict alone");
  const bitmap = await createImageBitmap(file, {colorSpaceConversion: "none"}).catch(() => {
    throw Error("the browser cannot read this image");
  });
  const {width, height} = bitmap;
  const canvas = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
  canvas.fillRect(0, 0, width, height);
  canvas.drawImage(bitmap, 0, 0);
  const colours = canvas.getImageData(0, 0, width, height).data, data = new Uint8Array(width * height);
  for (let i = 0; i < data.length; i++)
    data[i] = (colours[4 * i] * 19595 + colours[4 * i + 1] * 38470 + colours[4 * i + 2] * 7471 + 32768) >> 16;
  return {width, height, data};
}

/** Open an exported model. */
export async function openModel(bytes) {
  const facts = await readMetadata(bytes);
  return {facts, session: await ort.InferenceSession.create(bytes)};
}

/** The score of an image file, and whether it is called pneumonia. */
export async function score({facts, session}, file) {
  const {data} = fitted(await greyPixels(file), facts);
  const found = await session.run({images: new ort.Tensor("uint8", data, [1, ...facts.size])});
  return {score: Number(found.score.data[0]), decision: facts.classes[Number(found.decision.data[0])]};
}

const at = id => document.getElementById(id);
let model;

at("model").addEventListener("change", async event => {
  const [file] = event.target.files;
  if (!file) return;
  model = undefined;
  at("about").textContent = "Loading the model.";
  try {
    model = await openModel(new Uint8Array(await file.arrayBuffer()));
    at("about").textContent = `${file.name}: threshold ${model.facts.threshold.toFixed(3)}, ${model.facts.precision}.`;
  } catch (error) {
    at("about").textContent = `${file.name} cannot be used: ${error.message}`;
  }
});

async function take(files) {
  for (const file of files) {
    const row = at("rows").insertRow();
    row.insertCell().textContent = file.name;
    try {
      if (!model) throw Error("choose a model first");
      const found = await score(model, file);
      row.insertCell().textContent = found.score.toFixed(4);
      row.insertCell().textContent = found.decision;
    } catch (error) {
      const cell = row.insertCell();
      cell.colSpan = 2;
      cell.textContent = `No score: ${error.message}`;
    }
  }
}

at("images").addEventListener("change", event => take([...event.target.files]));
for (const kind of ["dragover", "drop"]) addEventListener(kind, event => {
  event.preventDefault();  // else the browser opens the file in place of the page
  if (kind === "drop") take([...event.dataTransfer.files]);
});
