// Drives the page in headless Chromium, for tests: an order as JSON on standard input, what was seen as JSON on
// standard output.
//
// In: {chromium, url, texts, tokenize, screenshot}. Out: {answers: {file: [{tokens, text, milliseconds, weights,
// drawn}]}, ids, decoded, colours, heap, addresses, errors}.

import { drive } from "./chromium.js";

/** Translates texts as a person would, one after another. Runs in the page. */
async function translateAll(texts) {
  const { layout } = await import("./attention.js");
  const { getGlobalLiteRt } = await import("@litertjs/core");
  const find = (selector) => document.querySelector(selector);
  const state = (...wanted) => new Promise((resolve) => {
    const look = () => wanted.includes(document.body.dataset.state) && (observer.disconnect(), resolve());
    const observer = new MutationObserver(look);
    observer.observe(document.body, { attributes: true, attributeFilter: ["data-state"] });
    look();
  });
  const answers = [];
  const heap = [];
  for (const text of texts) {
    document.body.dataset.state = "asked";
    find("#text").value = text;
    find("#translate").click();
    await state("done", "error");
    if (document.body.dataset.state === "error") throw new Error(find("#status").textContent);
    const rows = [...document.querySelectorAll("#numbers tr")].slice(1);
    const weights = rows.map((row) => [...row.querySelectorAll("td")].map((cell) => Number(cell.textContent)));
    const canvas = find("#map");
    const labels = (scope) => [...document.querySelectorAll(`#numbers th[scope=${scope}]`)].map((th) => th.textContent);
    const { cell, left, top } = layout(labels("row"), labels("col"), canvas.parentElement.clientWidth);
    const scale = devicePixelRatio;
    const drawing = canvas.getContext("2d");
    const pixel = (x, y) => Array.from(drawing.getImageData(x * scale, y * scale, 1, 1).data.slice(0, 3));
    answers.push({
      tokens: [...document.querySelectorAll("#tokens li")].map((token) => Number(token.dataset.token)),
      text: find("#answer").textContent,
      milliseconds: [...document.querySelectorAll("#measures dd")].map((value) => parseFloat(value.textContent)),
      weights,
      drawn: weights.map((row, y) => row.map((_, x) => pixel(left + (x + 0.4) * cell, top + (y + 0.4) * cell))),
    });
    heap.push(getGlobalLiteRt().liteRtWasm.HEAPU8.length);
  }
  return { answers, heap };
}

/** The colours that weights should have, the ids of texts, and the texts of ids. Runs in the page. */
async function compute({ texts, weights }) {
  const { colour } = await import("./attention.js");
  const { Generator } = await import("./generator.js");
  const generator = await Generator.load("models/translator.tflite");
  const ids = texts.map((text) => generator.source.tokenize(text));
  const decoded = ids.map((row) => generator.source.detokenize(row));
  generator.delete();
  return { ids, decoded, colours: weights.map((rows) => rows.map((row) => row.map(colour))) };
}

await drive(async (page, order) => {
  const answers = {};
  const heap = [];
  for (const file of ["translator", "translator-int8"]) {
    await page.check(`input[value=${file}]`);
    await page.waitForSelector("body[data-state=ready], body[data-state=done]");
    const seen = await page.evaluate(translateAll, order.texts);
    answers[file] = seen.answers;
    heap.push(seen.heap);
    await page.evaluate(() => (document.body.dataset.state = "seen"));
  }
  const weights = answers.translator.map((answer) => answer.weights);
  const computed = await page.evaluate(compute, { texts: order.tokenize, weights });
  if (order.screenshot) {
    await page.check("input[value=translator]");
    await page.fill("#text", order.texts[0]);
    await page.click("#translate");
    await page.waitForSelector("body[data-state=done]");
    await page.screenshot({ path: order.screenshot, fullPage: true });
  }
  return { answers, ...computed, heap };
});
