"""Export to LiteRT (TF Lite) with builtin ops only: phones, browsers, microcontrollers."""

import os
import zipfile
from collections import Counter
from pathlib import Path

import keras
import numpy as np

from keras_transformer.decoding import Generator
from keras_transformer.export.agreement import agreement, check_generated, check_outputs, python_answers
from keras_transformer.export.archive import write_archive
from keras_transformer.export.files import Kind, check_target, replacing
from keras_transformer.export.metadata import metadata_files
from keras_transformer.export.padding import pad, try_padding
from keras_transformer.export.quantization import (
    check_convertible,
    check_quantize,
    int8_tables,
    set_converter,
    share_equal_buffers,
    to_int4,
)
from keras_transformer.export.report import ExportReport, size_of, specifications
from keras_transformer.export.samples import as_inputs, sample_inputs, sample_seed
from keras_transformer.export.signatures import (
    Signature,
    fixed_rows,
    generate_signature,
    input_paddings,
    model_signature,
    require_tensorflow,
    with_static_shapes,
)
from keras_transformer.export.steps import in_place, prefill_lengths, step_signatures
from keras_transformer.export.strings import check_tokenizers, needed_of, token_inputs, tokenizers_of, with_tokenizers
from keras_transformer.ops.runtime import for_converter
from keras_transformer_runtime.description import checksum, read_archive
from keras_transformer_runtime.litert import load_program
from keras_transformer_runtime.packages import needed

LAYOUTS = ("generate", "step")
LITERT = Kind("a .tflite file of kt.export.litert", False, read_archive)


