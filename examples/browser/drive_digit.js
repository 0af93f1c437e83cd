// Draws on the page of digits in headless Chromium, for tests: an order as JSON on standard input, what was seen as JSON
// on standard output.
//
// In: {chromium, url, drawings: [[[x, y], ...], ...], screenshot}. Out: {seen: [{ink, pixels, probabilities, answer}],
// addresses, errors}.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text as read } from "node:stream/consumers";

import { chromium } from "playwright-core";

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

/** What the page shows. Runs in the page. */
async function look() {
  const { inkOf } = await import("./mnist.js");
  const find = (id) => document.getElementById(id);
  return {
    ink: Array.from(inkOf(find("drawing"))),
    pixels: Array.from(find("image").pixels),
    probabilities: [...document.querySelectorAll("#probabilities tr")].map((row) => Number(row.dataset.probability)),
    answer: Number(find("answer").textContent),
  };
}

const order = JSON.parse(await read(process.stdin));
const profile = await mkdtemp(join(tmpdir(), "chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: order.chromium,
  args: FLAGS,
  viewport: { width: 900, height: 1150 },
});
try {
  const page = context.pages()[0] ?? (await context.newPage());
  const addresses = new Set();
  const errors = [];
  page.on("request", (request) => request.url().startsWith("http") && addresses.add(new URL(request.url()).host));
  page.on("pageerror", (error) => errors.push(error.message));
  await page.goto(order.url);
  await page.waitForSelector("body[data-state=ready]");
  const seen = [];
  for (const drawing of order.drawings) {
    await page.click("#clear");
    await page.waitForSelector("#result", { state: "hidden" });
    await page.evaluate(() => (document.body.dataset.state = "asked"));
    const { x, y } = await page.locator("#drawing").boundingBox();
    await page.mouse.move(x + drawing[0][0], y + drawing[0][1]);
    await page.mouse.down();
    for (const [right, down] of drawing.slice(1)) await page.mouse.move(x + right, y + down);
    await page.mouse.up();
    await page.waitForSelector("body[data-state=done]");
    seen.push(await page.evaluate(look));
  }
  if (order.screenshot) await page.screenshot({ path: order.screenshot, fullPage: true });
  process.stdout.write(JSON.stringify({ seen, addresses: [...addresses], errors }));
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true });
}
