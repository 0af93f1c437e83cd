// A heat map of attention weights, on a canvas and as a table.

const ROW_LABELS = 64;
const COLUMN_LABELS = { least: 28, most: 92, character: 6 };
const LABEL_ANGLE = -Math.PI / 4;
const MARGIN = 24; // for the last column's slanted label
const CELL = { least: 16, most: 30 };

// Of increasing lightness, so that it also reads without colours.
const COLOURS = [
  [24, 18, 58],
  [58, 62, 140],
  [28, 127, 148],
  [94, 190, 106],
  [250, 228, 60],
];

/** @returns {number[]} Red, green and blue of a weight from 0 to 1. */
export function colour(weight) {
  const place = Math.min(Math.max(weight, 0), 1) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[low].map((value, channel) =>
    Math.round(value + (place - low) * (COLOURS[low + 1][channel] - value)));
}

/** Where things are, in CSS pixels, for a map with these labels in so much width. */
export function layout(rows, columns, room) {
  const { least, most, character } = COLUMN_LABELS;
  const top = Math.min(most, least + character * (Math.max(...columns.map((label) => label.length)) - 1));
  const cell = Math.min(CELL.most, Math.max(CELL.least, Math.floor((room - ROW_LABELS - MARGIN) / columns.length)));
  return {
    cell,
    left: ROW_LABELS,
    top,
    width: ROW_LABELS + columns.length * cell + MARGIN,
    height: top + rows.length * cell,
  };
}

/**
 * Draws a map.
 *
 * @param {HTMLCanvasElement} canvas Its size changes with the map's.
 * @param {number[][]} weights For each row, how much it attends to each column.
 * @param {string[]} rows Their labels.
 * @param {string[]} columns Their labels.
 */
export function drawMap(canvas, weights, rows, columns) {
  const { cell, left, top, width, height } = layout(rows, columns, canvas.parentElement.clientWidth);
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.ceil(width * scale);
  canvas.height = Math.ceil(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  weights.forEach((row, y) => row.forEach((weight, x) => {
    context.fillStyle = `rgb(${colour(weight).join(" ")})`;
    context.fillRect(left + x * cell, top + y * cell, cell - 1, cell - 1);
  }));

  context.fillStyle = getComputedStyle(canvas).color;
  context.font = "13px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "right";
  rows.forEach((label, y) => context.fillText(label, left - 8, top + (y + 0.5) * cell, ROW_LABELS - 10));
  context.textAlign = "left";
  columns.forEach((label, x) => {
    context.save();
    context.translate(left + (x + 0.5) * cell, top - 6);
    context.rotate(LABEL_ANGLE);
    context.fillText(label, 0, 0, top / Math.SQRT1_2 - 12);
    context.restore();
  });
}

/** Fills a table with the same numbers. */
export function fillTable(table, weights, rows, columns) {
  const element = (name, text, scope) => {
    const made = document.createElement(name);
    made.textContent = text;
    if (scope) made.scope = scope;
    return made;
  };
  const row = (...cells) => {
    const made = document.createElement("tr");
    made.append(...cells);
    return made;
  };
  table.replaceChildren(
    row(element("td", ""), ...columns.map((label) => element("th", label, "col"))),
    ...weights.map((values, y) =>
      row(element("th", rows[y], "row"), ...values.map((weight) => element("td", weight.toFixed(5))))),
  );
}
