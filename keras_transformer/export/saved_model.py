"""Export to SavedModel: tokenizer, generation loop and all, for TensorFlow Serving as it comes."""

import os
import time
from collections import Counter
from pathlib import Path

import keras
import numpy as np

from keras_transformer.decoding import Generator
from keras_transformer.export.agreement import ExportMismatchError, check_generated, check_outputs, python_answers
from keras_transformer.export.archive import write_archive
from keras_transformer.export.files import Kind, check_target, replacing
from keras_transformer.export.metadata import described, metadata_files
from keras_transformer.export.report import ExportReport, size_of, specifications
from keras_transformer.export.samples import as_inputs, sample_inputs, sample_seed
from keras_transformer.export.signatures import (
    Signature,
    encode_signature,
    fixed_rows,
    generate_signature,
    input_paddings,
    model_signature,
    refusing_empty,
    refusing_longer,
    require_tensorflow,
    score_signature,
)
from keras_transformer.export.steps import stream_signatures
from keras_transformer.export.strings import (
    check_tokenizers,
    detokenized,
    needed_of,
    sample_texts,
    token_inputs,
    tokenize_signature,
    tokenizers_of,
    with_tokenizers,
)
from keras_transformer.ops.runtime import without_xla
from keras_transformer_runtime.description import EXTRA, NAME, read_folder
from keras_transformer_runtime.saved_model import stream


def _check_saved_model(path: Path) -> None:
    """Raise ValueError unless a folder is a SavedModel of this exporter, with nothing in it of anybody else's."""
    _, files = read_folder(path / EXTRA)
    ours = {"saved_model.pb", "fingerprint.pb", "variables", "assets", EXTRA}
    strange = {x.name for x in path.iterdir()} - ours | {x.name for x in (path / EXTRA).iterdir()} - {NAME, *files}
    if strange:
        raise ValueError(f"it holds {sorted(strange)}, too")


SAVED_MODEL = Kind("a SavedModel of kt.export", True, _check_saved_model)


