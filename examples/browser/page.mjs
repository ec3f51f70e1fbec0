// Compare two people in the browser with a folder of `pivl-distill export --for web`.
//
// The folder is `export/` beside this page, or another one of this server: ?export=URL. Its own
// reader, reid.mjs, does everything but the user interface.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const SIDES = ["a", "b"];
const COLOURS = { a: "#2a7", b: "#c60" };
const element = (id) => document.getElementById(id);

const parameters = new URLSearchParams(location.search);
const folder = new URL(parameters.get("export") ?? "export/", location.href);

let reader; // the module reid.mjs of the folder
let extractor;
const crops = {}; // by side: { data, width, height }
const boxes = {}; // by side: [left, top, right, bottom] in the frame
let frame = null; // { data, width, height }
let nextSide = "a";

/** Run a step, and show its error on the page instead of losing it. */
async function attempt(step) {
  element("problem").textContent = "";
  try {
    await step();
  } catch (error) {
    element("problem").textContent = error.message;
  }
}

async function start() {
  ort.env.wasm.numThreads = 1; // more need headers that plain web servers do not send
  try {
    reader = await import(new URL("reid.mjs", folder));
  } catch {
    element("network").textContent = "No network.";
    throw new Error(`There is no reid.mjs in ${folder}; copy the folder web of an export there.`);
  }
  const manifest = await (await fetch(new URL("manifest.json", folder))).json();
  const usable = manifest.files.filter((file) => file.status !== "failed");
  for (const { precision } of usable) element("precision").add(new Option(precision));
  await load();
}

async function load() {
  extractor = undefined;
  const precision = element("precision").value;
  element("network").textContent = `Loading the ${precision} network…`;
  extractor = await reader.Extractor.load(ort, folder, { precision });
  const chosen = element("far").value;
  element("far").replaceChildren(...extractor.rates().map((far) => new Option(`${far}`)));
  if (extractor.rates().includes(Number(chosen))) element("far").value = chosen;
  element("network").textContent = `${extractor.name}, ${extractor.file.file}`;
  await compare();
}

async function compare() {
  if (extractor === undefined || !SIDES.every((side) => side in crops)) return;
  const [a, b] = await extractor.embed(SIDES.map((side) => crops[side]));
  element("similarity").textContent = reader.cosine(a, b).toFixed(4);
  const far = Number(element("far").value);
  if (element("far").value === "") {
    element("verdict").textContent = "no threshold was measured";
    return;
  }
  element("verdict").textContent = extractor.samePerson(a, b, far) ? "one person" : "two people";
  element("threshold").textContent = `(threshold ${extractor.threshold(far).toFixed(4)})`;
}

function show(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  const pixels = new ImageData(image.width, image.height);
  const channels = image.data.length / (image.width * image.height);
  for (let i = 0; i < image.width * image.height; i += 1) {
    for (let c = 0; c < 3; c += 1) pixels.data[i * 4 + c] = image.data[i * channels + c];
    pixels.data[i * 4 + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

async function setCrop(side, image) {
  crops[side] = image;
  show(element(`crop-${side}`), image);
  await compare();
}

function setFrame(image) {
  frame = image;
  SIDES.forEach((side) => delete boxes[side]);
  nextSide = "a";
  drawFrame();
}

function drawFrame(open = null) {
  const canvas = element("frame");
  show(canvas, frame);
  const context = canvas.getContext("2d");
  context.lineWidth = Math.max(frame.width / 400, 1);
  for (const [side, box] of Object.entries({ ...boxes, ...open })) {
    context.strokeStyle = COLOURS[side];
    context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  }
}

/** Let the user draw boxes; each one becomes crop A or B in turn. */
function drawBoxes(canvas) {
  let corner = null;
  const position = (event) => [
    (event.offsetX * canvas.width) / canvas.clientWidth,
    (event.offsetY * canvas.height) / canvas.clientHeight,
  ];
  const box = (event) => {
    const [x, y] = position(event);
    const [left, right] = [corner[0], x].sort((m, n) => m - n);
    const [top, bottom] = [corner[1], y].sort((m, n) => m - n);
    return [left, top, right, bottom];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (frame === null) return;
    corner = position(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (corner !== null) drawFrame({ [nextSide]: box(event) });
  });
  canvas.addEventListener("pointerup", (event) => {
    if (corner === null) return;
    const drawn = box(event);
    corner = null;
    attempt(async () => {
      const image = reader.crop(frame, drawn);
      const side = nextSide;
      boxes[side] = drawn;
      nextSide = side === "a" ? "b" : "a";
      drawFrame();
      await setCrop(side, image);
    });
  });
}

/** Take image files that are chosen or dropped in a zone. */
function takeFiles(name, use) {
  const [zone, input] = [element(`zone-${name}`), element(`file-${name}`)];
  const take = async (file) => {
    await started;
    await attempt(async () => use(await decode(file)));
  };
  input.addEventListener("change", () => input.files.length && take(input.files[0]));
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}

async function decode(file) {
  try {
    return await reader.decode(file);
  } catch {
    throw new Error(`${file.name} is not an image that this browser can decode.`);
  }
}

const started = attempt(start);
for (const side of SIDES) takeFiles(side, (image) => setCrop(side, image));
takeFiles("frame", setFrame);
drawBoxes(element("frame"));
element("precision").addEventListener("change", () => attempt(load));
element("far").addEventListener("change", () => attempt(compare));
