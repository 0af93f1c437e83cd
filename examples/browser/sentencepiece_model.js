// A SentencePiece model file: a protocol buffer, of which a tokenizer needs few fields.

export const NORMAL = 1;
export const UNKNOWN = 2;
export const CONTROL = 3;
export const UNUSED = 5;
const UNIGRAM = 1;

/**
 * Reads a model file.
 *
 * @param {Uint8Array} bytes The file.
 * @returns {{pieces: {piece: string, score: number, type: number}[], charsmap: Uint8Array, addDummyPrefix: boolean,
 *     removeExtraWhitespaces: boolean, escapeWhitespaces: boolean}} Pieces by id, and how texts are normalized.
 */
export function readModel(bytes) {
  const pieces = [];
  const model = { pieces, charsmap: new Uint8Array() };
  const flags = { 3: true, 4: true, 5: true }; // of the normalizer; a field that is missing has its default
  let modelType = UNIGRAM;
  for (const [field, value] of fields(bytes)) {
    if (field === 1) {
      pieces.push(readPiece(value));
    } else if (field === 2) {
      for (const [part, given] of fields(value)) if (part === 3) modelType = given;
    } else if (field === 3) {
      for (const [part, given] of fields(value)) {
        if (part === 2) model.charsmap = given;
        else if (part in flags) flags[part] = given !== 0;
      }
    }
  }
  if (modelType !== UNIGRAM) throw new Error("The tokenizer is not a unigram model: only those are read here.");
  const other = pieces.find(({ type }) => ![NORMAL, UNKNOWN, CONTROL, UNUSED].includes(type));
  if (other) throw new Error(`The piece '${other.piece}' is user-defined or a byte: such models are not read.`);
  return { ...model, addDummyPrefix: flags[3], removeExtraWhitespaces: flags[4], escapeWhitespaces: flags[5] };
}

function readPiece(bytes) {
  const piece = { piece: "", score: 0, type: NORMAL };
  for (const [field, value] of fields(bytes)) {
    if (field === 1) piece.piece = new TextDecoder().decode(value);
    else if (field === 2) piece.score = new DataView(value.buffer, value.byteOffset).getFloat32(0, true);
    else if (field === 3) piece.type = value;
  }
  return piece;
}

/** The fields of a message: numbers for varints, bytes for all else. */
function* fields(bytes) {
  let place = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[place++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  const take = (size) => bytes.subarray(place, (place += size));
  while (place < bytes.length) {
    const key = varint();
    const wire = key & 7;
    if (wire === 0) yield [key >>> 3, varint()];
    else if (wire === 1) yield [key >>> 3, take(8)];
    else if (wire === 2) yield [key >>> 3, take(varint())];
    else if (wire === 5) yield [key >>> 3, take(4)];
    else throw new Error(`The tokenizer is not a SentencePiece model: it has a field of wire type ${wire}.`);
  }
}