def litert(
    generator_or_model: Generator | keras.Model,
    path: str | os.PathLike,
    *,
    source_length: int | None = None,
    batch_size: int | None = None,
    layout: str = "generate",
    quantize: str | None = None,
    source_tokenizer=...,
    target_tokenizer=...,
    strings: bool = False,
    samples=None,
    overwrite: bool = False,
    verify: bool = True,
) -> ExportReport:
    """Write a .tflite file of builtin ops only, with static shapes.

    With `layout="generate"` the signature `generate` holds the whole loop: ids in (the sources by name, or the prompts
    of a decoder-only model under its input's name, padded on the right with 0), `tokens`, `lengths` and `scores` out.
    A strategy that draws takes a scalar `seed`, too.

    With `layout="step"` the loop is the caller's, who can show each token as it comes: `encode` makes the memory of
    the sources, `prefill_N` reads a prompt of up to N tokens (`prompts`, `prompt_lengths`) and makes the carry,
    `decode` takes the carry and the memory one token further, until all are `finished`, and `finish` gives `tokens`,
    `lengths` and `scores`. The signatures share their weights.

    A plain model has the signature `serving_default`.

    A description, tokenizers included, is appended to the file as a zip archive, as TF Lite Metadata does: `unzip`
    shows it, `kt.export.load` uses it, and interpreters do not see it.

    Args:
        generator_or_model: What to export.
        path: File to write.
        source_length: Length that every input of unknown length gets.
        batch_size: Number of rows. Default: 1, or what the model's inputs are fixed to.
        layout: `"generate"` or `"step"`.
        quantize: Of the weights: None keeps float32; `"float16"`; `"int8"` and `"int4"`, with a scale for each
            channel, activations staying float32. Quantized answers may differ; the report tells how many of the samples
            do.
        source_tokenizer, target_tokenizer: Tokenizers to describe in the file, for `kt.export.load`. Default: those of
            the generator, if it has any; None for no tokenizer.
        strings: Whether to add a signature `serving_default` that takes strings, `text` (B,), and returns `texts`
            (B, N), too. It holds operations of TensorFlow Text, so it runs only where these are registered: in Python
            by `InterpreterWithCustomOps` with `tensorflow_text`'s `tflite_registrar.SELECT_TFTEXT_OPS`.
        samples: What to compare with Python besides random ids: strings if there is a source tokenizer, else ids, as a
            generator takes them.
        overwrite: Whether a file that is there may be replaced. It is, only once the new one is complete.
        verify: Whether to run what was written with the `ai-edge-litert` package and compare it with Python.

    Returns:
        A report, which is printed, too: size, signatures, operators, milliseconds a call, share of equal sequences.

    Raises:
        ValueError: If the backend is not TensorFlow, the path exists or cannot be written, `source_length` is
            missing, an argument is not one of those named, or the model needs an op that LiteRT does not have.
        ExportMismatchError: If the file, not quantized, does not give what Python gives; nothing is written then.
    """
    require_tensorflow("A LiteRT file")
    check_quantize(quantize)
    check_target(path, LITERT, overwrite=overwrite)
    source_tokenizer, target_tokenizer = tokenizers_of(generator_or_model, source_tokenizer, target_tokenizer)
    is_generator = isinstance(generator_or_model, Generator)
    generator_or_model = generator_or_model if is_generator else needed_of(generator_or_model, source_tokenizer)
    if layout not in LAYOUTS or (layout == "step" and not is_generator):
        raise ValueError(f"litert takes layout='generate', or 'step' for a Generator, got {layout!r}.")
    model = generator_or_model.model if is_generator else generator_or_model
    check_convertible(model)
    ids = generate_signature(generator_or_model) if is_generator else model_signature(generator_or_model)
    check_tokenizers(generator_or_model, ids, source_tokenizer, target_tokenizer)
    batch_size = fixed_rows(model, 1) if batch_size is None else batch_size
    whole = with_static_shapes(generator_or_model, ids, source_length, batch_size, "A LiteRT file")
    if layout == "step":
        lengths = prefill_lengths(generator_or_model, source_length)
        signatures = step_signatures(generator_or_model, source_length, batch_size, lengths)
    else:
        signatures = {"generate" if is_generator else "serving_default": whole}
    if strings:
        padding_id, *_ = input_paddings(generator_or_model, ids)
        if source_tokenizer is None or layout == "step":
            raise ValueError("litert takes strings=True with a source_tokenizer, and not with layout='step'.")
        tokenizers = source_tokenizer, target_tokenizer
        signatures["serving_default"] = with_tokenizers(generator_or_model, whole, *tokenizers, padding_id)

    with replacing(path, LITERT, overwrite=overwrite) as new:
        parts = [model, *filter(None, (source_tokenizer, target_tokenizer))] if strings else [model]
        content = convert(parts, signatures, quantize, new.parent / "saved_model", strings)
        new.write_bytes(content)
        operators = operators_of(new)
        facts = {
            "layout": layout if is_generator else "model",
            "quantize": quantize,
            "batch_size": batch_size,
            "source_length": source_length,
            "signatures": {name: [x._asdict() for x in signature.inputs] for name, signature in signatures.items()},
            "content": checksum(new, new.stat().st_size),
        }
        if layout == "step":
            facts["in_place"] = in_place(generator_or_model, signatures["decode"])
        padding = try_padding(generator_or_model, ids, whole, source_length)
        files = metadata_files(generator_or_model, ids, source_tokenizer, target_tokenizer, padding, **facts)
        with zipfile.ZipFile(new, "a") as archive:
            for name, part in files.items():
                archive.writestr(name, part)
        milliseconds, agreed = {}, None
        if verify:
            batches = _batches(generator_or_model, ids, whole, source_length or 1, source_tokenizer, samples)
            milliseconds, agreed = _verify(generator_or_model, new, whole, batches, exact=quantize is None)
        report = ExportReport(
            path=Path(path),
            size=size_of(new),
            signatures=specifications(signatures),
            operators=dict(operators),
            milliseconds=milliseconds,
            agreement=agreed,
        )
    print(report)
    return report


