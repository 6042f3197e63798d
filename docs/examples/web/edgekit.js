// Opens an edgekit bundle for LiteRT in a browser, with `classify` and `embed` of `edgekit.load(bundle)`:
//
//   import {open} from "./edgekit.js";
//   const model = await open("bundle/");
//   const {top} = await model.classify(file); // a Blob, ImageBitmap, <img>, <canvas> or <video>
//   const {vector} = await model.embed(file); // of a model without classes

const RUNTIME = new URL("runtime/", import.meta.url);
// The smallest modules with an instruction of SIMD, and of relaxed SIMD, in which LiteRT.js is faster on most phones.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];
const RELAXED = [...SIMD.slice(0, 19), 10, 15, 1, 13, 0, 65, 0, 253, 15, 65, 0, 253, 15, 253, 146, 2, 11];

export async function open(folder) {
  const at = (name) => new URL(name, new URL(folder, document.baseURI));
  const manifest = await (await fetched(at("manifest.json"))).json();
  const [runtime, model, labels] = await Promise.all([
    startRuntime(),
    fetched(at(manifest.model_file)).then((answer) => answer.arrayBuffer()),
    fetched(at(manifest.labels_file)).then((answer) => answer.text()),
  ]);
  await check(model, manifest.files[manifest.model_file].sha256);
  const run = await loadModel(runtime, model, manifest.classes);
  const values = manifest.dtype === "uint8" ? Uint8Array : Float32Array;
  await run(new values(manifest.input_shape.reduce((product, side) => product * side))); // the first run is slow
  return new Model(manifest, labels.split("\n").slice(0, manifest.classes), run);
}

class Model {
  constructor(manifest, labels, run) {
    Object.assign(this, {manifest, labels, run, activation: manifest.activation ?? "softmax"});
  }

  get givesVectors() {
    return ["normalize", "none"].includes(this.activation);
  }

  // The labels whose scores reach their thresholds, the best first: at most `count`, by default 5 of a softmax and all of
  // a sigmoid. Also the milliseconds to prepare the decoded image and to run the model.
  async classify(source, count, threshold) {
    if (this.givesVectors) throw new Error("This bundle gives vectors: call embed.");
    const {values: scores, ...times} = await this.outputs(source), several = this.activation === "sigmoid";
    const least = (index) => threshold ?? this.manifest.thresholds?.[index] ?? (several ? 0.5 : 0);
    const ranks = [...scores.keys()].filter((index) => scores[index] >= least(index)).sort((a, b) => scores[b] - scores[a]);
    const top = ranks.slice(0, count ?? (several ? Infinity : 5));
    return {top: top.map((index) => ({label: this.labels[index], score: scores[index]})), ...times};
  }

  // The image's vector, a Float32Array, of length 1 if the manifest says so, and the same milliseconds.
  async embed(source) {
    if (!this.givesVectors) throw new Error("This bundle gives scores of classes: call classify.");
    const {values: vector, ...times} = await this.outputs(source);
    return {vector, ...times};
  }

  async outputs(source) {
    const image = await pixels(source), start = performance.now();
    const bytes = crop(image, this.manifest.preprocessing);
    const input = this.manifest.dtype === "uint8" ? bytes : normalize(bytes, this.manifest), prepared = performance.now();
    const raw = await this.run(input), end = performance.now();
    if (!raw.every(Number.isFinite)) throw new Error("The outputs are NaN or infinite: the model is damaged.");
    return {values: Float32Array.from(activated(raw, this.activation)), prepareMs: prepared - start, runMs: end - prepared};
  }
}

function activated(outputs, activation) {
  if (activation === "none") return outputs;
  if (activation === "sigmoid") return Array.from(outputs, (logit) => 1 / (1 + Math.exp(-logit)));
  if (activation === "normalize") {
    const length = Math.max(Math.hypot(...outputs), 1e-12);
    return outputs.map((value) => value / length);
  }
  const best = Math.max(...outputs), powers = Array.from(outputs, (logit) => Math.exp(logit - best));
  const sum = powers.reduce((total, power) => total + power);
  return powers.map((power) => power / sum);
}

async function fetched(url) {
  const answer = await fetch(url, {cache: "no-cache"}); // so that model, labels and manifest are of one bundle
  if (!answer.ok) throw new Error(`${url}: HTTP status ${answer.status}`);
  return answer;
}

async function check(content, sha256) {
  if (!crypto.subtle) return; // on a page that came over plain HTTP
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== sha256) throw new Error("The model is not the one that its manifest describes.");
}

async function startRuntime() {
  if (!WebAssembly.validate(new Uint8Array(SIMD))) throw new Error("This browser has no WebAssembly SIMD: please update it.");
  const build = WebAssembly.validate(new Uint8Array(RELAXED)) ? "litert_wasm_internal" : "litert_wasm_compat_internal";
  await new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), {src: new URL(`${build}.js`, RUNTIME), onload: resolve});
    script.onerror = () => reject(new Error(`${script.src} can't be loaded.`));
    document.head.append(script);
  });
  return ModuleFactory({locateFile: (file) => new URL(file, RUNTIME).href});
}