def saved_model(
    generator_or_model: Generator | keras.Model,
    path: str | os.PathLike,
    *,
    source_tokenizer=...,
    target_tokenizer=...,
    max_source_length: int | None = 1024,
    xla: bool = False,
    streaming: bool = False,
    samples=None,
    overwrite: bool = False,
    verify: bool = True,
) -> ExportReport:
    """Write a SavedModel that answers without Keras and without this package.

    Signatures of a generator:

    - `generate`: ids (the sources by name, or the prompts of a decoder-only model under its input's name) to `tokens`
      (B, N, L), `lengths` (B, N) and `scores` (B, N); N sequences a row, best first. A strategy that draws takes a
      scalar `seed`, too.
    - `serving_default`: the same with strings, (B,), named `text`, in place of the ids if there is a source
      tokenizer, and with `texts` (B, N) among the outputs if there is a target tokenizer.
    - `score`: sources and target sequences, under the names of the model's inputs, to `scores` (B,); a decoder-only
      model takes `prompt_lengths` (B,), too.
    - `encode`, of an encoder-decoder: sources to the encoder's output, `memory`, and its padding mask.

    A plain model has `serving_default`, strings in if there is a source tokenizer, and `encode`, ids in. No signature
    contains an XLA op, which stock TensorFlow Serving refuses on CPUs, but those that `xla` adds. A description for
    programs (`kt.export.load`) lies in the folder `assets.extra`.

    Args:
        generator_or_model: What to export.
        path: Folder to write.
        source_tokenizer: Layer that turns strings (B,) into ids (B, T), padded with 0, or ragged: a tokenizer of
            `kt.text` or KerasHub, a `TextVectorization`. Default: that of the generator, if it has one (a decoder-only
            one that has a target tokenizer only reads prompts with that); None for ids alone.
        target_tokenizer: Layer whose `detokenize` turns ids (B, N, L) into strings (B, N), or one of KerasHub. Default:
            that of the generator, if it has one; None for ids alone.
        max_source_length: Most ids that an input of unknown length may have; a longer one gets an error, not an
            answer. A server that reads strangers' texts needs such a limit, as the memory of attention grows with
            the square of the length. None is no limit. The prompts of a decoder-only generator are limited by its
            `max_length` in any case.
        xla: Whether to add signatures compiled with XLA, faster where it is not switched off: `generate_xla` and, with
            tokenizers, `serving_default_xla`; of a plain model `serving_default_xla`.
        streaming: Whether to add the loop in two parts, `begin` and `advance`, with which `kt.export.load(path).stream`
            hands out tokens as they come. The caches are inputs and outputs of each step. A source tokenizer that works
            in the graph only gets a signature of its own, `tokenize`.
        samples: What to compare with Python besides random ids: strings if there is a source tokenizer, else ids, as a
            generator takes them.
        overwrite: Whether a folder that is there may be replaced. It is, only once the new one is complete.
        verify: Whether to load what was written and compare it with Python.

    Returns:
        A report, which is printed, too: size, signatures, operators, milliseconds a call.

    Raises:
        ValueError: If the backend is not TensorFlow, the path exists or cannot be written, a tokenizer does not
            fit the model, `max_source_length` is not positive, an operation of the model needs XLA, or `streaming` is
            asked of a plain model or of a strategy that chooses among whole sequences.
        ExportMismatchError: If the export does not give what Python gives; nothing is written then.
    """
    require_tensorflow("A SavedModel")
    import tensorflow as tf

    if max_source_length is not None and max_source_length < 1:
        raise ValueError(f"max_source_length must be at least 1, or None for no limit. Received: {max_source_length}")
    check_target(path, SAVED_MODEL, overwrite=overwrite)
    source_tokenizer, target_tokenizer = tokenizers_of(generator_or_model, source_tokenizer, target_tokenizer)
    is_generator = isinstance(generator_or_model, Generator)
    generator_or_model = generator_or_model if is_generator else needed_of(generator_or_model, source_tokenizer)
    model: keras.Model = generator_or_model.model if is_generator else generator_or_model
    ids = generate_signature(generator_or_model) if is_generator else model_signature(generator_or_model)
    check_tokenizers(generator_or_model, ids, source_tokenizer, target_tokenizer)
    if is_generator and len(model.inputs) == 1 and max_source_length is not None:
        max_source_length = max(max_source_length, generator_or_model.max_length)
    signatures = _signatures(generator_or_model, ids, source_tokenizer, target_tokenizer, max_source_length, xla)
    if streaming:
        if not is_generator:
            raise ValueError("saved_model takes streaming=True for a Generator, not for a plain model.")
        parts = stream_signatures(generator_or_model)
        limit = refusing_longer if max_source_length is not None else lambda signature, _: signature
        signatures |= {"begin": limit(parts["begin"], max_source_length), "advance": parts["advance"]}
        if source_tokenizer is not None and described(source_tokenizer) is None:  # then only the graph can tokenize
            padding_id, *_ = input_paddings(generator_or_model, ids)
            signatures["tokenize"] = tokenize_signature(generator_or_model, source_tokenizer, padding_id)

    with replacing(path, SAVED_MODEL, overwrite=overwrite) as new:
        parts = [part for part in (model, source_tokenizer, target_tokenizer) if part is not None]
        write_archive(new, signatures, parts)
        (new / EXTRA).mkdir()
        for name, content in metadata_files(generator_or_model, ids, source_tokenizer, target_tokenizer).items():
            (new / EXTRA / name).write_bytes(content)
        loaded = tf.saved_model.load(str(new))
        operators = _operators(loaded, model, [name for name in signatures if not name.endswith("_xla")])
        milliseconds = {}
        if verify:
            milliseconds = _verify(
                generator_or_model,
                loaded,
                ids,
                source_tokenizer,
                target_tokenizer,
                max_source_length or np.inf,
                samples,
            )
        report = ExportReport(
            path=Path(path),
            size=size_of(new),
            signatures=specifications(signatures),
            operators=dict(operators),
            milliseconds=milliseconds,
            agreement=1.0 if verify else None,
        )
    print(report)
    return report


