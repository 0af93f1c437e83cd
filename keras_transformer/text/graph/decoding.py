"""Decoders of a `tokenizer.json` in the graph: ids to texts.

Most of them make the same of a token wherever it stands, but for the first one. What they make is asked of the
`tokenizers` package, token by token, and the texts are joined. Two look at neighbours: bytes may make up a character,
and what a text begins with may be left out.
"""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_transformer.text.graph.bytes import byte_alphabet
from keras_transformer.text.graph.strings import NotInTheGraph, escaped, valid

_BY_ITSELF = ("WordPiece", "Metaspace", "Replace")


def decoder(settings: Mapping | None, vocabulary: Sequence[str]) -> Callable:
    """The function of ids, a `tf.RaggedTensor` (B, None), to strings (B,) for what stands under "decoder"."""
    if settings is None:
        return _joined(vocabulary, [f" {token}" for token in vocabulary])
    kind = settings["type"]
    if kind == "ByteLevel":
        pieces = [_as_bytes(token) for token in vocabulary]
        join = _joined(pieces, pieces)
        return lambda ids: valid(join(ids))
    steps = settings["decoders"] if kind == "Sequence" else [settings]
    kinds = [step["type"] for step in steps]
    own = [step for step in steps if step["type"] in _BY_ITSELF]
    ends = [step for step in steps if step["type"] not in _BY_ITSELF]
    if [step["type"] for step in (*own, *ends)] != kinds or kinds.count("Metaspace") + kinds.count("WordPiece") > 1:
        raise NotInTheGraph(f"the decoder {kinds}")
    finish = _stripped(ends)
    first, other = _pieces(own, vocabulary)
    if not any(step["type"] == "ByteFallback" for step in ends):
        join = _joined(first, other)
        return lambda ids: finish(join(ids))
    join = _joined_bytes(first, other, vocabulary)
    return lambda ids: finish(join(ids))


def _as_bytes(token: str) -> bytes:
    """What a byte-level token reads; one with other characters, as special tokens may have, reads as itself."""
    alphabet = byte_alphabet()
    return bytes(alphabet[x] for x in token) if all(x in alphabet for x in token) else token.encode()


def _pieces(steps: Sequence[Mapping], vocabulary: Sequence[str]) -> tuple[list[str], list[str]]:
    """What each token reads at the beginning and elsewhere."""
    import tokenizers

    if not steps:
        return list(vocabulary), list(vocabulary)
    content = {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}
    content["decoder"] = {"type": "Sequence", "decoders": list(steps)}
    decode = tokenizers.Tokenizer.from_str(json.dumps(content)).decoder.decode
    begin = decode(["x"])
    behind = [decode(["x", token]) for token in vocabulary]
    if any(not text.startswith(begin) for text in behind):
        raise NotInTheGraph("a decoder that changes the token in front of another")
    return [decode([token]) for token in vocabulary], [text[len(begin) :] for text in behind]


def _joined(first: Sequence[str | bytes], other: Sequence[str | bytes]) -> Callable:
    """Ids to the texts of their tokens, one behind the other; ids that are no token are left out."""
    pieces = _piece(first, other)

    def join(ids):
        import tensorflow as tf

        return tf.strings.reduce_join(pieces(ids), axis=-1)

    return join


def _piece(first: Sequence[str | bytes], other: Sequence[str | bytes]) -> Callable:
    """Ids to what each of them reads, where it stands."""
    first, other = list(first), list(other)

    def pieces(ids):
        import tensorflow as tf

        texts = tf.gather(tf.constant(other, tf.string), ids.values)
        if first != other:
            places = tf.range(tf.size(ids.values, ids.row_splits.dtype))
            begins = places == tf.gather(ids.row_splits, ids.value_rowids())
            texts = tf.where(begins, tf.gather(tf.constant(first, tf.string), ids.values), texts)
        return ids.with_values(texts)

    return pieces


def _joined_bytes(first, other, vocabulary: Sequence[str]) -> Callable:
    """The same where some tokens are bytes, "<0x41>": neighbours that are UTF-8 read as such, and else U+FFFD each."""
    value = {f"<0x{byte:02X}>": byte for byte in range(256)}
    is_byte = np.array([token in value for token in vocabulary])
    first, other = (
        [
            bytes([value[token]]) if token in value else text.encode()
            for token, text in zip(vocabulary, texts, strict=True)
        ]
        for texts in (first, other)
    )
    pieces = _piece(first, other)

    def join(ids):
        import tensorflow as tf

        texts, rows = pieces(ids).values, ids.value_rowids()
        byte = tf.gather(is_byte, ids.values)
        # Runs: of bytes that are neighbours, and each other token by itself.
        begins = ~byte | tf.concat([tf.ones_like(byte[:1]), ~byte[:-1] | (rows[1:] != rows[:-1])], 0)
        run = tf.cumsum(tf.cast(begins, tf.int64)) - 1
        count = tf.reduce_sum(tf.cast(begins, tf.int64))
        runs = tf.RaggedTensor.from_value_rowids(texts, run, nrows=count, validate=False)
        joined = tf.strings.reduce_join(runs, axis=-1)
        lost = tf.strings.reduce_join(runs.with_values(tf.fill(tf.shape(texts), "\ufffd")), axis=-1)
        of_bytes = tf.boolean_mask(byte, begins)
        joined = tf.where(of_bytes & (valid(joined) != joined), lost, joined)
        whole = tf.RaggedTensor.from_value_rowids(
            joined, tf.boolean_mask(rows, begins), nrows=ids.nrows(), validate=False
        )
        return tf.strings.reduce_join(whole, axis=-1)

    return join


def _stripped(steps: Sequence[Mapping]) -> Callable:
    """What is done to the text as a whole: [ByteFallback,] Fuse and Strip."""
    kinds = [step["type"] for step in steps]
    if [kind for kind in kinds if kind != "ByteFallback"] not in ([], ["Fuse"], ["Fuse", "Strip"]) or (
        "ByteFallback" in kinds[1:]
    ):
        raise NotInTheGraph(f"the decoder {kinds}")
    patterns = []
    for step in steps:
        if step["type"] == "Strip":
            content = escaped(step["content"])
            patterns = [f"^{content}{{0,{step['start']}}}"] * bool(step["start"])
            patterns += [f"{content}{{0,{step['stop']}}}$"] * bool(step["stop"])

    def finish(texts):
        import tensorflow as tf

        for pattern in patterns:
            texts = tf.strings.regex_replace(texts, pattern, "", replace_global=False)
        return texts

    return finish
