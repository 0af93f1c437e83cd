// The page: what a person types, the answer as it comes, and what the model looked at.

import { drawMap, fillTable } from "./attention.js";
import { Generator } from "./generator.js";
import { element, enqueue, measure, MODELS, pause, tell } from "./page.js";
import { compile, download, release, run } from "./runtime.js";

const SLOWLY = 300; // milliseconds a token

const loaded = new Map();
let shown; // the map that is drawn, to draw it again when the window's width changes

/** What `load` gives for a file of the models' folder, loaded once. */
function once(file, load) {
  if (!loaded.has(file)) {
    const loading = load(new URL(file, MODELS).href);
    loading.catch(() => loaded.delete(file));
    loaded.set(file, loading);
  }
  return loaded.get(file);
}

const generator = () => once(`${element("form").elements.weights.value}.tflite`, Generator.load);
const attention = () => once("attention.tflite", async (url) => compile(await download(url)));

async function prepare() {
  tell("loading", "Loading the model.");
  const [{ size }] = await Promise.all([generator(), attention()]);
  element("translate").disabled = false;
  tell("ready", `The model is loaded: ${(size / 2 ** 20).toFixed(1)} MiB, tokenizer included.`);
}

async function translate(text) {
  tell("busy", "Translating.");
  const model = await generator();
  const ids = model.tokenize(text);
  element("result").hidden = false;
  element("attention").hidden = true;
  const spent = {};
  let tokens = [];
  for await (const step of model.generate(ids)) {
    tokens = step.tokens;
    (spent[step.name.split("_")[0]] ??= []).push(step.milliseconds);
    showTokens(model, tokens);
    await pause(step.name === "decode" && element("slowly").checked ? SLOWLY : 0); // lets the browser paint
  }
  showMeasures(spent, ids.length);
  await showAttention(model, ids, tokens);
  tell("done", `${model.text(tokens)}, in ${tokens.length - 1} tokens.`);
}

function showTokens(model, tokens) {
  element("answer").textContent = model.text(tokens);
  element("tokens").replaceChildren(...tokens.map((id) => {
    const token = document.createElement("li");
    token.textContent = model.target.piece(id);
    token.title = `token ${id}`;
    token.dataset.token = id;
    return token;
  }));
}

function showMeasures({ encode = [0], prefill = [0], decode = [0] }, length) {
  const mean = decode.reduce((sum, milliseconds) => sum + milliseconds, 0) / decode.length;
  measure({ [`Reading ${length} tokens`]: encode[0] + prefill[0], "Writing a token": mean });
}

/** Shows where the model looked when it wrote each token: the answer goes in without its end, which is written last. */
async function showAttention(model, ids, tokens) {
  const { sources, target } = model.metadata;
  const signature = (await attention()).signatures.serving_default;
  const outputs = await run(signature, { [sources[0]]: ids, [target]: tokens.slice(0, -1) });
  const [scores] = Object.values(outputs);
  const [, length] = scores.type.layout.dimensions; // (T, S)
  const flat = scores.toTypedArray();
  release(outputs);
  const labels = tokens.slice(1).map((id) => model.target.piece(id));
  const weights = labels.map((_, row) => Array.from(flat.subarray(row * length, row * length + ids.length)));
  shown = [weights, labels, ids.map((id) => model.source.piece(id))];
  element("attention").hidden = false;
  drawMap(element("map"), ...shown);
  fillTable(element("numbers"), ...shown);
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = element("text").value;
  enqueue(() => translate(text));
});
element("examples").addEventListener("click", ({ target }) => {
  if (!target.matches("button")) return;
  element("text").value = target.textContent;
  element("form").requestSubmit();
});
for (const choice of element("form").elements.weights) choice.addEventListener("change", () => enqueue(prepare));

const redraw = () => shown && drawMap(element("map"), ...shown);
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

enqueue(prepare);
