// Tokenizers that a description of an export names, as keras_transformer_runtime has them: texts to ids and back.

import { Normalizer, WORD_START } from "./normalizer.js";
import { CONTROL, NORMAL, readModel, UNKNOWN } from "./sentencepiece_model.js";

const UNKNOWN_PENALTY = 10; // an unknown character counts as the least probable piece, and this much less
const UNKNOWN_TEXT = " \u2047 ";
const REPLACEMENT = "\ufffd";
const SPECIAL = 4; // ids before those of characters and bytes

/**
 * The tokenizer that an export describes.
 *
 * @param {{kind: string, files: Object<string, string>}} settings Its part of the description.
 * @param {Map<string, Uint8Array>} files What the description comes with.
 * @returns {Tokenizer}
 */
export function makeTokenizer(settings, files) {
  const kinds = { sentencepiece: SentencePiece, character: Characters, byte: Bytes };
  if (!Object.hasOwn(kinds, settings?.kind)) {
    const known = Object.keys(kinds).join(", ");
    throw new Error(`The page reads tokenizers of the kinds ${known}; the export has ${settings?.kind ?? "none"}.`);
  }
  return new kinds[settings.kind](settings, (part) => files.get(settings.files[part]));
}

/** What all have in common: start and end, special tokens, truncation, and what of a row is no text. */
class Tokenizer {
  /**
   * @param {{start_id: number, end_id: number, pad_id: number, add_start: boolean, add_end: boolean,
   *     max_length: ?number, special_tokens: ?Object<string, number>}} settings Its part of the description.
   */
  constructor(settings) {
    this.settings = settings;
    this.special = new Map(Object.entries(settings.special_tokens ?? {})); // ids of strings that are never cut
    const longestFirst = [...this.special.keys()].sort((a, b) => b.length - a.length);
    const literal = (token) => token.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
    this.parts = new RegExp(`(${longestFirst.map(literal).join("|")})`, "u");
  }

  /** @returns {number[]} The ids of a text, with start and end where the settings say so. */
  tokenize(text) {
    const { add_start, add_end, start_id, end_id, max_length } = this.settings;
    const start = add_start ? [start_id] : [];
    const end = add_end ? [end_id] : [];
    const parts = this.special.size ? text.split(this.parts) : [text];
    let ids = parts.flatMap((part) => (this.special.has(part) ? [this.special.get(part)] : this.encode(part)));
    if (max_length !== null) ids = ids.slice(0, Math.max(0, max_length - start.length - end.length));
    return [...start, ...ids, ...end];
  }

  /** @returns {string} The text of ids; start, end, padding and special tokens are left out. */
  detokenize(ids) {
    const { start_id, end_id, pad_id } = this.settings;
    const hidden = new Set([start_id, end_id, pad_id, ...this.special.values()]);
    return this.decode(ids.filter((id) => !hidden.has(id)));
  }
}

/** The characters of a table: code points, as in Python. */
class Characters extends Tokenizer {
  constructor(settings, file) {
    super(settings);
    this.characters = [...new TextDecoder("utf-8", { ignoreBOM: true }).decode(file("characters.txt"))];
    this.ids = new Map(this.characters.map((character, place) => [character, place + SPECIAL]));
  }

  encode(text) {
    return Array.from(text, (character) => this.ids.get(character) ?? this.settings.unk_id);
  }

  decode(ids) {
    return ids.map((id) => this.piece(id)).join("");
  }

  /** @returns {string} What the vocabulary has for an id. */
  piece(id) {
    return this.characters[id - SPECIAL] ?? REPLACEMENT;
  }
}

/** The bytes of UTF-8. */
class Bytes extends Tokenizer {
  encode(text) {
    return Array.from(new TextEncoder().encode(text), (byte) => byte + SPECIAL);
  }

  decode(ids) {
    const unknown = [...new TextEncoder().encode(REPLACEMENT)];
    const bytes = ids.flatMap((id) => (id >= SPECIAL && id < SPECIAL + 256 ? [id - SPECIAL] : unknown));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
  }

  /** @returns {string} What the vocabulary has for an id. */
  piece(id) {
    return `<0x${(id - SPECIAL).toString(16).toUpperCase().padStart(2, "0")}>`;
  }
}

/** SentencePiece's unigram models. */
class SentencePiece extends Tokenizer {
  constructor(settings, file) {
    super(settings);
    const model = readModel(file("model"));
    this.normalizer = new Normalizer(model);
    this.pieces = model.pieces;
    this.unknown = model.pieces.findIndex(({ type }) => type === UNKNOWN);
    const normal = model.pieces.map((entry, id) => ({ ...entry, id })).filter(({ type }) => type === NORMAL);
    this.normal = new Map(normal.map((entry) => [entry.piece, entry]));
    this.longest = normal.reduce((longest, { piece }) => Math.max(longest, [...piece].length), 1);
    this.unknownScore = Math.fround(normal.reduce((least, { score }) => Math.min(least, score), 0) - UNKNOWN_PENALTY);
  }

  encode(text) {
    return this.#segment([...this.normalizer.normalize(text)]);
  }

  decode(ids) {
    const surface = (id) => {
      const { piece, type } = this.pieces[id] ?? { type: UNKNOWN };
      return type === UNKNOWN ? UNKNOWN_TEXT : type === CONTROL ? "" : piece;
    };
    return ids.map(surface).join("").replaceAll(WORD_START, " ").replace(/^ /, "");
  }

  /** @returns {string} What the vocabulary has for an id. */
  piece(id) {
    return this.pieces[id]?.piece ?? "?";
  }

  /**
   * The ids of the most probable way to cut a text into pieces (Viterbi), neighbouring unknown characters as one.
   *
   * Sums are rounded to float32 as SentencePiece's are, and of two equal ones the first found stays, so that ties
   * are broken as there.
   */
  #segment(characters) {
    const best = Array.from({ length: characters.length + 1 }, () => ({ score: -Infinity, begin: 0, id: 0 }));
    best[0].score = 0;
    for (let begin = 0; begin < characters.length; begin++) {
      const offer = (length, score, id) => {
        const total = Math.fround(best[begin].score + score);
        if (total > best[begin + length].score) best[begin + length] = { score: total, begin, id };
      };
      let text = "";
      const room = Math.min(this.longest, characters.length - begin);
      for (let length = 1; length <= room; length++) {
        text += characters[begin + length - 1];
        const entry = this.normal.get(text);
        if (entry) offer(length, entry.score, entry.id);
        else if (length === 1) offer(1, this.unknownScore, this.unknown);
      }
    }
    const ids = [];
    for (let end = characters.length; end > 0; end = best[end].begin) {
      const { id } = best[end];
      if (id !== this.unknown || ids.at(-1) !== this.unknown) ids.push(id);
    }
    return ids.reverse();
  }
}
