// Runs bundles in LiteRT's WebAssembly module, in a thread of its own. Each request has all that it needs, so that a page
// that was loaded again can go on. The module's own JavaScript interface is not used, because it needs a second package.
"use strict";
importScripts("sha256.js");

let runtime;
const models = new Map(); // by SHA-256
const TICKS = 50; // steps of the clock that a timed batch takes at least
const PROGRESS_MS = 300;

async function fetched({url, sha256: expected}, report = () => {}) {
  const answer = await fetch(url, {cache: "no-store"}), reader = answer.body.getReader(), parts = [];
  if (!answer.ok) throw new Error(`${url}: HTTP status ${answer.status}`);
  for (let part; !(part = await reader.read()).done; report(0)) parts.push(part.value);
  const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  if ((await sha256(bytes)) !== expected) throw new Error(`${url}: the file was altered on its way here`);
  return bytes;
}

async function startRuntime(build, report) {
  const script = new URL(build.script, self.location).href, wasmBinary = await fetched(build.wasm, report);
  return async () => {
    importScripts(script);
    runtime = await self.ModuleFactory({wasmBinary, mainScriptUrlOrBlob: script, locateFile: (name) => new URL(name, script).href});
    runtime.environment = runtime.LiteRtEnvironment.create(null);
  };
}

async function loadModel(bytes, threads) {
  const at = runtime._malloc(bytes.length);
  runtime.HEAPU8.set(bytes, at);
  const model = runtime.loadModel(runtime.environment, at, bytes.length);
  const options = {accelerator: "wasm", cpuOptions: {numThreads: threads}, gpuOptions: {}, webNNOptions: {}};
  const compiled = await runtime.compileModel(runtime.environment, model, options);
  const type = model.getInputTensorType(0, 0), {READ, WRITE} = runtime.LiteRtTensorBufferLockMode;
  const input = runtime.LiteRtTensorBuffer.createManaged(runtime.environment, runtime.LiteRtTensorBufferType.HOST_MEMORY, type, type.bytes());
  return {
    put(image) {
      runtime.HEAPU8.set(new Uint8Array(image.buffer, image.byteOffset, image.byteLength), input.lock(WRITE));
      input.unlock();
    },
    async run() {
      const [output] = await compiled.run(0, [input]);
      const from = output.lock(READ), logits = runtime.HEAPU8.slice(from, from + output.packedSize());
      output.unlock();
      output.delete();
      return new Float32Array(logits.buffer);
    },
    bytes: type.bytes(),
  };
}

async function ready({build, models: wanted}, report) {
  if (!runtime) await (await startRuntime(build, report))();
  for (const model of wanted) {
    if (!models.has(model.sha256)) models.set(model.sha256, await loadModel(await fetched(model, report), build.threads));
  }
  return wanted.map((model) => models.get(model.sha256));
}

// A model's inputs of bytes [count, height, width, channels]: themselves, or normalized by a table for each channel.
function* inputs(pixels, {count, shape, table}) {
  const tables = table.map((values) => Float32Array.from(values)), channels = tables.length;
  const size = shape.reduce((product, side) => product * side), area = size / channels;
  for (let from = 0; from < count * size; from += size) {
    const values = channels ? new Float32Array(size) : pixels.subarray(from, from + size);
    for (let channel = 0; channel < channels; channel++)
      for (let pixel = 0; pixel < area; pixel++) values[channel * area + pixel] = tables[channel][pixels[from + pixel * channels + channel]];
    yield values;
  }
}

// Time to start the runtime and load the model, and that of the first inference. The files are here before.
async function open({build, models: [model]}, report) {
  const start = await startRuntime(build, report), bytes = await fetched(model, report), before = performance.now();
  await start();
  models.set(model.sha256, await loadModel(bytes, build.threads));
  const loaded = performance.now(), opened = models.get(model.sha256);
  opened.put(new Uint8Array(opened.bytes));
  await opened.run();
  return {load_ms: loaded - before, first_ms: performance.now() - loaded};
}

async function logits(request, report) {
  const count = (done) => report(request.before + done);
  const [model] = await ready(request, count), [images] = request.images, parts = [];
  for (const image of inputs(await fetched(images.pixels), images)) {
    model.put(image);
    count(parts.push(await model.run()));
  }
  const all = new Float32Array(parts.reduce((length, part) => length + part.length, 0));
  parts.forEach((part, index) => all.set(part, index * part.length));
  return all;
}

// Runs a model without timing it at the start of its turn, because the others have emptied the processor's caches.
async function lead(model, {lead_runs, lead_ms}) {
  const end = performance.now() + lead_ms;
  let runs = 0;
  do await model.run(), runs++;
  while (runs < lead_runs && performance.now() < end);
}

// Milliseconds of each model, which run in turns. Where the clock is coarse, a time is the mean of a batch.
async function times(request, report) {
  const opened = await ready(request, report);
  for (const [index, images] of request.images.entries()) {
    const [image] = inputs(await fetched(images.pixels), images);
    opened[index].put(image);
  }
  for (let round = 0; round < request.warmup; round++) {
    for (const model of opened) await model.run();
    report(round + 1);
  }
  const batches = [];
  for (const model of opened) {
    const least = TICKS * request.clock_ms, start = performance.now();
    let runs = 0;
    do await model.run(), runs++;
    while (performance.now() - start < least);
    batches.push(runs);
  }
  const all = opened.map(() => []);
  for (let done = 0; done < request.rounds; done += request.turn) {
    const turn = Math.min(request.turn, request.rounds - done);
    for (const [index, model] of opened.entries()) {
      if (opened.length > 1) await lead(model, request);
      for (let round = 0; round < turn; round++) {
        const start = performance.now();
        for (let run = 0; run < batches[index]; run++) await model.run();
        all[index].push((performance.now() - start) / batches[index]);
      }
      report(request.warmup + done + Math.floor((turn * (index + 1)) / opened.length));
    }
  }
  return {times: all, batches};
}

const OPERATIONS = {open, logits, times};

self.onmessage = async ({data: request}) => {
  let reported = -Infinity;
  const report = (done) => { // steps done, without which edgekit would take a slow page for a frozen one
    if (performance.now() > reported + PROGRESS_MS) self.postMessage({id: request.id, done}), (reported = performance.now());
  };
  try {
    const result = await OPERATIONS[request.operation](request, report);
    self.postMessage({id: request.id, result});
  } catch (error) {
    self.postMessage({id: request.id, error: String(error?.message ?? error)});
  }
};
