"""Strings in place of ids: a signature with its tokenizers, and whether they fit the model."""

import keras
import numpy as np

from keras_transformer.decoding import Generator
from keras_transformer.decoding.program import Program
from keras_transformer.decoding.texts import too_few_ids
from keras_transformer.export.names import input_names
from keras_transformer.export.signatures import Input, Signature, inputs_of_model
from keras_transformer.models.packable import FURTHER, unpacked
from keras_transformer.text import Tokenizer
from keras_transformer.text.keras_hub import as_tokenizer


def _as_source_tokenizer(tokenizer, target: Generator | keras.Model):
    """Whatever turns strings (B,) into ids, a layer of Keras or of KerasHub say, in the form in which ours do it."""
    tokenizer = as_tokenizer(tokenizer, target)
    if tokenizer is None or isinstance(tokenizer, Tokenizer):
        return tokenizer
    import tensorflow as tf

    if not isinstance(tokenizer, keras.layers.Layer):
        raise ValueError(
            "To be exported, a source_tokenizer is a layer that turns strings into ids, got "
            f"{type(tokenizer).__name__}. To export ids alone: source_tokenizer=None."
        )
    mode = tokenizer.get_config()["output_mode"] if isinstance(tokenizer, keras.layers.TextVectorization) else "int"
    if mode != "int":
        raise ValueError(f"A source_tokenizer turns strings into ids; '{tokenizer.name}' has output_mode={mode!r}.")
    tokenizer = _Ids(tokenizer)
    tokenizer(tf.constant(["a", "b a"]))  # builds it, and shows at once whether it makes ids
    return tokenizer


class _Ids(keras.layers.Layer):
    """A layer that turns strings (B,) into ids, with int32 ids (B, T), padded with 0, whatever form they come in."""

    def __init__(self, layer: keras.layers.Layer):
        super().__init__(name=f"{layer.name}_ids")
        self.layer = layer
        self.built = True

    def call(self, strings):
        import tensorflow as tf

        ids = self.layer(strings)
        ids = ids.to_tensor() if isinstance(ids, tf.RaggedTensor) else tf.convert_to_tensor(ids)
        if ids.shape.rank != 2 or not ids.dtype.is_integer:
            raise ValueError(
                f"A source_tokenizer turns strings (B,) into integers (B, T); '{self.layer.name}' gives "
                f"{ids.dtype.name} of shape {tuple(ids.shape)}."
            )
        return tf.cast(ids, tf.int32)

    def detokenize(self, ids):
        """The layer's own way back, or some texts of the words that it knows."""
        if hasattr(self.layer, "detokenize"):
            return self.layer.detokenize(ids)
        words = getattr(self.layer, "get_vocabulary", lambda: ())()
        words = [str(word) for word in words if word and word != "[UNK]"] or ["a", "b", "c"]
        return [" ".join(words[token % len(words)] for token in row) for row in np.asarray(ids).tolist()]


def sample_texts(tokenizer, ids: np.ndarray, longest: float):
    """Texts (B,) to try a tokenizer on, which makes at most `longest` ids of each; None if there are no such."""
    import tensorflow as tf

    for length in range(ids.shape[1], 0, -1):  # the ids of a text may be more than those it was made from
        texts = tf.constant(tokenizer.detokenize(ids[:, :length]))
        texts = tf.boolean_mask(texts, tf.strings.length(texts) > 0)  # special ids are no text
        if len(texts) and tokenizer(texts).shape[1] <= longest:
            return texts
    return None


def with_tokenizers(
    target: Generator | keras.Model, ids: Signature, source_tokenizer, target_tokenizer, padding_id: int | None
) -> Signature:
    """The signature with strings in place of ids, on each side that has a tokenizer.

    Args:
        target: What is exported.
        ids: The signature of ids, the first of its inputs those that the source tokenizer makes.
        source_tokenizer, target_tokenizer: A tokenizer, or None.
        padding_id: What pads that input.
    """
    if source_tokenizer is None and target_tokenizer is None:
        return ids
    inputs = ids.inputs
    if source_tokenizer is not None:
        text = Input("text", ids.inputs[0].shape[:1], "string")
        inputs = [text, *(x for x in ids.inputs[1:] if x.name != "lengths")]

    def answer(*values):
        if source_tokenizer is not None:
            given = dict(zip((x.name for x in inputs), values, strict=True))
            tokens, lengths = tokenized(target, source_tokenizer, given["text"], padding_id, ids.inputs[0].shape)
            if padding_id is not None and not _may_pad(target, padding_id) and None in ids.inputs[0].shape:
                tokens = _refusing_padding(target, tokens, lengths, padding_id)
            given |= {ids.inputs[0].name: tokens, "lengths": lengths}
            values = [given[x.name] for x in ids.inputs]
        outputs = dict(ids.function(*values))
        if target_tokenizer is not None:
            outputs["texts"] = detokenized(target, target_tokenizer, outputs["tokens"], outputs["lengths"])
        return outputs

    return Signature(inputs, answer)


