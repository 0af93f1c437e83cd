// Draws on the page of digits in headless Chromium, for tests: an order as JSON on standard input, what was seen as JSON
// on standard output.
//
// In: {chromium, url, drawings: [[[x, y], ...], ...], screenshot}. Out: {seen: [{ink, pixels, probabilities, answer}],
// addresses, errors}.

import { drive } from "./chromium.js";

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

await drive(async (page, order) => {
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
  return { seen };
});
