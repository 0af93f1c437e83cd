"""Strings in place of ids: a signature with its tokenizers, and whether they fit the model."""

from keras_transformer.decoding import Generator
from keras_transformer.export.signatures import Signature


def with_tokenizers(ids: Signature, source_tokenizer, target_tokenizer) -> Signature:
    """The signature with strings in place of ids, on each side that has a tokenizer."""

    def answer(*values):
        values = [source_tokenizer(values[0]), *values[1:]] if source_tokenizer is not None else values
        outputs = dict(ids.function(*values))
        if target_tokenizer is not None:
            outputs["texts"] = target_tokenizer.detokenize(outputs["tokens"])
        return outputs

    if source_tokenizer is None and target_tokenizer is None:
        return ids
    text = [ids.inputs[0]._replace(name="text", shape=(None,), dtype="string"), *ids.inputs[1:]]
    return Signature(text if source_tokenizer is not None else ids.inputs, answer)


def check_tokenizers(generator_or_model, ids: Signature, source_tokenizer, target_tokenizer) -> None:
    """Raise ValueError unless each tokenizer has something to do, and the vocabulary of its side of the model."""
    sources = [x for x in ids.inputs if x.name != "seed"]
    if source_tokenizer is not None and len(sources) != 1:
        raise ValueError(
            f"A source_tokenizer makes the one source of a model; this model has {[x.name for x in sources]}."
        )
    if target_tokenizer is not None and not isinstance(generator_or_model, Generator):
        raise ValueError("A target_tokenizer turns generated tokens into text; export a Generator to use one.")
    if not isinstance(generator_or_model, Generator):
        return
    graph = generator_or_model.graph
    limits = graph.vocabulary_limits()
    source = next((slot for slot in limits if slot != graph.target), graph.target)
    for tokenizer, size, side in (
        (source_tokenizer, limits.get(source, (None, None))[1], "source"),
        (target_tokenizer, graph.vocabulary_size, "target"),
    ):
        if tokenizer is None or size is None:
            continue
        if side == "source" and tokenizer.vocabulary_size > size:
            raise ValueError(
                f"The {side} tokenizer has {tokenizer.vocabulary_size} ids, the model's {side} vocabulary {size}."
            )
        if side == "target" and tokenizer.vocabulary_size < size:
            raise ValueError(
                f"The {side} tokenizer has {tokenizer.vocabulary_size} ids, the model generates {size} different ones."
            )
