// Person features in a browser or in Node: crops in, unit vectors out.
//
//   import * as ort from "onnxruntime-web";
//   import { Extractor } from "./reid.mjs";
//
//   const extractor = await Extractor.load(ort, new URL("./", import.meta.url));
//   const [a, b] = await extractor.embed([first, second]);
//   console.log(cosine(a, b), extractor.samePerson(a, b, 0.01));
//
// An image is { data, width, height }: RGB or RGBA bytes in rows, as ImageData and decoders return
// them. Crops have any size; they are resized and normalised here as in training, so do not
// preprocess them. Loading checks the hash of the file, and its vector of the golden crop.

const FORMAT = 1;
const RESIZING = "bilinear with antialiasing, as Pillow's BILINEAR";
const WEIGHT_BITS = 22; // Pillow's fixed-point weights of 8-bit images

export class Extractor {
  #ort;
  #session;
  #manifest;

  /** Use `Extractor.load`. */
  constructor(ort, session, manifest, file) {
    this.#ort = ort;
    this.#session = session;
    this.#manifest = manifest;
    this.file = file; // the entry of manifest.json: file, precision, thresholds, …
    this.name = manifest.name;
    this.dim = manifest.output.dim;
    this.space = manifest.vector_space; // id to store with vectors: those of two do not compare
  }

  /**
   * Load a folder that `pivl-distill export --for web` wrote.
   *
   * @param ort the module onnxruntime-web or onnxruntime-node.
   * @param folder URL of the folder, with a slash at its end.
   * @param options `precision`: "fp32" (default), "fp16" or "int8"; `session`: options of
   *   `ort.InferenceSession.create`.
   * @throws Error if a file is missing or changed, or does not compute here what it should.
   */
  static async load(ort, folder, { precision = "fp32", session = {} } = {}) {
    const manifest = JSON.parse(new TextDecoder().decode(await read(folder, "manifest.json")));
    if (manifest.consumer !== "web" || manifest.format !== FORMAT) {
      throw new Error(`${folder}manifest.json was not written for this reader; export again.`);
    }
    if (manifest.input.resizing !== RESIZING) {
      throw new Error(`Crops must be resized by "${manifest.input.resizing}", not known here.`);
    }
    const file = manifest.files.find((entry) => entry.precision === precision);
    if (file === undefined) {
      const known = manifest.files.map((entry) => entry.precision).join(", ");
      throw new Error(`There is no ${precision} file, only ${known}; export it with --precision.`);
    }
    if (file.status === "failed") {
      throw new Error(`${file.file} failed its verification and must not be used: ${file.reason}`);
    }
    const graph = await readVerified(folder, file.file, file.sha256);
    const opened = await ort.InferenceSession.create(graph, session);
    const extractor = new Extractor(ort, opened, manifest, file);
    await extractor.#checkGolden(folder);
    return extractor;
  }

