// The generation loop over the signatures of kt.export.litert(..., layout="step").

import { Tensor } from "@litertjs/core";

import { compile, download, release, run } from "./runtime.js";
import { makeTokenizer } from "./tokenizer.js";
import { readZip } from "./zip.js";

const DESCRIPTION = "keras_transformer.json";
const FORMAT = 2; // the newest that this page reads

/** A .tflite file that generates, with its tokenizers. */
export class Generator {
  /** @returns {Promise<Generator>} The generator at an address. */
  static async load(url) {
    const bytes = await download(url);
    const files = readZip(bytes);
    if (!files.has(DESCRIPTION)) throw new Error(`${url} has no ${DESCRIPTION}: it was not written by kt.export.`);
    const metadata = read(JSON.parse(new TextDecoder().decode(files.get(DESCRIPTION))), url);
    if (metadata.layout !== "step" || metadata.batch_size !== 1) {
      throw new Error(`${url}: export with layout="step" and batch_size=1.`);
    }
    return new Generator(await compile(bytes), metadata, files, bytes.length);
  }

  constructor(model, metadata, files, size) {
    Object.assign(this, { model, metadata, size });
    this.target = makeTokenizer(metadata.target_tokenizer, files);
    this.source = makeTokenizer(metadata.source_tokenizer ?? metadata.target_tokenizer, files);
    this.padding = { prompts: metadata.padding_id, ...pick(metadata.inputs, "padding_id") };
    this.prefills = Object.keys(model.signatures)
      .filter((name) => name.startsWith("prefill_"))
      .map((name) => Number(name.slice("prefill_".length)))
      .sort((a, b) => a - b);
    const decode = model.signatures.decode.getInputDetails().map(({ name }) => name);
    this.takesTemperature = decode.includes("temperature");
  }

  /** @returns {number[]} The ids of a source, or of a prompt, which goes on and so has no end. */
  tokenize(text) {
    const ids = this.source.tokenize(text);
    return this.metadata.sources.length === 0 && this.source.settings.add_end ? ids.slice(0, -1) : ids;
  }

  /**
   * Generates, and hands out the tokens so far: after the prompt was read, after each token, and once when all is done.
   * Who leaves the loop before stops it.
   *
   * @param {number[]} ids Of the source, or the prompt of a decoder-only model.
   * @param {{seed: number, temperature: number}} options Of a strategy that draws: an integer of 32 bits, with or
   *     without a sign; and, where the carry has one, a temperature in place of the file's own.
   * @yields {{tokens: number[], name: string, milliseconds: number}} With the signature that ran, and how long it took.
   */
  async *generate(ids, { seed = this.metadata.seed ?? 0, temperature } = {}) {
    const { sources, start_token, max_length } = this.metadata;
    if (!(Number.isInteger(seed) && seed >= -(2 ** 31) && seed < 2 ** 32)) {
      throw new RangeError(`A seed is an integer from ${-(2 ** 31)} to ${2 ** 32 - 1}, got ${seed}.`);
    }
    if (temperature !== undefined && !(temperature >= 0 && Number.isFinite(temperature))) {
      throw new RangeError(`A temperature is a number from 0 on, got ${temperature}.`);
    }
    if (temperature !== undefined && !this.takesTemperature) throw new Error("The file takes no temperature.");
    const random = this.metadata.takes_seed ? { seed: [seed] } : {};
    let memory = {};
    let carry = {};
    const timed = async (name, rows, tensors) => {
      const begin = performance.now();
      const outputs = await run(this.model.signatures[name], rows, tensors, this.padding);
      return [outputs, { name, milliseconds: performance.now() - begin }];
    };
    try {
      let time;
      let prompts = ids.length || start_token === null ? ids : [start_token];
      if (sources.length) {
        if (this.metadata.inputs[0].padded === false && ids.length !== this.metadata.source_length) {
          throw new RangeError(`The file takes ${this.metadata.source_length} ids: padding would change the answer.`);
        }
        [memory, time] = await timed("encode", { [sources[0]]: ids });
        prompts = [start_token];
        yield { tokens: prompts, ...time };
      }
      if (!prompts.length) throw new RangeError("The text is empty; the model needs a beginning to go on from.");
      const longest = Math.min(this.prefills.at(-1), max_length);
      if (prompts.length > longest) {
        throw new RangeError(`The text has ${prompts.length} tokens; the file takes ${longest} at most.`);
      }
      const room = this.prefills.find((size) => size >= prompts.length);
      const prompt_lengths = [prompts.length];
      [carry, time] = await timed(`prefill_${room}`, { prompts, prompt_lengths }, memory);
      if (temperature !== undefined) {
        carry.temperature.delete();
        carry.temperature = new Tensor(Float32Array.of(temperature), [1]);
      }
      yield { tokens: soFar(carry), ...time };
      while (!carry.finished.toTypedArray()[0]) {
        const before = carry;
        [carry, time] = await timed("decode", random, { ...before, ...memory });
        release(before);
        yield { tokens: soFar(carry), ...time };
      }
      const [answer, last] = await timed("finish", {}, carry);
      const tokens = Array.from(answer.tokens.toTypedArray().subarray(0, answer.lengths.toTypedArray()[0]));
      release(answer);
      yield { tokens, ...last };
    } finally {
      release(carry);
      release(memory);
    }
  }

  /** @returns {string} The text of a sequence, without what starts and ends it; an end within it ends nothing. */
  text(tokens) {
    const { start_token, end_tokens } = this.metadata;
    const end = end_tokens.includes(tokens.at(-1)) ? tokens.length - 1 : tokens.length;
    return this.target.detokenize(tokens.slice(tokens[0] === start_token ? 1 : 0, Math.max(0, end)));
  }

  /** Frees the file's memory. */
  delete() {
    this.model.delete();
  }
}

/** The description in the form of today: in format 1, id 0 was padding, and there was one end token. */
function read(metadata, url) {
  if (!(metadata.format <= FORMAT)) throw new Error(`${url}: of format ${metadata.format}; this page reads ${FORMAT}.`);
  const names = metadata.sources.length ? metadata.sources : [metadata.target];
  const old = { padding_id: 0, end_tokens: [metadata.end_token], inputs: names.map((name) => ({ name, padding_id: 0 })) };
  return metadata.format === 1 ? { ...metadata, ...old } : metadata;
}

/** One property of each input, by its name. */
function pick(inputs, property) {
  return Object.fromEntries(inputs.map((input) => [input.name, input[property]]));
}

/** The tokens of the only row; a strategy of several beams has none until it finishes. */
function soFar({ tokens, lengths }) {
  return lengths && tokens.type.layout.dimensions.length === 2
    ? Array.from(tokens.toTypedArray().subarray(0, lengths.toTypedArray()[0]))
    : [];
}