def tokenized(target: Generator | keras.Model, tokenizer, texts, padding_id: int | None, shape=(None, None)):
    """Ids (B, T) of texts, padded as the model pads, and their lengths (B,), tensors. Of prompts no id is an end. Texts
    that are longer than a static shape are cut off."""
    import tensorflow as tf

    own = getattr(tokenizer, "pad_id", 0)
    is_ours = isinstance(tokenizer, Tokenizer)
    start, end = tokenizer.frame if is_ours else ((), ())
    is_told = _may_pad(target, padding_id) or not is_ours or None not in shape  # LiteRT has no ragged tensors
    if own is None or own in (*start, *end) or not is_told:  # then padding does not tell where a row ends
        rows, own = tokenizer.tokenize_ragged(texts), own or 0
        ids, lengths = rows.to_tensor(default_value=own), tf.cast(rows.row_lengths(), tf.int32)
    else:
        ids = tokenizer(texts)
        places = tf.range(1, tf.shape(ids)[1] + 1)
        lengths = tf.reduce_max(tf.pad(tf.cast(ids != own, tf.int32) * places, [[0, 0], [0, 1]]), axis=1)
    ends = _takes_prompts(target) and len(end)
    if ends:
        lengths = tf.maximum(lengths - ends, 0)
    if None not in shape:
        ids = ids[:, : shape[1]]
        ids = tf.pad(ids, [[0, 0], [0, shape[1] - tf.shape(ids)[1]]], constant_values=own)
        ids = tf.reshape(ids, shape)
    lengths = tf.minimum(lengths, tf.shape(ids)[1])
    fill = own if padding_id is None else padding_id
    if ends or fill != own:
        ids = tf.where(tf.range(tf.shape(ids)[1]) < tf.expand_dims(lengths, 1), ids, fill)
    return ids, lengths


def _takes_prompts(target: Generator | keras.Model) -> bool:
    return isinstance(target, Generator) and len(target.graph.input_names) == 1


def _may_pad(target: Generator | keras.Model, padding_id: int | None) -> bool:
    """Whether the padding of what the model takes is no token, so that a row ends before it."""
    return not _takes_prompts(target) or padding_id not in (None, target.special.start, *target.special.ends)


def _refusing_padding(generator: Generator, tokens, lengths, padding_id: int):
    """Prompts (B, T), with an error in place of those of which the signature, which is not told lengths, would drop the
    last token: Python takes it for a token, since a text is as long as it is."""
    import tensorflow as tf

    lengths = tf.expand_dims(lengths, 1)
    last = tf.range(tf.shape(tokens)[1]) == lengths - 1
    is_start = (lengths == 1) & (tokens == (-1 if generator.start_token is None else generator.start_token))
    wrong = tf.reduce_any(last & (tokens == padding_id) & ~is_start)
    message = (
        f"A prompt ends with {padding_id}, which also is padding, and this export does not take the lengths of "
        "prompts. Export a Generator with padding_id=None"
    )
    with tf.control_dependencies([tf.debugging.assert_equal(wrong, False, message, summarize=1)]):
        return tf.identity(tokens)


def tokenize_signature(target: Generator | keras.Model, tokenizer, padding_id: int | None) -> Signature:
    """Strings in, `ids` (B, T) and their `lengths` (B,) out."""

    def tokenize(texts):
        return dict(zip(("ids", "lengths"), tokenized(target, tokenizer, texts, padding_id), strict=True))

    return Signature([Input("text", (None,), "string")], tokenize)


