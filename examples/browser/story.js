// The page: a text is begun, and a language model goes on from it, token by token, until it ends or is stopped.

import { Generator } from "./generator.js";
import { element, enqueue, measure, MODELS, pause, tell } from "./page.js";

let model;
let stopped; // whether someone has pressed Stop since the writing began

const settings = () => element("form").elements;

async function prepare() {
  const loaded = await Generator.load(new URL("language_model.tflite", MODELS).href);
  const { sources, streams, takes_seed, max_length } = loaded.metadata;
  if (sources.length) throw new Error("The file takes a source; this page runs models that go on from a text.");
  if (!streams) throw new Error("The file does not stream: export a generator with Greedy() or Sampling(...).");
  model = loaded;
  settings().temperature.disabled = !model.takesTemperature;
  settings().seed.disabled = !takes_seed;
  settings().count.max = max_length;
  rest();
  const size = (model.size / 2 ** 20).toFixed(1);
  tell("ready", `The model is loaded: ${size} MiB. Its texts have ${max_length} tokens at most.`);
}

/** The buttons while nothing is written. */
function rest() {
  const wasPressed = document.activeElement === element("stop");
  element("stop").disabled = true;
  element("write").disabled = false;
  element("another").disabled = !model.metadata.takes_seed;
  if (wasPressed) element("write").focus();
}

/** The buttons while something is. The focus must not be lost with the button that was pressed. */
function work() {
  const wasPressed = ["write", "another"].includes(document.activeElement.id);
  element("stop").disabled = false;
  element("write").disabled = element("another").disabled = true;
  if (wasPressed) element("stop").focus();
}

/** An integer from a field; an error says what it was to be. */
function integer(field, what, least, most) {
  const value = field.value.trim() === "" ? NaN : Number(field.value);
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  field.focus();
  const given = field.value || "nothing that is a number";
  throw new RangeError(`${what} is an integer from ${least} to ${most}, got ${given}.`);
}

async function write(text) {
  const { takes_seed, max_length } = model.metadata;
  const count = integer(settings().count, "The number of tokens", 1, max_length);
  const options = {};
  if (takes_seed) options.seed = integer(settings().seed, "The seed", -(2 ** 31), 2 ** 32 - 1);
  if (model.takesTemperature) options.temperature = settings().temperature.valueAsNumber;
  const ids = model.tokenize(text);
  const spent = { prefill: [], decode: [] };
  let tokens = [];
  let given; // tokens that the text begins with
  stopped = false;
  work();
  tell("busy", "Writing.");
  try {
    for await (const step of model.generate(ids, options)) {
      tokens = step.tokens;
      given ??= tokens.length;
      spent[step.name.split("_")[0]]?.push(step.milliseconds);
      show(tokens, given, true);
      await pause();
      if (stopped || tokens.length - given >= count) break;
    }
    show(tokens, given, false);
  } finally {
    rest();
  }
  const writing = spent.decode.reduce((sum, milliseconds) => sum + milliseconds, 0);
  measure({
    [`Reading ${given} tokens`]: spent.prefill[0],
    "Writing a token": writing / Math.max(1, spent.decode.length),
  });
  tell(stopped ? "stopped" : "done", `${ending(tokens, given, count)} ${doubts(ids)}`.trim());
}

/** Shows the text so far; while it grows, without bytes at its end that are no character yet. */
function show(tokens, given, grows) {
  const begin = model.text(tokens.slice(0, given));
  const whole = model.text(tokens);
  element("result").hidden = false;
  element("answer").ariaBusy = String(grows); // not to be read out letter by letter
  element("given").textContent = begin;
  element("written").textContent = (grows ? whole.replace(/\ufffd+$/, "") : whole).slice(begin.length);
  element("answer").dataset.tokens = tokens.join(" ");
}

/** Why the text ends where it does. */
function ending(tokens, given, count) {
  const written = tokens.length - given;
  const tokensWritten = `${written} ${written === 1 ? "token" : "tokens"}`;
  const ends = written > 0 && model.metadata.end_tokens.includes(tokens.at(-1));
  if (ends) return `It ended the text itself, after ${tokensWritten}.`;
  if (stopped) return `Stopped after ${tokensWritten}.`;
  if (written >= count) return `${tokensWritten} written.`;
  return `${tokensWritten} written; the text is as long as the file allows.`;
}

/** What the model could not read. */
function doubts(ids) {
  const unknown = ids.filter((id) => id === model.source.settings.unk_id).length;
  return unknown ? `It does not know ${unknown} of the ${ids.length} tokens it was given.` : "";
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (element("write").disabled) return;
  const text = element("text").value;
  enqueue(() => write(text));
});
element("another").addEventListener("click", () => {
  settings().seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
  element("form").requestSubmit();
});
element("stop").addEventListener("click", () => (stopped = true));
element("examples").addEventListener("click", ({ target }) => {
  if (!target.matches("button")) return;
  element("text").value = target.value;
  element("form").requestSubmit();
});
settings().temperature.addEventListener("input", () => {
  const { value } = settings().temperature;
  element("degree").textContent = Number(value) === 0 ? "0, the most probable" : value;
});

enqueue(prepare);
