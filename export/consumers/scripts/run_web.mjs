// Run a folder of `export --for web` in Node: node run_web.mjs FOLDER PRECISION
//
// It speaks as worker_io.py does: frames come from the standard input, vectors go to the standard
// output, each message a line of JSON and then raw bytes. The reader is the one in the folder; the
// package onnxruntime-web is looked for in the current folder, those above it, and NODE_PATH.

import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [folder, precision] = process.argv.slice(2);

async function main() {
  const require = createRequire(path.join(process.cwd(), "package.json"));
  const ort = require("onnxruntime-web");
  ort.env.wasm.numThreads = 1;
  const url = pathToFileURL(path.resolve(folder) + path.sep);
  const { Extractor, crop } = await import(new URL("reid.mjs", url));
  const extractor = await Extractor.load(ort, url, { precision });
  await send({ by: `onnxruntime-web ${ort.env.versions.web} in Node ${process.versions.node}` });

  const take = input();
  for (let line = await take(); line !== null; line = await take()) {
    const crops = [];
    for (const { size_hw: [height, width], box } of JSON.parse(line).frames) {
      crops.push(crop({ data: await take(3 * height * width), width, height }, box));
    }
    const vectors = await extractor.embed(crops);
    const data = new Float32Array(vectors.length * extractor.dim);
    vectors.forEach((vector, row) => data.set(vector, row * extractor.dim));
    await send({ shape: [vectors.length, extractor.dim] }, new Uint8Array(data.buffer));
  }
}

/** Return a function that takes `count` bytes, or a line without a count, or null at the end. */
function input() {
  const chunks = process.stdin[Symbol.asyncIterator]();
  let buffer = Buffer.alloc(0);
  return async (count) => {
    const parts = [buffer];
    let length = buffer.length;
    const found = () => (count === undefined ? parts.at(-1).includes(10) : length >= count);
    while (!found()) {
      const { value, done } = await chunks.next();
      if (done) return null;
      parts.push(value);
      length += value.length;
    }
    const all = Buffer.concat(parts);
    const end = count ?? all.indexOf(10);
    buffer = all.subarray(count === undefined ? end + 1 : end);
    return count === undefined ? all.toString("utf8", 0, end) : all.subarray(0, end);
  };
}

async function send(message, data = new Uint8Array()) {
  const bytes = Buffer.concat([Buffer.from(`${JSON.stringify(message)}\n`), data]);
  await new Promise((resolve) => process.stdout.write(bytes, resolve));
}

try {
  await main();
} catch (error) {
  await send({ error: String(error.message ?? error) });
  process.exitCode = 1;
}