def detokenized(generator: Generator, tokenizer, tokens, lengths):
    """The texts (B, N) of sequences (B, N, L) of the given lengths (B, N), without what starts and ends them. An end
    within them is one of the prompt, and ends nothing."""
    import tensorflow as tf

    lengths = tf.expand_dims(lengths, -1)
    places = tf.range(tf.shape(tokens)[-1])
    last = tf.reduce_sum(tf.where(places == lengths - 1, tokens, 0), axis=-1, keepdims=True)
    for end in generator.special.ends:
        lengths = tf.where(last == end, lengths - 1, lengths)
        last = tf.where(last == end, -1, last)
    if generator.start_token is not None:
        begun = tokens[..., :1] == generator.start_token
        tokens = tf.where(begun, tf.pad(tokens[..., 1:], [[0, 0], [0, 0], [0, 1]]), tokens)
        lengths = tf.where(begun, lengths - 1, lengths)
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.detokenize(tokens, lengths=tf.squeeze(lengths, -1))
    return tokenizer.detokenize(tf.where(places < lengths, tokens, getattr(tokenizer, "pad_id", 0)))


def token_inputs(target, ids: Signature, source_tokenizer, texts, padding_id: int | None) -> list[np.ndarray]:
    """What the signature of ids takes in place of texts, but for a seed."""
    tokens, lengths = tokenized(target, source_tokenizer, texts, padding_id)
    return [np.asarray(tokens), *([np.asarray(lengths)] if any(x.name == "lengths" for x in ids.inputs) else [])]


def tokenizers_of(target: Generator | keras.Model, source_tokenizer, target_tokenizer) -> tuple:
    """The tokenizers to export: those given, or, for `...`, those of a generator; the prompts of a decoder-only one
    are texts of its target tokenizer, if it has no other."""
    own_source, own_target = None, None
    if isinstance(target, Generator):
        own_source, own_target = target.source_tokenizer, target.target_tokenizer
        if own_source is None and len(target.graph.input_names) == 1:
            own_source = own_target
    source_tokenizer = own_source if source_tokenizer is ... else source_tokenizer
    target_tokenizer = own_target if target_tokenizer is ... else target_tokenizer
    return _as_source_tokenizer(source_tokenizer, target), as_tokenizer(target_tokenizer, target)


def needed_of(model: keras.Model, source_tokenizer) -> keras.Model:
    """The model without the inputs of packed sequences and, where texts go in, without any that may be left out: a text
    says nothing of them."""
    return unpacked(model, FURTHER if source_tokenizer is None else ("",))


def check_tokenizers(target: Generator | keras.Model, ids: Signature, source_tokenizer, target_tokenizer) -> None:
    """Raise ValueError unless each tokenizer has something to do, and the vocabulary of its side of the model."""
    sources = inputs_of_model(target, ids)
    is_generator = isinstance(target, Generator)
    if source_tokenizer is not None and len(sources) != 1:
        raise ValueError(
            f"A source_tokenizer makes the one source of a model; this model has {[x.name for x in sources]}."
        )
    if target_tokenizer is not None and not is_generator:
        raise ValueError("A target_tokenizer turns generated tokens into text; export a Generator to use one.")
    if target_tokenizer is not None and not hasattr(target_tokenizer, "detokenize"):
        raise ValueError(
            "A target_tokenizer turns ids into strings by its method detokenize; "
            f"{type(target_tokenizer).__name__} has none."
        )
    for tokenizer in (source_tokenizer, target_tokenizer):
        if isinstance(tokenizer, Tokenizer):
            tokenizer.check_graph()
    program = target.graph if is_generator else Program(target)
    if source_tokenizer is not None:
        slot = input_names(program.model).index(sources[0].name)
        limit, size = program.vocabulary_limits().get(slot, (None, None))[1], _vocabulary_size(source_tokenizer)
        if None not in (limit, size) and size > limit:
            raise ValueError(f"The source tokenizer has {size} ids, the model's source vocabulary {limit}.")
    if target_tokenizer is not None:
        size = _vocabulary_size(target_tokenizer)
        if size is not None and size < target.graph.vocabulary_size:
            raise too_few_ids(size, target.graph.vocabulary_size)


def _vocabulary_size(tokenizer) -> int | None:
    """Number of ids, an attribute of some tokenizers and a method of others; None if it does not tell."""
    size = getattr(getattr(tokenizer, "layer", tokenizer), "vocabulary_size", None)
    return size() if callable(size) else size
