"""From lines to the inputs of an export, and from its outputs to lines: what `keras-transformer run` does with each."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from keras_transformer_runtime.runner import Runner
from keras_transformer_runtime.seeds import fold_seed

FORMS = ("text", "ids", "json")
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
INCOMPLETE = "\ufffd"  # what bytes read as that are no character, or not yet
LONGEST_MESSAGE = 500


class Answer(NamedTuple):
    """What became of a line."""

    record: dict | None  # the parts of the answer, or None
    error: Exception | None = None

    @property
    def message(self) -> str:
        """The error in one line."""
        return one_line(self.error)


def form_of(runner: Runner) -> str:
    """What a line is unless somebody says otherwise: a text, ids, or the inputs as JSON."""
    if runner.takes_texts:
        return "text"
    (first, *others) = runner.inputs
    is_ids = first.dtype is None or ("int" in first.dtype and len(first.shape) == 2)
    return "ids" if is_ids and not others else "json"


def parse(line: bytes | str, form: str, first_input: str) -> str | dict:
    """A line as a text, or as what the inputs get, by name.

    Raises:
        ValueError: If it is empty, no UTF-8, or not of the form. A text that is given as a `str` may be empty.
    """
    try:
        text = line.decode() if isinstance(line, bytes) else line.encode() and line
    except UnicodeError as error:
        raise ValueError(f"it is no UTF-8: {error}") from error
    if form == "text" and isinstance(line, str):
        return line
    if not text or (form != "text" and not text.strip()):
        raise ValueError("it is empty")
    if form == "text":
        return text
    if form == "ids":
        wrong = [word for word in text.split() if not re.fullmatch(r"[+-]?[0-9]{1,20}", word)]
        if wrong:
            raise ValueError(f"ids are integers with spaces between them, got {wrong[0][:50]!r}")
        return {first_input: [int(word) for word in text.split()]}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if isinstance(value, str):
        parse(value, "text", first_input)  # half a surrogate pair is no text
        return value
    if not isinstance(value, list | dict):
        raise ValueError(f"it must be a text, a list, or an object of inputs by name, got {text[:50]}")
    return value if isinstance(value, dict) else {first_input: value}


class Answerer:
    """Answers lines, batch by batch.

    What a batch is refused for is looked for in its halves, so that an error is that of a line. What goes into a plain
    model is never padded to the length of another line, since its outputs might show it; nor is what has no padding.

    Args:
        runner: Of the export.
        form: What a line is, "text", "ids" or "json".
        seed: Of the first batch; each other one has the next. None: the export's own.
    """

    def __init__(self, runner: Runner, form: str, seed: int | None = None):
        self.runner = runner
        self.form = form
        draws = runner.is_generator and runner.metadata["takes_seed"]
        self._seed = fold_seed(runner.metadata["seed"] if seed is None else seed) if draws else None
        first = runner.inputs[0].shape
        no_padding = not runner.has_prompts and any(x.padding_id is None for x in runner.inputs)
        self._by_shape = not runner.is_generator or no_padding
        self.fixed_rows = first[0] if first else None  # the only number of rows that it takes

    @property
    def batch_size(self) -> int:
        """As many lines as suit the export."""
        return self.fixed_rows or self.runner.metadata.get("batch_size") or 32

    def __call__(self, lines: list[bytes | str], batch: int) -> list[Answer]:
        """Answers to the lines of the batch of that number."""
        answers: list[Answer | None] = [None] * len(lines)
        groups: dict[tuple, list] = {}
        for place, line in enumerate(lines):
            try:
                value = self._prepared(parse(line, self.form, self.runner.input_names[0]))
            except ValueError as error:
                answers[place] = Answer(None, error)
            else:
                groups.setdefault(self._group_of(value), []).append((place, value))
        for members in groups.values():
            places, values = zip(*members, strict=True)
            for place, answer in zip(places, self._answer(list(values), batch), strict=True):
                answers[place] = answer
        return answers

    def _prepared(self, value: str | dict) -> str | dict:
        """A text as ids where these are padded, so that only those of one length are answered together."""
        runner = self.runner
        if isinstance(value, str) and self._by_shape and runner.source_tokenizer is not None:
            return {runner.input_names[0]: runner.tokenize([value])[0]}
        return value

    def _group_of(self, value: str | dict) -> tuple:
        if isinstance(value, str):
            return ("text",)
        names = tuple(sorted(value))
        return (*names, *(_shape(value[name]) for name in names)) if self._by_shape else names

    def _answer(self, values: list, batch: int) -> list[Answer]:
        try:
            return [Answer(record) for record in self._records(values, batch)]
        except ImportError:  # of no line
            raise
        except Exception as error:  # of this package, of TensorFlow, or of whatever runs the export
            if len(values) == 1:
                return [Answer(None, error)]
            half = len(values) // 2
            return [*self._answer(values[:half], batch), *self._answer(values[half:], batch)]

    def _records(self, values: list, batch: int) -> list[dict]:
        size = self.fixed_rows or len(values)
        records = []
        for start in range(0, len(values), size):
            part = values[start : start + size]
            outputs = self.call([*part, *part[:1] * (size - len(part))], batch)
            records += [self._record(outputs, row, size) for row in range(len(part))]
        return records

    def call(self, values: list, batch: int = 0) -> dict:
        """The runner's answer to values of one group."""
        seed = None if self._seed is None else self._seed + batch
        texts = isinstance(values[0], str)
        inputs = values if texts else {name: [value[name] for value in values] for name in values[0]}
        return self.runner(inputs, seed=seed)

    def _record(self, outputs: dict, row: int, rows: int) -> dict:
        if not self.runner.is_generator:
            for name, x in outputs.items():
                if x.shape[:1] != (rows,):
                    raise ValueError(f"The output '{name}' has the shape {x.shape} for {rows} rows, not one for each.")
            return {"outputs": {name: as_json(x[row]) for name, x in outputs.items()}}
        lengths = outputs["lengths"][row].tolist()
        sequences = zip(outputs["tokens"][row].tolist(), lengths, strict=True)
        texts = {"texts": list(outputs["texts"][row])} if "texts" in outputs else {}
        tokens = [tokens[:length] for tokens, length in sequences]
        return {**texts, "tokens": tokens, "lengths": lengths, "scores": as_json(outputs["scores"][row])}

    # Streams

    def check_streams(self) -> None:
        """Raise ValueError unless the answer to a line can be written as it comes."""
        runner = self.runner
        if not runner.is_generator or not runner.can_stream:
            raise ValueError(
                "The export cannot stream: export a Greedy or Sampling generator with layout='step' of "
                "kt.export.litert, streaming=True of kt.export.saved_model, or kt.export.onnx."
            )
        if runner.metadata["num_return"] != 1:
            raise ValueError(f"The export gives {runner.metadata['num_return']} sequences a line, and one is streamed.")
        if self._has_texts and runner.target_tokenizer is None:
            raise ValueError(
                "The export makes texts in its graph alone, when all ids are there, and cannot stream them."
            )

    @property
    def _has_texts(self) -> bool:
        return self.runner.gives_texts

    def stream(self, line: bytes | str, batch: int) -> Iterator[str]:
        """The parts of the answer to a line, as `plain` writes it whole."""
        runner, seed = self.runner, None if self._seed is None else self._seed + batch
        value = parse(line, self.form, runner.input_names[0])
        if isinstance(value, str):
            value = {runner.input_names[0]: runner.tokenize([value])[0]}
        start = [] if runner.metadata["start_token"] is None else [runner.metadata["start_token"]]
        tokens = (list(value.get(runner.input_names[0], ())) if runner.has_prompts else []) or start
        steps = runner.stream({name: [x] for name, x in value.items()}, seed=seed)
        written = ""
        for is_last, ids in _with_last(tokens, steps):
            text = runner.text_of(ids) if self._has_texts else " ".join(map(str, ids))
            text = text if is_last else text.rstrip(INCOMPLETE)
            if text.startswith(written):
                yield text[len(written) :]
                written = text


