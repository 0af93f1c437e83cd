// The page: a digit is drawn, made an image as those of MNIST are, and read.

import { Tensor } from "@litertjs/core";

import { centred, inkOf, SIZE } from "./mnist.js";
import { element, enqueue, MODELS, tell } from "./page.js";
import { compile, download, release, run } from "./runtime.js";

const PEN = 24; // pixels of the canvas, of which a digit of usual size has some 200

const canvas = element("drawing");
const pen = canvas.getContext("2d", { willReadFrequently: true });
let model;

async function prepare() {
  const bytes = await download(new URL("vision-int8.tflite", MODELS).href);
  model = await compile(bytes);
  tell("ready", `The model is loaded: ${(bytes.length / 2 ** 20).toFixed(2)} MiB. Draw a digit.`);
}

/** Reads what is drawn. */
async function read() {
  const pixels = centred(inkOf(canvas), canvas.width);
  if (pixels === null) return;
  tell("busy", "Reading.");
  const begin = performance.now();
  const given = { pixels: new Tensor(pixels, [1, SIZE, SIZE, 1]) };
  let outputs;
  try {
    outputs = await run(model.signatures.serving_default, {}, given);
  } finally {
    release(given);
  }
  const [logits] = Object.values(outputs).map((output) => Array.from(output.toTypedArray()));
  release(outputs);
  const milliseconds = performance.now() - begin;
  const largest = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp(logit - largest));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  show(pixels, weights.map((weight) => weight / sum));
  tell("done", `Read in ${milliseconds.toFixed(1)} ms. Lift the pen, or draw on.`);
}

/** Shows the image that was read, the digit, and how probable each is. */
function show(pixels, probabilities) {
  element("answer").textContent = probabilities.indexOf(Math.max(...probabilities));
  element("probabilities").replaceChildren(...probabilities.map((probability, digit) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    const bar = document.createElement("td");
    const meter = document.createElement("meter");
    const number = document.createElement("td");
    head.scope = "row";
    head.textContent = digit;
    meter.value = probability;
    meter.ariaLabel = `probability of ${digit}`;
    bar.append(meter);
    number.textContent = `${(100 * probability).toFixed(2)} %`;
    row.append(head, bar, number);
    row.dataset.probability = probability;
    return row;
  }));
  const drawing = element("image").getContext("2d");
  const image = drawing.createImageData(SIZE, SIZE);
  pixels.forEach((value, i) => image.data.set([0, 0, 0, Math.round(255 * value)], 4 * i));
  drawing.putImageData(image, 0, 0);
  element("image").pixels = pixels;
  element("result").hidden = false;
}

function clear() {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  element("result").hidden = true;
}

/** Where a pointer is, in pixels of the canvas. */
function place({ clientX, clientY }) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  return [((clientX - left) * canvas.width) / width, ((clientY - top) * canvas.height) / height];
}

Object.assign(pen, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "black" });
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pen.beginPath();
  pen.moveTo(...place(event));
  pen.lineTo(...place(event)); // a dot
  pen.stroke();
});
canvas.addEventListener("pointermove", (event) => {
  if (!canvas.hasPointerCapture(event.pointerId)) return;
  pen.lineTo(...place(event));
  pen.stroke();
});
canvas.addEventListener("pointerup", () => enqueue(read));
element("clear").addEventListener("click", () => enqueue(clear));

enqueue(prepare);
