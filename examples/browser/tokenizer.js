// SentencePiece's unigram tokenizer: texts to ids and back.

import { Normalizer, WORD_START } from "./normalizer.js";
import { CONTROL, NORMAL, readModel, UNKNOWN } from "./sentencepiece_model.js";

const UNKNOWN_PENALTY = 10; // an unknown character counts as the least probable piece, and this much less
const UNKNOWN_TEXT = " \u2047 ";

/** The tokenizer that the description of an export names, with its special ids, start and end. */
export class Tokenizer {
  /**
   * @param {{start_id: number, end_id: number, pad_id: number, add_start: boolean, add_end: boolean,
   *     max_length: ?number}} settings Its part of the description.
   * @param {Uint8Array} bytes The SentencePiece model.
   */
  constructor(settings, bytes) {
    if (settings?.kind !== "sentencepiece") {
      throw new Error(`The page reads SentencePiece tokenizers; the export has ${settings?.kind ?? "none"}.`);
    }
    if (settings.special_tokens) throw new Error("The page reads tokenizers without special tokens.");
    const model = readModel(bytes);
    this.settings = settings;
    this.normalizer = new Normalizer(model);
    this.pieces = model.pieces;
    this.unknown = model.pieces.findIndex(({ type }) => type === UNKNOWN);
    const normal = model.pieces.map((entry, id) => ({ ...entry, id })).filter(({ type }) => type === NORMAL);
    this.normal = new Map(normal.map((entry) => [entry.piece, entry]));
    this.longest = normal.reduce((longest, { piece }) => Math.max(longest, [...piece].length), 1);
    this.unknownScore = Math.fround(normal.reduce((least, { score }) => Math.min(least, score), 0) - UNKNOWN_PENALTY);
  }

  /** @returns {number[]} The ids of a text, with start and end where the settings say so. */
  tokenize(text) {
    const { add_start, add_end, start_id, end_id, max_length } = this.settings;
    const start = add_start ? [start_id] : [];
    const end = add_end ? [end_id] : [];
    let ids = this.#segment([...this.normalizer.normalize(text)]);
    if (max_length !== null) ids = ids.slice(0, Math.max(0, max_length - start.length - end.length));
    return [...start, ...ids, ...end];
  }

  /** @returns {string} The text of a row of ids, up to its first end or padding. */
  detokenize(ids) {
    const { start_id, end_id, pad_id } = this.settings;
    const stop = ids.findIndex((id) => id === end_id || id === pad_id);
    const kept = ids.slice(0, stop < 0 ? ids.length : stop).filter((id) => id !== start_id);
    const { addDummyPrefix, removeExtraWhitespaces } = this.normalizer;
    let begins = addDummyPrefix || removeExtraWhitespaces; // whether a mark of a word that comes now is no space
    let text = "";
    for (const id of kept) {
      let { piece, type } = this.pieces[id] ?? { type: UNKNOWN };
      if (type === CONTROL) continue;
      if (type === UNKNOWN) piece = UNKNOWN_TEXT;
      const marked = piece.startsWith(WORD_START);
      if (begins && marked) piece = piece.slice(WORD_START.length);
      text += piece.replaceAll(WORD_START, " ");
      begins &&= !text && (removeExtraWhitespaces || !marked);
    }
    return text.replace(/^ /, "");
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