def _with_last(tokens: list[int], steps: Iterator[np.ndarray]) -> Iterator[tuple[bool, list[int]]]:
    """The ids so far, before the first step and after each, and at last once more."""
    yield False, tokens
    for (token,) in steps:
        tokens = [*tokens, int(token)]
        yield False, tokens
    yield True, tokens


def plain(record: dict) -> str:
    """The one thing of an answer that a person wants: the best text or ids, or the output of a plain model."""
    if "texts" in record:
        return record["texts"][0]
    if "tokens" in record:
        return " ".join(map(str, record["tokens"][0]))
    outputs = record["outputs"]
    (value,) = outputs.values() if len(outputs) == 1 else (outputs,)
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(x, list) for x in value)):
        return json.dumps(value, ensure_ascii=False)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def escape(text: str) -> str:
    """A text in one line: line breaks and backslashes as \\n, \\r and \\\\."""
    return re.sub(r"[\\\n\r]", lambda found: ESCAPES[found[0]], text)


def as_json(x: np.ndarray):
    """An array as lists, its numbers as short as they may be; what JSON has no number for is "NaN" or "Infinity"."""
    if x.dtype.kind in "fV":  # V: bfloat16
        x = x.astype(np.float32) if x.dtype.kind == "V" else x
        items = [_number(number) for number in x.ravel()]
    elif x.dtype.kind in "OSU":
        items = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in x.ravel()]
    else:
        return x.tolist()
    leaves = np.empty(len(items), object)
    leaves[:] = items
    return leaves.reshape(x.shape).tolist()


def _number(number: np.floating) -> float | str:
    if np.isnan(number):
        return "NaN"
    if np.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return float(str(number))  # of float32 the digits that tell it from others, not those of float64


def one_line(error: Exception) -> str:
    """An error's message without line breaks; of a check in a TensorFlow graph what the check says."""
    message = str(error) or type(error).__name__
    found = re.search(r"assertion failed: \[(.*?)\]", message, flags=re.DOTALL)
    message = " ".join((found[1].replace("\\'", "'") if found else message).split())
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]} ..."


def _shape(value) -> tuple:
    """The shape of nested lists; of irregular ones something of their own, which the runner then refuses."""
    try:
        return np.shape(value)
    except ValueError:
        return (id(value),)
