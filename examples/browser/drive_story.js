// Lets the page's language model write in headless Chromium, for tests: an order as JSON on standard input, what was seen
// as JSON on standard output.
//
// In: {chromium, url, writings: [{text, temperature, seed, count, stop}], tokenize: {file: texts}, decode: {file: rows},
// another, look, screenshot}; `stop` is after how many characters Stop is pressed, and what is left out stays as it was.
// Out: {seen: [{state, status, tokens, later, stoppedAt, text, given, grown, busy, rested, measures, heap}], ids, decoded,
// pressed: {seeds, text}, looked: {status, disabled, enabled}, addresses, errors}.

import { drive } from "./chromium.js";

/** Writes as a person would: fills the form in, presses Write and perhaps Stop. Runs in the page. */
async function write({ text, temperature, seed, count, stop }) {
  const { getGlobalLiteRt } = await import("@litertjs/core");
  const find = (id) => document.getElementById(id);
  const written = () => (find("answer").dataset.tokens ?? "").split(" ").filter(Boolean).map(Number);
  const enabled = () => ["write", "another", "stop"].filter((id) => !find(id).disabled);
  const fill = (id, value) => {
    if (value === null || value === undefined) return;
    find(id).value = value;
    find(id).dispatchEvent(new Event("input", { bubbles: true }));
  };
  for (const [id, value] of Object.entries({ text, temperature, seed, count })) fill(id, value);
  document.body.dataset.state = "asked";
  const grown = []; // the text, whenever it changed
  const busy = new Set();
  let stoppedAt = null;
  const watch = new MutationObserver(() => {
    grown.push(find("answer").textContent);
    busy.add(`${find("answer").ariaBusy} ${document.body.dataset.state} ${enabled()} ${document.activeElement.id}`);
    if (stop && stoppedAt === null && document.body.dataset.state === "busy" && find("given").textContent === text) {
      if (find("written").textContent.length >= stop) {
        stoppedAt = written().length;
        find("stop").click();
      }
    }
  });
  watch.observe(find("answer"), { subtree: true, childList: true, characterData: true });
  find("write").focus();
  find("write").click();
  const ended = () => ["done", "stopped", "error"].includes(document.body.dataset.state);
  while (!ended()) await new Promise((go) => setTimeout(go, 2));
  const state = document.body.dataset.state;
  const tokens = written();
  await new Promise((go) => setTimeout(go, 60)); // what is stopped does not go on
  watch.disconnect();
  return {
    state,
    status: find("status").textContent,
    tokens,
    later: written(),
    stoppedAt,
    text: find("answer").textContent,
    given: find("given").textContent,
    grown,
    busy: [...busy],
    rested: `${find("answer").ariaBusy} ${enabled()} ${document.activeElement.id}`,
    measures: [...document.querySelectorAll("#measures dd")].map((value) => parseFloat(value.textContent)),
    heap: getGlobalLiteRt().liteRtWasm.HEAPU8.length,
  };
}

/** The ids of texts, and the texts of ids, by the tokenizers of files. Runs in the page. */
async function compute({ tokenize, decode }) {
  const { Generator } = await import("./generator.js");
  const ids = {};
  const decoded = {};
  for (const [file, texts] of Object.entries(tokenize)) {
    const generator = await Generator.load(`models/${file}`);
    ids[file] = texts.map((text) => generator.source.tokenize(text));
    decoded[file] = decode[file].map((row) => generator.text(row));
    generator.delete();
  }
  return { ids, decoded };
}

/** What the page says, and what may be used of it. Runs in the page. */
function look() {
  const buttons = ["write", "another", "stop"];
  const disabled = ["temperature", "seed", ...buttons].filter((id) => document.getElementById(id).disabled);
  const enabled = buttons.filter((id) => !disabled.includes(id));
  return { status: document.getElementById("status").textContent, disabled, enabled };
}

await drive(async (page, order) => {
  const seen = [];
  for (const writing of order.writings ?? []) seen.push(await page.evaluate(write, writing));
  const computed = order.tokenize ? await page.evaluate(compute, order) : {};
  let pressed = null;
  if (order.another) {
    const seeds = [await page.inputValue("#seed")];
    await page.evaluate(() => (document.body.dataset.state = "asked"));
    await page.click("#another");
    await page.waitForSelector("body[data-state=done]");
    seeds.push(await page.inputValue("#seed"));
    pressed = { seeds, text: await page.textContent("#answer") };
  }
  const looked = order.look ? await page.evaluate(look) : null;
  if (order.screenshot) await page.screenshot({ path: order.screenshot, fullPage: true });
  return { seen, ...computed, pressed, looked };
});
