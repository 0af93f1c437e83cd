// Normalization of texts by the table in a SentencePiece model: NFKC, and whatever else its training chose.

const SPACE = " ";
export const WORD_START = "\u2581";

/**
 * Replaces, from left to right, the longest run of bytes that the table knows; all else stays.
 *
 * The table ("precompiled charsmap") is a double-array trie over UTF-8 bytes: its size in bytes, its units of 32 bits,
 * then the replacements, each ended by a zero byte. A unit holds the label by which it is reached, where its children
 * begin, and whether one of them is a leaf, which holds the place of the replacement. String.prototype.normalize would
 * do for plain NFKC, but not for SentencePiece's own rules, of spaces, control characters, tildes and case.
 */
export class Normalizer {
  constructor({ charsmap, addDummyPrefix, removeExtraWhitespaces, escapeWhitespaces }) {
    Object.assign(this, { addDummyPrefix, removeExtraWhitespaces, escapeWhitespaces });
    const size = charsmap.length ? new DataView(charsmap.buffer, charsmap.byteOffset).getUint32(0, true) : 0;
    this.units = new Uint32Array(new Uint8Array(charsmap.subarray(4, 4 + size)).buffer); // a copy, as units are aligned
    this.replacements = charsmap.subarray(4 + size);
  }

  /** @returns {string} The text as pieces are matched with it: spaces are U+2581, one stands before the first word. */
  normalize(text) {
    let parts = [...this.#parts(new TextEncoder().encode(text))];
    if (this.removeExtraWhitespaces) {
      parts = parts.slice(Math.max(0, parts.findIndex((part) => part !== SPACE)));
      if (parts.every((part) => part === SPACE)) return "";
    }
    if (parts.length === 0) return "";
    let normalized = this.addDummyPrefix ? SPACE : "";
    let afterSpace = this.removeExtraWhitespaces;
    for (let part of parts) {
      if (afterSpace) part = part.replace(/^ +/, "");
      normalized += part;
      if (this.removeExtraWhitespaces && part) afterSpace = part.endsWith(SPACE);
    }
    if (this.removeExtraWhitespaces) normalized = normalized.replace(/ +$/, "");
    return this.escapeWhitespaces ? normalized.replaceAll(SPACE, WORD_START) : normalized;
  }

  *#parts(bytes) {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    for (let place = 0; place < bytes.length; ) {
      const [length, replacement] = this.#longestMatch(bytes, place);
      const end = place + (length || characterLength(bytes[place]));
      yield decoder.decode(length ? this.#replacement(replacement) : bytes.subarray(place, end));
      place = end;
    }
  }

  #longestMatch(bytes, begin) {
    let match = [0, 0];
    if (this.units.length === 0) return match;
    let node = children(this.units[0]);
    for (let place = begin; place < bytes.length; place++) {
      node ^= bytes[place];
      const unit = this.units[node];
      if ((unit & 0x800000ff) !== bytes[place]) break; // another label, or a leaf
      node ^= children(unit);
      if ((unit >>> 8) & 1) match = [place + 1 - begin, this.units[node] & 0x7fffffff];
    }
    return match;
  }

  #replacement(begin) {
    return this.replacements.subarray(begin, this.replacements.indexOf(0, begin));
  }
}

/** Where the children of a unit begin, to be combined with their label and the unit's own place by exclusive or. */
function children(unit) {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}

/** The number of bytes of the UTF-8 character that begins with this one. */
function characterLength(byte) {
  if (byte < 0x80) return 1;
  if (byte < 0xe0) return 2;
  return byte < 0xf0 ? 3 : 4;
}
