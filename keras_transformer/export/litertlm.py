"""Export to LiteRT-LM: a language model, its tokenizer and what a runtime has to know of both, in one bundle."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import EllipsisType

import numpy as np

from keras_transformer.decoding import Generator
from keras_transformer.decoding.strategies import Greedy
from keras_transformer.export.agreement import TIE, ExportMismatchError, margin_at
from keras_transformer.export.bundle import bundle_signatures, check_bundle, is_placeholder
from keras_transformer.export.bundle_tokenizers import bundled
from keras_transformer.export.files import Kind, check_target, replacing
from keras_transformer.export.litert import convert, operators_of
from keras_transformer.export.metadata import metadata_files
from keras_transformer.export.quantization import check_convertible, check_quantize
from keras_transformer.export.report import ExportReport, size_of, specifications
from keras_transformer.export.samples import sample_inputs
from keras_transformer.export.signatures import generate_signature, require_tensorflow
from keras_transformer.export.strings import check_tokenizers, sample_texts, tokenized, tokenizers_of
from keras_transformer.text import Tokenizer, chat
from keras_transformer_runtime.description import checksum, read_archive
from keras_transformer_runtime.engine import ask, render
from keras_transformer_runtime.packages import needed
from keras_transformer_runtime.seeds import fold_seed

BUNDLE = Kind("a .litertlm file of kt.export.litertlm", False, read_archive)
PREFILL_LENGTHS = (1, 8, 64, 512)
# The runtime gives a template the text of a message as a list of parts. Most templates join it to other strings.
PARTS = (
    "{%- set joined = namespace(messages=[]) -%}{%- for message in messages -%}{%- set text = message['content'] -%}"
    "{%- if text and text is not string -%}{%- set text = text | map(attribute='text') | join('') -%}{%- endif -%}"
    "{%- set joined.messages = joined.messages + [dict(message, content=text)] -%}{%- endfor -%}"
    "{%- set messages = joined.messages -%}"
)
COUNT = 32  # tokens that are generated for each sample


def litertlm(
    generator: Generator,
    path: str | os.PathLike,
    *,
    tokenizer=...,
    prefill_lengths: Sequence[int] | None = None,
    quantize: str | None = None,
    chat_template: str | EllipsisType | None = ...,
    samples: Sequence[str] | None = None,
    overwrite: bool = False,
    verify: bool = True,
) -> ExportReport:
    """Write a bundle that the LiteRT-LM runtime runs (https://github.com/google-ai-edge/LiteRT-LM): on phones, on
    desktops and behind its own server.

    It holds the model as signatures `prefill_N` and `decode` that share their weights, the tokenizer, and the ids that
    start and end a sequence, the length, how tokens are chosen, and the template of conversations. Windows are kept in
    rings. `kt.export.load` runs it, too.

    Args:
        generator: Of a decoder-only model with keys and values in float32, by `Greedy()` or `Sampling(...)` with
            `temperature`, `top_k` and `top_p`. `max_length` is the length of a conversation.
        path: File to write, whose name ends with ".litertlm".
        tokenizer: Default: the generator's.
        prefill_lengths: Numbers N of tokens that are read at a time. A prompt is read in pieces of these; 1 is always
            among them, as a piece has to fit into what is left of `max_length`; primes above 10 the runtime takes for
            placeholders. Default: 1, 8, 64 and 512, as long as
            `max_length` allows.
        quantize: As `kt.export.litert` takes it: None, "float16", "int8" or "int4".
        chat_template: A template in Jinja's language, which the runtime knows without Python's methods. Default: the
            tokenizer's, if it has one; None for none.
        samples: Texts to compare with Python. Default: made-up ones of several lengths.
        overwrite: Whether a bundle that is there may be replaced. It is, only once the new one is complete.
        verify: Whether to run the bundle with the engine of the `litert-lm-api` package, in a process of its own, and
            compare its greedy answers with Python's.

    Returns:
        A report, which is printed, too: size, signatures, operators, share of equal samples.

    Raises:
        ValueError: If the backend is not TensorFlow; if the runtime cannot do what the generator does, which is named;
            if there is no tokenizer, or none that a bundle can hold; if nothing ends a sequence; if an argument is not
            one of those named, or the path cannot be written.
        ExportMismatchError: If the engine reads other ids than the tokenizer, or, not quantized, gives another text
            than Python; nothing is written then.
        ImportError: If `litert-lm-builder` is not installed, or, to verify, `litert-lm-api`.
    """
    require_tensorflow("A LiteRT-LM bundle")
    check_quantize(quantize)
    if Path(path).suffix != ".litertlm":
        raise ValueError(f"The LiteRT-LM runtime knows a bundle by its name, 'model.litertlm' say, got '{path}'.")
    check_target(path, BUNDLE, overwrite=overwrite)
    check_bundle(generator)
    check_convertible(generator.model)
    builder = needed("litert_lm_builder", "litertlm")
    if verify:
        needed("litert_lm", "The verification of a bundle", "or export with verify=False")
    tokenizer, _ = tokenizers_of(generator, tokenizer, None)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(
            f"A LiteRT-LM bundle takes texts and has a tokenizer of keras_transformer.text, got {tokenizer!r}: give "
            "litertlm(..., tokenizer=...)."
        )
    if tokenizer.max_length is not None and tokenizer.max_length < generator.max_length:
        raise ValueError(
            f"The tokenizer cuts texts off behind {tokenizer.max_length} ids, which a bundle does not: give "
            "litertlm(..., tokenizer=tokenizer.copy(max_length=None))."
        )
    ids = generate_signature(generator)
    check_tokenizers(generator, ids, tokenizer, None)
    section = bundled(tokenizer)
    lengths = _prefill_lengths(prefill_lengths, generator.max_length)
    template = _template(tokenizer) if chat_template is ... else chat_template
    metadata = _metadata(generator, tokenizer, template)
    texts = _samples(generator, tokenizer, samples) if verify else []

    with replacing(path, BUNDLE, overwrite=overwrite) as new:
        signatures = bundle_signatures(generator, lengths)
        parts = {"model.tflite": convert([generator.model], signatures, quantize, new.parent / "saved_model")}
        parts |= {"metadata.pb": metadata, f"tokenizer{section.suffix}": section.content}
        for name, content in parts.items():
            (new.parent / name).write_bytes(content)
        operators = operators_of(new.parent / "model.tflite")
        _build(builder, new, section.suffix)
        facts = {
            "layout": "bundle",
            "quantize": quantize,
            "batch_size": 1,
            "source_length": generator.max_length,
            "signatures": {name: [x._asdict() for x in signature.inputs] for name, signature in signatures.items()},
            "model": {"offset": _find(new, parts["model.tflite"]), "size": len(parts["model.tflite"])},
            "content": checksum(new, new.stat().st_size),
        }
        files = metadata_files(generator, ids, tokenizer, tokenizer, **facts)
        with zipfile.ZipFile(new, "a") as archive:
            for name, part in files.items():
                archive.writestr(name, part)
        agreed = None
        if verify:
            named = new.rename(new.with_name("model.litertlm"))  # the engine goes by the name
            agreed = _verify(generator, tokenizer, named, texts, exact=quantize is None)
            if template is not None:
                _check_template(tokenizer, named, template)
            named.rename(new)
        report = ExportReport(
            path=Path(path),
            size=size_of(new),
            signatures=specifications(signatures),
            operators=dict(operators),
            agreement=agreed,
        )
    print(report)
    return report


def _prefill_lengths(given: Sequence[int] | None, longest: int) -> list[int]:
    if given is None:
        return [length for length in PREFILL_LENGTHS if length <= longest]
    given = list(given) if isinstance(given, Sequence) else [given]
    if any(type(length) is not int or not 1 <= length <= longest for length in given):
        raise ValueError(f"prefill_lengths are integers from 1 to max_length, {longest}, got {given}.")
    primes = [length for length in given if is_placeholder(length)]
    if primes:
        raise ValueError(
            f"The LiteRT-LM runtime takes prime numbers above 10 for placeholders, and would read {primes[0]} tokens "
            f"at a time as fewer: give other prefill_lengths than {primes}."
        )
    return sorted({1, *given})


def _template(tokenizer: Tokenizer) -> str | None:
    """The tokenizer's own template of conversations; of several, the one that is taken by default."""
    template = getattr(tokenizer, "chat_template", None)
    return template.get("default") if isinstance(template, dict) else template


def _metadata(generator: Generator, tokenizer: Tokenizer, template: str | None) -> bytes:
    """What the runtime has to know, as a message of protobuf."""
    from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata
    from litert_lm_builder.runtime.proto.sampler_params_pb2 import SamplerParameters

    special, strategy, (start, _) = generator.special, generator.strategy, tokenizer.frame
    if len(start) > 1:
        raise ValueError(f"A LiteRT-LM bundle begins a text with one id, the tokenizer with {list(start)}.")
    metadata = LlmMetadata(max_num_tokens=generator.max_length)
    metadata.llm_model_type.generic_model.SetInParent()
    metadata.supports_thinking = metadata.supports_function_calling = False
    if start:
        metadata.start_token.token_ids.ids.extend(start)
    ends = special.ends or ((special.never,) if special.never is not None else ())
    if not ends:
        raise ValueError(
            "A LiteRT-LM bundle needs an id that ends a sequence, and the generator has none: give Generator(..., "
            "end_token=...)."
        )
    for end in ends:
        metadata.stop_tokens.add().token_ids.ids.append(end)
    parameters = metadata.sampler_params
    parameters.type = SamplerParameters.TOP_P
    parameters.k, parameters.p, parameters.temperature = 1, 1.0, 1.0
    if not isinstance(strategy, Greedy):
        parameters.k = min(strategy.top_k or generator.graph.vocabulary_size, generator.graph.vocabulary_size)
        parameters.p, parameters.temperature = strategy.top_p or 1.0, strategy.temperature
        if strategy.seed is not None:
            parameters.seed = fold_seed(strategy.seed)
    if template is not None:
        metadata.jinja_prompt_template = PARTS + template
    return metadata.SerializeToString()


def _build(builder, path: Path, suffix: str) -> None:
    """Write the bundle of the parts beside `path`."""
    folder = path.parent
    bundle = builder.LitertLmFileBuilder()
    author = builder.Metadata(key="Authors", value="keras_transformer", dtype=builder.DType.STRING)
    bundle.add_system_metadata(author).add_llm_metadata(str(folder / "metadata.pb"))
    add = bundle.add_hf_tokenizer if suffix == ".json" else bundle.add_sentencepiece_tokenizer
    add(str(folder / f"tokenizer{suffix}"))
    bundle.add_tflite_model(str(folder / "model.tflite"), builder.TfLiteModelType.PREFILL_DECODE)
    with open(path, "wb") as file:
        bundle.build(file)


def _find(path: Path, content: bytes) -> int:
    """Where in a bundle the model stands."""
    return path.read_bytes().index(content)


def _verify(generator: Generator, tokenizer: Tokenizer, path: Path, texts: list[str], *, exact: bool) -> float:
    """Ask the engine, and compare its texts with Python's: the share of equal ones."""
    rows = [_ids(generator, tokenizer, text) for text in texts]
    greedy = _greedy(generator)
    expected = [_new_tokens(greedy, row) for row in rows]
    ends = generator.special.ends
    without_end = [new[:-1] if new and new[-1] in ends else new for new in expected]
    answers = ask(path, texts, without_end, count=COUNT)
    start = list(tokenizer.frame[0])
    for text, row, answer in zip(texts, rows, answers, strict=True):
        if start + answer["ids"] != row:
            raise ExportMismatchError(
                f"The engine of LiteRT-LM reads {text!r} as the ids {start + answer['ids']}, the tokenizer as {row}."
            )
    equal = [answer["is_equal"] for answer in answers]
    for text, row, new, answer, same in zip(texts, rows, without_end, answers, equal, strict=True):
        if same or not exact:
            continue
        margin = margin_at(generator, [*row, *new[: answer["agreed"]]])
        if margin > TIE:
            raise ExportMismatchError(
                f"The engine of LiteRT-LM goes on after {text!r} with {answer['text']!r}, Python with "
                f"{answer['wanted']!r}; {answer['agreed']} tokens are equal, and the next is more probable than any "
                f"other by {margin:.4f} in log-probability."
            )
    return float(np.mean(equal))


def _check_template(tokenizer: Tokenizer, path: Path, template: str) -> None:
    """Raise ExportMismatchError unless the engine's first message of a conversation is that of Jinja itself."""
    message = "Hello, who are you?"
    named = getattr(tokenizer, "named_tokens", {})
    conversation = [{"role": "user", "content": message}]
    expected = chat.render(template, conversation, "litertlm", add_generation_prompt=True, **named)
    try:
        rendered = render(path, message)
    except RuntimeError as error:
        raise ExportMismatchError(
            f"The engine of LiteRT-LM cannot apply the chat template. It knows Jinja without Python's methods: give "
            f"litertlm(..., chat_template=...) another one, or None. {error}"
        ) from error
    if rendered != expected:
        raise ExportMismatchError(
            f"By the chat template the engine of LiteRT-LM makes {rendered!r} of a message, Jinja {expected!r}. Give "
            "litertlm(..., chat_template=...) another one, or None."
        )


def _samples(generator: Generator, tokenizer: Tokenizer, given: Sequence[str] | None) -> list[str]:
    """The texts to try: those given, or made-up ones, short ones and as long as prompts may be."""
    if given is not None:
        texts = [] if isinstance(given, str | bytes) else list(given)
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError(f"samples of litertlm are a list of texts, none of them empty, got {given!r}.")
        return texts
    longest = generator.max_length - 1
    signature = generate_signature(generator)
    texts = []
    for length in sorted({1, min(2, longest), min(7, longest), min(65, longest), longest}):
        rows, *_ = sample_inputs(generator, signature, length, 2)
        found = sample_texts(tokenizer, rows, longest)
        texts += [] if found is None else [text.decode(errors="ignore") for text in found.numpy()[:1]]
    texts = [text for text in dict.fromkeys(texts) if text]
    if not texts:
        raise ValueError(
            "The tokenizer makes no text of random ids to try the bundle on: give litertlm(samples=[...])."
        )
    return texts


def _ids(generator: Generator, tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a prompt."""
    import tensorflow as tf

    ids, lengths = tokenized(generator, tokenizer, tf.constant([text]), generator.padding_id)
    return ids.numpy()[0, : int(lengths[0])].tolist()


def _new_tokens(generator: Generator, row: list[int]) -> list[int]:
    """The tokens that Python generates behind a prompt."""
    answer = generator([row], max_length=min(len(row) + COUNT, generator.max_length))
    return answer["tokens"][0, 0, len(row) : answer["lengths"][0, 0]].tolist()


def _greedy(generator: Generator) -> Generator:
    """The generator that takes the most probable token each time."""
    if isinstance(generator.strategy, Greedy):
        return generator
    _, (kind, settings) = generator.__reduce__()
    return kind(**{**settings, "strategy": Greedy()})
