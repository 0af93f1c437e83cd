// What was drawn, as the images of MNIST are: in a box of 20 x 20 pixels, its centre of mass in the middle of 28 x 28.

export const SIZE = 28;
const BOX = 20;

/** @returns {Float64Array} How much ink each pixel of a canvas has, from 0 to 1. */
export function inkOf(canvas) {
  const { data } = canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, canvas.width, canvas.height);
  return Float64Array.from({ length: canvas.width * canvas.height }, (_, i) => data[4 * i + 3] / 255);
}

/**
 * @param {ArrayLike<number>} ink Of each pixel, row by row.
 * @param {number} width Of a row.
 * @returns {Float32Array | null} 28 x 28 pixels, row by row; null where nothing is drawn.
 */
export function centred(ink, width) {
  const box = boundingBox(ink, width);
  if (box === null) return null;
  const scale = BOX / Math.max(box.width, box.height);
  const [columns, rows] = [box.width, box.height].map((size) => Math.max(1, rounded(size * scale)));
  const [across, down] = [shares(box.width, columns), shares(box.height, rows)];
  const small = new Float64Array(rows * columns);
  let total = 0, x = 0, y = 0; // the sum, and its moments
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      let sum = 0;
      for (const [i, share] of down[row]) {
        for (const [j, other] of across[column]) sum += share * other * ink[(box.top + i) * width + box.left + j];
      }
      small[row * columns + column] = sum;
      total += sum, x += sum * column, y += sum * row;
    }
  }
  const left = placed(x / total, columns);
  const top = placed(y / total, rows);
  const pixels = new Float32Array(SIZE * SIZE);
  small.forEach((value, i) => (pixels[(top + Math.floor(i / columns)) * SIZE + left + (i % columns)] = value));
  return pixels;
}

function boundingBox(ink, width) {
  let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < ink.length; i++) {
    if (!ink[i]) continue;
    const [row, column] = [Math.floor(i / width), i % width];
    [left, right] = [Math.min(left, column), Math.max(right, column)];
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
  }
  return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

/** Of each of `count` new pixels: which of `size` old ones it covers, and their shares of it. */
function shares(size, count) {
  const step = size / count;
  return Array.from({ length: count }, (_, i) => {
    const [begin, end] = [i * step, (i + 1) * step];
    const parts = [];
    for (let j = Math.floor(begin); j < Math.min(size, Math.ceil(end)); j++) {
      parts.push([j, (Math.min(end, j + 1) - Math.max(begin, j)) / step]);
    }
    return parts;
  });
}

/** Where a box begins whose centre of mass is to be in the middle, as far as it has room there. */
function placed(centre, size) {
  return Math.min(SIZE - size, Math.max(0, rounded((SIZE - 1) / 2 - centre)));
}

const rounded = (x) => Math.floor(x + 0.5);