  /** Return the unit features, a Float32Array each, of images; `batchSize` of them run together. */
  async embed(images, batchSize = 32) {
    const [height, width] = this.#manifest.input.size_hw;
    const features = [];
    for (let start = 0; start < images.length; start += batchSize) {
      const batch = images.slice(start, start + batchSize);
      const pixels = new Uint8Array(batch.length * height * width * 3);
      batch.forEach((image, row) => {
        pixels.set(resize(toRgb(image), width, height).data, row * height * width * 3);
      });
      features.push(...(await this.#run(pixels, batch.length)));
    }
    return features;
  }

  /** Return the unit features of boxes [left, top, right, bottom] in a frame, as `embed` does. */
  async embedBoxes(frame, boxes, batchSize = 32) {
    return this.embed(boxes.map((box) => crop(frame, box)), batchSize);
  }

  /** Return the cosine from which a pair counts as one person, at a measured false-accept rate. */
  threshold(far = 0.001) {
    const measured = this.rates();
    const found = this.file.thresholds.find((entry) => Math.abs(entry.far - far) <= 1e-9);
    if (found === undefined || found.cosine === null) {
      const known = measured.join(", ") || "none";
      throw new Error(`No threshold for a false-accept rate of ${far}; measured rates: ${known}.`);
    }
    return found.cosine;
  }

  /** Return the false-accept rates that have a threshold. */
  rates() {
    return this.file.thresholds.filter((entry) => entry.cosine !== null).map((entry) => entry.far);
  }

  /** Return whether two features are of one person, at a measured false-accept rate. */
  samePerson(a, b, far = 0.001) {
    return cosine(a, b) >= this.threshold(far);
  }

  /** Run the network on resized RGB pixels and return one unit feature per crop. */
  async #run(pixels, count) {
    const { input, output } = this.#manifest;
    const planes = normalise(pixels, input);
    const tensor = new this.#ort.Tensor("float32", planes, [count, 3, ...input.size_hw]);
    const results = await this.#session.run({ [input.name]: tensor }, [output.name]);
    const { data } = results[output.name];
    if (data.length !== count * this.dim) {
      throw new Error(`${this.file.file} returned ${data.length} values for ${count} crops.`);
    }
    return Array.from({ length: count }, (_, row) =>
      unit(data.slice(row * this.dim, (row + 1) * this.dim)),
    );
  }

  /** Compare the vector of the golden crop with that of the float32 network in PyTorch. */
  async #checkGolden(folder) {
    const { input, golden } = this.#manifest;
    const pixels = await readVerified(folder, golden.file, golden.sha256);
    const [height, width] = input.size_hw;
    const [vector] = await this.embed([{ data: pixels, width, height }]);
    const similarity = cosine(vector, unit(Float32Array.from(golden.vector)));
    if (!(similarity >= this.file.min_cosine)) {
      throw new Error(
        `${this.file.file} does not compute the golden vector here: the cosine is ` +
          `${similarity.toFixed(6)}, at least ${this.file.min_cosine} is needed. ` +
          "Use another precision, or another version of the runtime.",
      );
    }
  }
}

/** Return the cosine of two unit vectors. */
export function cosine(a, b) {
  if (a.length !== b.length) {
    throw new Error(`Features of ${a.length} and ${b.length} values cannot be compared.`);
  }
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += a[i] * b[i];
  return sum;
}

