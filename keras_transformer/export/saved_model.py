"""Export to SavedModel: tokenizer, generation loop and all, for TensorFlow Serving as it comes."""

import os

import keras
import numpy as np

from keras_transformer.decoding import Generator
from keras_transformer.export.agreement import check_generated, check_outputs
from keras_transformer.export.files import replacing
from keras_transformer.export.signatures import (
    Signature,
    ids_signature,
    model_signature,
    refusing_longer,
    require_tensorflow,
    sample_inputs,
)


def saved_model(
    generator_or_model: Generator | keras.Model,
    path: str | os.PathLike,
    *,
    source_tokenizer=None,
    target_tokenizer=None,
    max_source_length: int | None = 1024,
    overwrite: bool = False,
    verify: bool = True,
) -> None:
    """Write a SavedModel that answers without Keras and without this package.

    Of a generator, the signature `generate` takes ids (the sources by name, or the prompts of a decoder-only model
    under its input's name) and returns `tokens` (B, N, L), `lengths` (B, N) and `scores` (B, N). `serving_default`
    takes strings, (B,), named `text`, if there is a source tokenizer, and returns `texts` (B, N), too, if there is
    a target tokenizer. A plain model has `serving_default` only. No signature contains an XLA op, which stock
    TensorFlow Serving refuses on CPUs.

    Args:
        generator_or_model: What to export.
        path: Folder to write.
        source_tokenizer: Layer that turns strings (B,) into ids (B, T), padded with 0.
        target_tokenizer: Layer whose `detokenize` turns ids (B, N, L) into strings (B, N).
        max_source_length: Most ids that an input of unknown length may have; a longer one gets an error, not an
            answer. A server that reads strangers' texts needs such a limit, as the memory of attention grows with
            the square of the length. None is no limit. The prompts of a decoder-only generator are limited by its
            `max_length` in any case.
        overwrite: Whether a folder that is there may be replaced. It is, only once the new one is complete.
        verify: Whether to load what was written and compare it with Python.

    Raises:
        ValueError: If the backend is not TensorFlow, the path exists or cannot be written, a tokenizer does not
            fit the model, `max_source_length` is not positive.
        ExportMismatchError: If the export does not give what Python gives; nothing is written then.
    """
    require_tensorflow("A SavedModel")
    import tensorflow as tf

    if max_source_length is not None and max_source_length < 1:
        raise ValueError(f"max_source_length must be at least 1, or None for no limit. Received: {max_source_length}")
    if isinstance(generator_or_model, Generator):
        model, ids, name = generator_or_model.model, ids_signature(generator_or_model), "generate"
    else:
        model, ids, name = generator_or_model, model_signature(generator_or_model), "serving_default"
    longest = max_source_length or np.inf
    if isinstance(generator_or_model, Generator) and len(model.inputs) == 1:
        longest = generator_or_model.max_length  # prompts that are longer are refused as it is
    elif max_source_length is not None:
        ids = refusing_longer(ids, max_source_length)
    _check_tokenizers(generator_or_model, ids, source_tokenizer, target_tokenizer)
    serving = _with_tokenizers(ids, source_tokenizer, target_tokenizer)

    with replacing(path, overwrite=overwrite) as new:
        archive = keras.export.ExportArchive()
        for part in (model, source_tokenizer, target_tokenizer):
            if part is None:
                continue
            if not getattr(part, "built", True):  # Keras tracks layers that have been called only
                part(tf.constant(["a"]))
            archive.track(part)
        endpoints = {name: ids, "serving_default": serving}  # of a plain model, one and the same
        for endpoint, signature in endpoints.items():
            specifications = [tf.TensorSpec(shape, dtype, name=key) for key, shape, dtype in signature.inputs]
            archive.add_endpoint(endpoint, signature.function, specifications)
        archive.write_out(str(new), verbose=False)
        if verify:
            _verify(generator_or_model, tf.saved_model.load(str(new)), ids, name, source_tokenizer, longest)


def _with_tokenizers(ids: Signature, source_tokenizer, target_tokenizer) -> Signature:
    """The signature with strings in place of ids, on each side that has a tokenizer."""

    def answer(*values):
        values = [source_tokenizer(values[0])] if source_tokenizer is not None else values
        outputs = dict(ids.function(*values))
        if target_tokenizer is not None:
            outputs["texts"] = target_tokenizer.detokenize(outputs["tokens"])
        return outputs

    if source_tokenizer is None and target_tokenizer is None:
        return ids
    text = [ids.inputs[0]._replace(name="text", shape=(None,), dtype="string")]
    return Signature(text if source_tokenizer is not None else ids.inputs, answer)


def _check_tokenizers(generator_or_model, ids: Signature, source_tokenizer, target_tokenizer) -> None:
    if source_tokenizer is not None and len(ids.inputs) != 1:
        raise ValueError(
            f"A source_tokenizer makes the one source of a model; this model has {[x.name for x in ids.inputs]}."
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


def _verify(generator_or_model, loaded, ids: Signature, name: str, source_tokenizer, longest: float) -> None:
    """Run what was written on random samples, ids and strings, and compare with Python."""
    values = sample_inputs(generator_or_model, ids, length=min(5, longest), batch=2)
    names = [x.name for x in ids.inputs]
    is_generator = isinstance(generator_or_model, Generator)
    if is_generator or source_tokenizer is None:
        exported = loaded.signatures[name](**dict(zip(names, _tensors(values), strict=True)))
        _compare(generator_or_model, ids, values, exported)
    if source_tokenizer is not None:
        for length in range(values[0].shape[1], 0, -1):  # the ids of a text may be more than those it was made from
            texts = source_tokenizer.detokenize(values[0][:, :length])
            sample = np.asarray(source_tokenizer(texts))
            if sample.shape[1] <= longest:
                _compare(generator_or_model, ids, [sample], loaded.signatures["serving_default"](text=texts))
                break


def _tensors(values) -> list:
    import tensorflow as tf

    return [tf.constant(value) for value in values]


def _compare(generator_or_model, ids: Signature, values: list, exported: dict) -> None:
    exported = {key: value.numpy() for key, value in exported.items()}
    if isinstance(generator_or_model, Generator):
        check_generated(generator_or_model, values, exported, "SavedModel")
    else:
        check_outputs(generator_or_model, ids.function(*values), exported, "SavedModel")
