// LiteRT.js: compiled files, and tensors, which live in WebAssembly's memory until someone deletes them.

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

const WASM = new URL("./node_modules/@litertjs/core/wasm/", import.meta.url).href;
let runtime;

/** @returns {Promise<Uint8Array>} The file at an address. */
export async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}. README.md says what writes it.`);
  return new Uint8Array(await response.arrayBuffer());
}

/** @returns {Promise<import("@litertjs/core").CompiledModel>} A .tflite file, ready to run on the CPU. */
export async function compile(bytes) {
  runtime ??= loadLiteRt(WASM);
  await runtime;
  return loadAndCompile(bytes, { accelerator: "wasm" });
}

/**
 * Runs a signature.
 *
 * @param {import("@litertjs/core").SignatureRunner} signature Of a compiled file.
 * @param {Object<string, number[]>} rows Ids by input name, each padded to the input's size.
 * @param {Object<string, Tensor>} tensors Further inputs; those that the signature does not take are left out.
 * @param {Object<string, number>} padding The ids that pad, by input name; 0 where there is none.
 * @returns {Promise<Object<string, Tensor>>} The outputs, for the caller to `release`.
 */
export async function run(signature, rows, tensors = {}, padding = {}) {
  const given = {};
  try {
    for (const { name, shape } of signature.getInputDetails()) {
      if (!(name in rows)) continue;
      const padded = new Int32Array(shape.reduce((size, dim) => size * dim, 1)).fill(padding[name] ?? 0);
      if (rows[name].length > padded.length) {
        throw new RangeError(`'${name}' has ${rows[name].length} tokens; the file takes ${padded.length} at most.`);
      }
      padded.set(rows[name]);
      given[name] = new Tensor(padded, shape);
    }
    return await signature.run({ ...tensors, ...given });
  } finally {
    release(given);
  }
}

/** Deletes tensors. */
export function release(tensors) {
  for (const tensor of Object.values(tensors)) tensor.delete();
}
