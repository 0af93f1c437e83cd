// A page in headless Chromium, for tests.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text as read } from "node:stream/consumers";

import { chromium } from "playwright-core";

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

/**
 * Opens a page and waits until it is ready, or in another state. The order {chromium, url, state, ...} comes as JSON on standard input; what was seen
 * goes as JSON to standard output, with the `addresses` that the page asked and its `errors`.
 *
 * @param {function(import("playwright-core").Page, Object): Promise<Object>} see Uses the page, says what was seen.
 */
export async function drive(see) {
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
    await page.waitForSelector(`body[data-state=${order.state ?? "ready"}]`);
    const seen = await see(page, order);
    process.stdout.write(JSON.stringify({ ...seen, addresses: [...addresses], errors }));
  } finally {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  }
}