def _signatures(
    target, ids: Signature, source_tokenizer, target_tokenizer, longest: int | None, xla: bool
) -> dict[str, Signature]:
    def limited(signature):
        return signature if longest is None else refusing_longer(signature, longest)

    def serving(ids):
        return with_tokenizers(target, ids, source_tokenizer, target_tokenizer, input_paddings(target, ids)[0])

    compiled = limited(_compiled(ids))
    ids = limited(ids._replace(function=without_xla()(ids.function)))
    if isinstance(target, Generator):
        compiled, ids = refusing_empty(target, compiled), refusing_empty(target, ids)
    if isinstance(target, Generator):
        signatures = {"serving_default": serving(ids), "generate": ids, "score": limited(score_signature(target))}
        if len(target.graph.input_names) > 1:
            signatures["encode"] = limited(encode_signature(target))
    else:
        signatures = {"serving_default": serving(ids), "encode": ids}
    if xla:
        if isinstance(target, Generator):
            signatures["generate_xla"] = compiled
        if not isinstance(target, Generator) or source_tokenizer is not None or target_tokenizer is not None:
            signatures["serving_default_xla"] = serving(compiled)
    return signatures


def _compiled(signature: Signature) -> Signature:
    import tensorflow as tf

    return signature._replace(function=tf.function(signature.function, jit_compile=True, autograph=False))


def _operators(loaded, model: keras.Model, names: list[str]) -> Counter:
    """How often each operator occurs in the signatures; raises ValueError where one needs XLA."""
    found = Counter()
    for name in names:
        definition = loaded.signatures[name].graph.as_graph_def()
        nodes = [node for function in definition.library.function for node in function.node_def] + list(definition.node)
        needing = sorted({node.op for node in nodes if node.op.startswith("Xla") or _must_compile(node)})
        if needing:
            raise ValueError(
                f"The signature {name} of '{model.name}' needs XLA, which TensorFlow Serving has switched off on CPUs: "
                f"{needing}. Replace the operation that makes them (keras.ops.slice_update and functions with "
                "jit_compile=True do)."
            )
        found.update(node.op for node in nodes)
    return found


def _must_compile(node) -> bool:
    return "_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b


def _verify(
    target, loaded, ids: Signature, source_tokenizer, target_tokenizer, longest: float, samples
) -> dict[str, float]:
    """Run what was written, on random samples and on the given ones, and compare with Python."""
    is_generator = isinstance(target, Generator)
    values = sample_inputs(target, ids, length=int(min(5, longest)), batch=fixed_rows(target, 2))
    names = [x.name for x in ids.inputs]
    milliseconds, seed = {}, sample_seed(target)

    def compare(name, values, inputs):
        run = loaded.signatures[name]
        exported = {key: value.numpy() for key, value in run(**inputs).items()}
        start = time.perf_counter()
        run(**inputs)
        milliseconds[name] = 1e3 * (time.perf_counter() - start)
        texts = exported.pop("texts", None)
        if texts is not None:
            expected = detokenized(target, target_tokenizer, *_tensors([exported["tokens"], exported["lengths"]]))
            if not np.array_equal(texts, expected):
                raise ExportMismatchError(f"The SavedModel's {name} gives other texts than Python: {texts.tolist()}.")
        if is_generator:
            check_generated(target, values, python_answers(target, values, *seed), exported, f"SavedModel's {name}")
        else:
            check_outputs(target, ids.function(*values), exported, f"SavedModel's {name}")

    def named(values):
        return dict(zip(names, _tensors([*values, *seed]), strict=True))

    batches = [values] if samples is None or source_tokenizer is not None else [values, as_inputs(target, samples, ids)]
    for batch in batches:
        compare("generate" if is_generator else "encode", batch, named(batch))
    if "advance" in loaded.signatures:
        *_, carry = stream(loaded.signatures, named(values))
        shape = (len(values[0]), target.strategy.num_return)
        exported = {key: carry[key].numpy() for key in ("tokens", "lengths", "scores")}
        exported = {key: x.reshape(*shape, *x.shape[1:]) for key, x in exported.items()}
        check_generated(target, values, python_answers(target, values, *seed), exported, "SavedModel's advance")
    if source_tokenizer is not None:
        texts = [sample_texts(source_tokenizer, values[0], longest)]
        texts += [] if samples is None else _tensors([np.asarray(samples, object)])
        for text in texts:
            if text is not None:
                given = {name: x for name, x in named([text, *values[1:]]).items() if name == "seed"}
                tokens = token_inputs(target, ids, source_tokenizer, text, input_paddings(target, ids)[0])
                compare("serving_default", tokens, {"text": text, **given})
    return milliseconds


def _tensors(values) -> list:
    import tensorflow as tf

    return [tf.constant(value) for value in values]
