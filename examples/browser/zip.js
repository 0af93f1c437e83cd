// The zip archive at the end of a .tflite file, in which an export describes itself.

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const END_SIZE = 22;

/**
 * Reads an archive whose files are stored, not compressed.
 *
 * @param {Uint8Array} bytes A file that ends in a zip archive.
 * @returns {Map<string, Uint8Array>} The archive's files by name, as views of `bytes`.
 */
export function readZip(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - END_SIZE;
  while (end >= 0 && view.getUint32(end, true) !== END) end--;
  if (end < 0) throw new Error("The file ends in no zip archive: it was not written by kt.export, or is cut off.");

  const files = new Map();
  let place = end - view.getUint32(end + 12, true); // the directory stands right before its end
  const shift = place - view.getUint32(end + 16, true); // 0, unless something was put before the archive
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint32(place, true) !== ENTRY) throw new Error("The zip archive of the file is damaged.");
    const method = view.getUint16(place + 10, true);
    const size = view.getUint32(place + 20, true);
    const nameLength = view.getUint16(place + 28, true);
    const name = new TextDecoder().decode(bytes.subarray(place + 46, place + 46 + nameLength));
    if (method !== 0) throw new Error(`'${name}' is compressed (method ${method}); this reader takes stored files.`);
    const header = view.getUint32(place + 42, true) + shift;
    const begin = header + 30 + view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
    files.set(name, bytes.subarray(begin, begin + size));
    place += 46 + nameLength + view.getUint16(place + 30, true) + view.getUint16(place + 32, true);
  }
  return files;
}