/** Decode an image file in a browser, upright and without colour conversion, as training does. */
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob, {
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

/**
 * Cut a box [left, top, right, bottom] out of a frame; right and bottom are exclusive. Fractions
 * are rounded outwards, and the box is clipped to the frame.
 */
export function crop(frame, box) {
  const [left, top] = [0, 1].map((i) => Math.max(Math.floor(box[i]), 0));
  const right = Math.min(Math.ceil(box[2]), frame.width);
  const bottom = Math.min(Math.ceil(box[3]), frame.height);
  if (!(right > left && bottom > top)) {
    throw new Error(`The box ${box} has no pixel in the frame of ${frame.width}x${frame.height}.`);
  }
  const rgb = toRgb(frame);
  const row = (right - left) * 3;
  const data = new Uint8Array(row * (bottom - top));
  for (let y = top; y < bottom; y += 1) {
    const start = (y * frame.width + left) * 3;
    data.set(rgb.data.subarray(start, start + row), (y - top) * row);
  }
  return { data, width: right - left, height: bottom - top };
}

/** Resize an RGB image, bit for bit as BILINEAR of Pillow 13, which chooses the cheaper order. */
export function resize(image, width, height) {
  const [narrower, lower] = [image.width - width, image.height - height];
  return lower > 0 && lower > 2 * narrower
    ? resizeRows(resizeColumns(image, height), width)
    : resizeColumns(resizeRows(image, width), height);
}

function resizeRows({ data, width, height }, newWidth) {
  if (newWidth === width) return { data, width, height };
  const result = new Uint8Array(newWidth * height * 3);
  weights(width, newWidth).forEach(({ first, values }, x) => {
    for (let y = 0; y < height; y += 1) {
      const from = (y * width + first) * 3;
      const to = (y * newWidth + x) * 3;
      for (let c = 0; c < 3; c += 1) {
        let sum = 1 << (WEIGHT_BITS - 1);
        for (let i = 0; i < values.length; i += 1) sum += data[from + i * 3 + c] * values[i];
        result[to + c] = sum >> WEIGHT_BITS;
      }
    }
  });
  return { data: result, width: newWidth, height };
}

function resizeColumns({ data, width, height }, newHeight) {
  if (newHeight === height) return { data, width, height };
  const row = width * 3;
  const result = new Uint8Array(row * newHeight);
  weights(height, newHeight).forEach(({ first, values }, y) => {
    for (let x = 0; x < row; x += 1) {
      let sum = 1 << (WEIGHT_BITS - 1);
      for (let i = 0; i < values.length; i += 1) sum += data[(first + i) * row + x] * values[i];
      result[y * row + x] = sum >> WEIGHT_BITS;
    }
  });
  return { data: result, width, height: newHeight };
}

/** Return per output pixel the first input pixel and the fixed-point weights of a triangle filter. */
function weights(size, newSize) {
  const scale = size / newSize;
  const support = Math.max(scale, 1); // a wider filter when shrinking: antialiasing
  return Array.from({ length: newSize }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), size);
    const values = [];
    for (let x = first; x < last; x += 1) {
      values.push(Math.max(1 - Math.abs((x - centre + 0.5) / support), 0));
    }
    const sum = values.reduce((total, value) => total + value, 0);
    return { first, values: values.map((value) => roundWeight(value / sum)) };
  });
}

function roundWeight(value) {
  return Math.trunc(0.5 + value * (1 << WEIGHT_BITS));
}

/** Return an image without its alpha channel, which is ignored. */
function toRgb({ data, width, height }) {
  const pixels = width * height;
  if (pixels > 0 && data.length === pixels * 3) return { data, width, height };
  if (!(pixels > 0) || data.length !== pixels * 4) {
    throw new Error(`An image of ${width}x${height} has RGB or RGBA bytes, not ${data.length}.`);
  }
  const rgb = new Uint8Array(pixels * 3);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    rgb[to] = data[from];
    rgb[to + 1] = data[from + 1];
    rgb[to + 2] = data[from + 2];
  }
  return { data: rgb, width, height };
}

/** Return (x / 255 − mean) / std per channel, as planes. */
function normalise(pixels, { mean, std, size_hw: [height, width] }) {
  const plane = height * width;
  const result = new Float32Array(pixels.length);
  for (let i = 0; i < pixels.length; i += 1) {
    const c = i % 3;
    const position = (i - c) / 3;
    const image = Math.trunc(position / plane);
    const target = (image * 3 + c) * plane + (position % plane);
    result[target] = (pixels[i] / 255 - mean[c]) / std[c];
  }
  return result;
}

function unit(vector) {
  let squares = 0;
  for (const value of vector) squares += value * value;
  const length = Math.sqrt(squares);
  if (!(length > 0 && Number.isFinite(length))) {
    throw new Error("The network returned a feature that cannot be normalised.");
  }
  return Float32Array.from(vector, (value) => value / length);
}

async function read(folder, name) {
  const url = new URL(name, folder);
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises"); // Node's fetch reads no files
    return new Uint8Array(await readFile(url));
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} cannot be read: ${response.status}.`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Read a file and compare its SHA-256, which browsers compute on https and localhost only. */
async function readVerified(folder, name, digest) {
  const bytes = await read(folder, name);
  if (globalThis.crypto?.subtle === undefined) {
    throw new Error("Hashes cannot be checked here; serve the page by https or on localhost.");
  }
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== digest) throw new Error(`${name} is not the file of the manifest; copy it again.`);
  return bytes;
}
