"""WordPiece in the graph: words to the ids of their pieces, the longest first ("Fast WordPiece Tokenization",
https://arxiv.org/abs/2012.15524)."""

from collections.abc import Callable, Mapping

from keras_transformer.text.graph.strings import NotInTheGraph
from keras_transformer_runtime.packages import needed


def word_pieces(model: Mapping, owner: str) -> Callable:
    """The function of words (W,) to ids, a `tf.RaggedTensor` (W, None), for a model of type WordPiece."""
    tf, tensorflow_text = (needed(name, owner) for name in ("tensorflow", "tensorflow_text"))
    vocabulary, unknown, mark = model["vocab"], model["unk_token"], model["continuing_subword_prefix"]
    if not mark or unknown not in vocabulary:
        raise NotInTheGraph(f"the model WordPiece with the prefix {mark!r} and the unknown token {unknown!r}")
    by_id = {id: token for token, id in vocabulary.items()}
    # What is no piece gets a string that no word is.
    pieces = [by_id.get(id) or f" {id}" for id in range(1 + max(by_id))]
    try:
        with tf.init_scope(), tf.device("CPU:0"):
            cutter = tensorflow_text.FastWordpieceTokenizer(
                pieces,
                suffix_indicator=mark,
                unknown_token=unknown,
                max_bytes_per_word=2**30,
                token_out_type=tf.int32,
                no_pretokenization=True,
            )
    except RuntimeError as error:
        raise NotInTheGraph(f"a vocabulary that TensorFlow Text does not take ({error})") from error
    longest = model.get("max_input_chars_per_word", 100)

    def ids(words):
        fits = tf.strings.length(words, "UTF8_CHAR") <= longest
        found = tf.cast(cutter.tokenize(tf.where(fits, words, "")), tf.int32)
        # An empty word has no pieces, so each row is from one of the two.
        lost = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.math.count_nonzero(~fits)], vocabulary[unknown]), tf.cast(~fits, tf.int64), validate=False
        )
        return tf.concat([found, lost], axis=1)

    return ids