async function loadModel(runtime, content, classes) {
  const environment = runtime.LiteRtEnvironment.create(null), at = runtime._malloc(content.byteLength);
  runtime.HEAPU8.set(new Uint8Array(content), at); // stays there, because the model refers to it
  const model = runtime.loadModel(environment, at, content.byteLength);
  const options = {accelerator: "wasm", cpuOptions: {numThreads: 1}, gpuOptions: {}, webNNOptions: {}};
  const compiled = await runtime.compileModel(environment, model, options);
  const type = model.getInputTensorType(0, 0), {READ, WRITE} = runtime.LiteRtTensorBufferLockMode;
  const memory = runtime.LiteRtTensorBufferType.HOST_MEMORY;
  const input = runtime.LiteRtTensorBuffer.createManaged(environment, memory, type, type.bytes());
  return async (values) => {
    runtime.HEAPU8.set(new Uint8Array(values.buffer), input.lock(WRITE));
    input.unlock();
    const [output] = await compiled.run(0, [input]);
    const from = output.lock(READ), bytes = runtime.HEAPU8.slice(from, from + output.packedSize());
    output.unlock();
    output.delete();
    if (bytes.length !== 4 * classes) throw new Error("An older edgekit made this bundle, with integer logits: make it again.");
    return new Float32Array(bytes.buffer);
  };
}

// The decoded image as ImageData (RGBA), upright and without conversion of colours, as Pillow decodes it.
export async function pixels(source) {
  const image = source instanceof Blob ? await createImageBitmap(source, {colorSpaceConversion: "none"}) : source;
  const width = image.videoWidth ?? image.naturalWidth ?? image.width;
  const height = image.videoHeight ?? image.naturalHeight ?? image.height;
  const context = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, width, height);
}

// The resized and cropped image, bytes [height, width, channels]: byte for byte that of edgekit in Python.
export function crop(whole, preprocessing) {
  const {height: rows, width: columns, mean, interpolation} = preprocessing, channels = mean.length;
  const [tall, wide] = resizedSize(whole.height, whole.width, preprocessing);
  const factor = reduction(whole, tall, wide, preprocessing.margin), {data, width, height} = reduced(whole, factor);
  const high = whole.height / factor, broad = whole.width / factor; // which may end in the middle of a pixel
  const top = offset(tall, rows), left = offset(wide, columns);
  const [above, before] = [top, left].map((start) => Math.max(-start, 0));
  const isPart = preprocessing.crop_mode === "center";
  const down = taps(high, tall, Math.max(top, 0), Math.min(top + rows, tall), interpolation, isPart);
  const across = taps(broad, wide, Math.max(left, 0), Math.min(left + columns, wide), interpolation, isPart);
  const [bytes, stride] = channels === 1 ? [grey(data), 1] : [data, 4];
  const image = resample(bytes, width, stride, channels, across, down);
  if (down.length === rows && across.length === columns) return image;
  const fill = mean.map((value) => (preprocessing.crop_mode === "border" ? round(255 * value) : 0));
  const padded = Uint8ClampedArray.from({length: rows * columns * channels}, (_, index) => fill[index % channels]);
  const line = across.length * channels;
  for (let row = 0; row < down.length; row++) {
    padded.set(image.subarray(row * line, (row + 1) * line), ((above + row) * columns + before) * channels);
  }
  return padded;
}

// (bytes / 255 - mean) / std as float32, in the order of the model's input.
export function normalize(bytes, {preprocessing: {mean, std}}) {
  const f = Math.fround, channels = mean.length, area = bytes.length / channels;
  const values = new Float32Array(bytes.length);
  for (let channel = 0; channel < channels; channel++) {
    const table = Float32Array.from({length: 256}, (_, level) => f(f(level / 255) - f(mean[channel])) / f(std[channel]));
    for (let pixel = 0; pixel < area; pixel++) values[channel * area + pixel] = table[bytes[pixel * channels + channel]];
  }
  return values;
}

// Height and width before the crop, rounded as timm and torchvision do.
function resizedSize(height, width, {height: rows, width: columns, crop_pct, crop_mode}) {
  const [tall, wide] = [rows, columns].map((side) => Math.floor(side / crop_pct));
  if (crop_mode === "squash") return [tall, wide];
  if (crop_mode === "center" && tall === wide) {
    const longer = Math.trunc((tall * Math.max(height, width)) / Math.min(height, width));
    return width <= height ? [longer, tall] : [tall, longer];
  }
  const ratio = (crop_mode === "border" ? Math.max : Math.min)(height / tall, width / wide);
  return [height, width].map((side) => Math.max(round(side / ratio), 1));
}