def convert(
    parts: list, signatures: dict[str, Signature], quantize: str | None, work: Path, strings: bool = False
) -> bytes:
    """The flatbuffer of some signatures. By way of a SavedModel, at `work`: from concrete functions, a Keras 3 model
    would lose its weights (tensorflow 2.21)."""
    import tensorflow as tf

    model, *_ = parts
    with int8_tables(model, quantize), for_converter("litert"):
        write_archive(work, signatures, parts)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(work), signature_keys=list(signatures))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.allow_custom_ops = strings
    set_converter(converter, quantize)
    finish = {"int4": to_int4, "int8": share_equal_buffers}.get(quantize, bytes)
    try:
        content = converter.convert()
    except Exception as error:  # the converter's own error type is not public
        raise ValueError(
            f"The model '{model.name}' needs ops that LiteRT has no builtin for, or types it cannot compute in "
            f"(export under float32): {_first_lines(error)}"
        ) from error
    return finish(content)


def _first_lines(error: Exception, count: int = 6) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines[:count])


def operators_of(path: Path) -> Counter:
    """How often each operator occurs in the file."""
    from tensorflow.lite.python import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}

    def name(code):
        return (code.CustomCode() or b"").decode() or names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]

    model = schema.Model.GetRootAs(path.read_bytes())
    codes = [name(model.OperatorCodes(place)) for place in range(model.OperatorCodesLength())]
    graphs = [model.Subgraphs(place) for place in range(model.SubgraphsLength())]
    return Counter(codes[graph.Operators(i).OpcodeIndex()] for graph in graphs for i in range(graph.OperatorsLength()))


def _batches(target, ids: Signature, whole: Signature, length: int, source_tokenizer, samples) -> list[list]:
    """Inputs to try: random ones, and the samples, cut into batches and padded to the shapes of the file."""
    inputs, batch_size = whole.inputs, whole.inputs[0].shape[0]
    batches, paddings = [sample_inputs(target, whole, length, batch_size)], input_paddings(target, ids)
    if samples is None:
        return batches
    if source_tokenizer is not None:
        import tensorflow as tf

        arrays = token_inputs(target, ids, source_tokenizer, tf.constant(list(samples)), paddings[0])
    else:
        arrays = as_inputs(target, samples, ids)
    for start in range(0, len(arrays[0]), batch_size):
        batch = []
        for array, (name, shape, _), padding_id in zip(arrays, inputs, paddings, strict=False):  # a seed is the last
            rows = array[start : start + batch_size]
            if any(given > room for given, room in zip(rows.shape[1:], shape[1:], strict=True)):
                raise ValueError(f"The samples of '{name}' have shape {rows.shape[1:]}; the file takes {shape[1:]}.")
            rows = np.concatenate([rows, np.repeat(rows[:1], batch_size - len(rows), axis=0)])
            batch.append(pad(rows, shape, padding_id))
        batches.append(batch)
    return batches


def _verify(target, path: Path, whole: Signature, batches: list, *, exact: bool) -> tuple[dict[str, float], float]:
    """Run what was written on each batch, and compare with Python: milliseconds by signature, share of equal rows."""
    run = _runner(path)
    agreed, milliseconds, seed = [], {}, sample_seed(target)
    for values in batches:
        inputs = dict(zip((x.name for x in whole.inputs), [*values, *seed], strict=True))
        milliseconds.clear()  # of the last batch, when everything is warm
        exported = run(inputs, milliseconds)
        if isinstance(target, Generator):
            expected = python_answers(target, values, *seed)
            if exact:
                check_generated(target, values, expected, exported, "LiteRT file")
            agreed.append(agreement(expected, exported))
        elif exact:
            check_outputs(target, whole.function(*values), exported, "LiteRT file")
    return milliseconds, float(np.mean(agreed)) if agreed else 1.0


def _runner(path: Path):
    """A function of the inputs of the whole to its outputs, which notes the milliseconds of each signature."""
    needed("ai_edge_litert.interpreter", "The verification of a LiteRT file", "or export with verify=False")
    return load_program(path, read_archive(path)[0]).run