// The factor by which the fast form reduces an image before it is resized.
function reduction({height, width}, tall, wide, margin) {
  const fits = (factor) => height >= factor * margin * tall && width >= factor * margin * wide;
  return (margin && [8, 4, 2].find(fits)) || 1;
}

// The mean of each factor x factor pixels (RGBA), rounded as Pillow does.
function reduced({data, width, height}, factor) {
  if (factor === 1) return {data, width, height};
  const columns = Math.ceil(width / factor), rows = Math.ceil(height / factor);
  const image = new Uint8ClampedArray(rows * columns * 4);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const bottom = Math.min((row + 1) * factor, height), right = Math.min((column + 1) * factor, width);
      const count = (bottom - row * factor) * (right - column * factor), share = Math.trunc(2 ** 24 / count);
      for (let channel = 0; channel < 4; channel++, at++) {
        let sum = count >> 1;
        for (let y = row * factor; y < bottom; y++)
          for (let x = column * factor; x < right; x++) sum += data[(y * width + x) * 4 + channel];
        image[at] = Math.floor((sum * share) / 2 ** 24);
      }
    }
  }
  return {data: image, width: columns, height: rows};
}

// Start of the crop, negative if the image must be padded.
function offset(size, target) {
  return size >= target ? round((size - target) / 2) : -Math.floor((target - size) / 2);
}

// Python's round: halves go to the even number.
function round(value) {
  const floor = Math.floor(value), rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2) ? floor + 1 : floor;
}

function grey(data) {
  const bytes = new Uint8ClampedArray(data.length / 4);
  for (let i = 0, at = 0; i < bytes.length; i++, at += 4) {
    bytes[i] = (data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 0x8000) >> 16;
  }
  return bytes;
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const FILTERS = { // Pillow's: how far each reaches, and its weight at a distance
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(1 - Math.abs(x), 0)],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * (Math.fround(0.54) + Math.fround(0.46) * Math.cos(x * Math.PI)) : 0)],
  bicubic: [2, (x) => cubic(Math.abs(x))],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};
function cubic(x) {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

// For each position from `first` to `end` of a side that is resized: the first pixel it is made of, and their weights.
// edgekit asks Pillow for a part alone if the image is cropped at its center. The part's place in the image is a float32.
const BITS = 22;
function taps(from, to, first, end, interpolation, isPart) {
  const scale = from / to, all = [];
  if (from === to || interpolation === "nearest") {
    for (let i = 0, at = scale * 0.5; i < end; i++, at += scale) {
      if (i >= first) all.push([Math.trunc(at), Int32Array.of(1 << BITS)]);
    }
    return all;
  }
  const [reach, weight] = FILTERS[interpolation], inFloat = isPart && interpolation !== "box";
  const [low, high] = [first, end].map((place) => Math.fround(place * scale)), count = Math.ceil(from);
  const step = inFloat ? Math.fround(high - low) / (end - first) : scale, stretch = Math.max(step, 1), support = reach * stretch;
  for (let i = first; i < end; i++) {
    const center = inFloat ? low + (i - first + 0.5) * step : (i + 0.5) * step, weights = [];
    const start = Math.max(Math.trunc(center - support + 0.5), 0), stop = Math.min(Math.trunc(center + support + 0.5), count);
    for (let x = start; x < stop; x++) weights.push(weight((x - center + 0.5) * (1 / stretch)));
    const sum = weights.reduce((total, value) => total + value, 0);
    all.push([start, Int32Array.from(weights, (value) => scaled(sum === 0 ? value : value / sum))]);
  }
  return all;
}

function scaled(weight) {
  return Math.trunc(weight * (1 << BITS) + (weight < 0 ? -0.5 : 0.5));
}

// Two passes in integers, first along the rows, which give bytes as Pillow's do. Only what the crop needs is computed.
function resample(data, width, stride, channels, across, down) {
  const columns = across.length, line = columns * channels, top = down[0][0], [last, {length}] = down.at(-1);
  const bottom = last + length, middle = new Uint8ClampedArray((bottom - top) * line);
  for (let row = top; row < bottom; row++) {
    for (let column = 0, at = (row - top) * line; column < columns; column++) {
      const [start, weights] = across[column];
      for (let channel = 0, from = (row * width + start) * stride; channel < channels; channel++) {
        middle[at++] = weighed(data, from + channel, stride, weights);
      }
    }
  }
  const image = new Uint8ClampedArray(down.length * line);
  for (let row = 0, at = 0; row < down.length; row++) {
    const [start, weights] = down[row];
    for (let value = 0; value < line; value++) image[at++] = weighed(middle, (start - top) * line + value, line, weights);
  }
  return image;
}

function weighed(bytes, at, stride, weights) {
  let sum = 1 << (BITS - 1);
  for (let i = 0; i < weights.length; i++, at += stride) sum = (sum + Math.imul(bytes[at], weights[i])) | 0;
  return sum >> BITS;
}
