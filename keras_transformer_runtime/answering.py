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

    Random numbers depend on a seed and on the place of a row. So that those of a line depend on its number alone, and
    on no other line, each stands where it stands in its batch, whatever becomes of the rest, and streamed, too.

    Args:
        runner: Of the export.
        form: What a line is, "text", "ids" or "json".
        seed: Of the first batch; each other one has the next. None: the export's own.

    Attributes:
        seed: The same as an integer of 32 bits, a fresh one if the export has none; None if it draws nothing.
        fixed_rows: The only number of rows that the export takes; None if there is no such.
        rows_of_file: As many as it computes at a time, whatever it is given; None if there is no such.
    """

    def __init__(self, runner: Runner, form: str, seed: int | None = None):
        self.runner = runner
        self.form = form
        draws = runner.is_generator and runner.metadata["takes_seed"]
        self.seed = fold_seed(runner.metadata["seed"] if seed is None else seed) if draws else None
        first = runner.inputs[0].shape
        no_padding = not runner.has_prompts and any(x.padding_id is None for x in runner.inputs)
        self._by_shape = not runner.is_generator or no_padding
        self.fixed_rows = first[0] if first else None
        self.rows_of_file = self.fixed_rows or runner.metadata.get("batch_size")

    @property
    def batch_size(self) -> int:
        """As many lines as suit the export. Texts that a plain model itself makes ids of, it pads to the longest."""
        in_graph = self.form != "ids" and self.runner.takes_texts and self.runner.source_tokenizer is None
        alone = in_graph and not self.runner.is_generator
        return self.rows_of_file or (1 if alone else 32)

    def __call__(self, lines: list[bytes | str], batch: int) -> list[Answer]:
        """Answers to the lines of the batch of that number."""
        answers: list[Answer | None] = [None] * len(lines)
        members = []
        for place, line in enumerate(lines):
            try:
                members.append((place, self.value_of(line)))
            except ValueError as error:
                answers[place] = Answer(None, error)
        for group in self._groups(members):
            for (place, _), answer in zip(group, self._answer(group, batch), strict=True):
                answers[place] = answer
        return answers

    def value_of(self, line: bytes | str) -> str | dict:
        """A line as a text, or as what the inputs get, by name. A text becomes ids where rows must not be padded, so
        that only those of one length are answered together.

        Raises:
            ValueError: If it is empty, no UTF-8, or not of the form.
        """
        runner, name = self.runner, self.runner.input_names[0]
        value = parse(line, self.form, name)
        if runner.takes_texts and isinstance(value, dict) and list(value) == [name] and isinstance(value[name], str):
            value = value[name]
        if isinstance(value, str) and self._by_shape and runner.source_tokenizer is not None:
            return {name: runner.tokenize([value])[0]}
        return value

    def parts(self, values: list) -> list[list]:
        """The values of a batch as the calls that answer them."""
        return [[value for _, value in group] for group in self._groups(list(enumerate(values)))]

    def _groups(self, members: list[tuple]) -> list[list[tuple]]:
        """Values, each with its place, in the groups that may be answered by one call."""
        groups: dict[tuple, list] = {}
        for place, value in members:
            groups.setdefault(self._group_of(value), []).append((place, value))
        most = self.fixed_rows or max(1, len(members))
        return [group[start : start + most] for group in groups.values() for start in range(0, len(group), most)]

    def _group_of(self, value: str | dict) -> tuple:
        if isinstance(value, str):
            return ("text",)
        names = tuple(sorted(value))
        return (*names, *(_shape(value[name]) for name in names)) if self._by_shape else names

    def _answer(self, group: list[tuple], batch: int) -> list[Answer]:
        places, values = zip(*group, strict=True)
        rows = range(len(values))
        if self.seed is not None:  # each in its place
            rows, filled = places, [values[0]] * (max(places) + 1)
            for place, value in group:
                filled[place] = value
            values = filled
        try:
            outputs = self.call(list(values), batch)
            return [Answer(self._record(outputs, row, max(len(values), self.fixed_rows or 0))) for row in rows]
        except ImportError:  # of no line
            raise
        except Exception as error:  # of this package, of TensorFlow, or of whatever runs the export
            if len(group) == 1:
                return [Answer(None, error)]
            half = len(group) // 2
            return [*self._answer(group[:half], batch), *self._answer(group[half:], batch)]

    def call(self, values: list, batch: int = 0) -> dict:
        """The runner's answer to values of one group; further rows behind theirs, if it takes no fewer."""
        seed = None if self.seed is None else self.seed + batch
        rows = [*values, *values[:1] * ((self.fixed_rows or 0) - len(values))]
        inputs = rows if isinstance(rows[0], str) else {name: [row[name] for row in rows] for name in rows[0]}
        return self.runner(inputs, seed=seed)

    def new_tokens(self, values: list, outputs: dict) -> int | None:
        """How many tokens a call has generated for its values, in all sequences; None of a plain model, and where only
        the graph knows how many there were before."""
        runner = self.runner
        if not runner.is_generator:
            return None
        try:
            before = sum(len(self._begins_with(value)) for value in values)
        except ValueError:
            return None
        return int(outputs["lengths"][: len(values)].sum()) - before * runner.metadata["num_return"]

    def _begins_with(self, value: str | dict) -> list[int]:
        """The ids that a sequence has before the first one is generated."""
        runner = self.runner
        start = [] if runner.metadata["start_token"] is None else [runner.metadata["start_token"]]
        if not runner.has_prompts:
            return start
        ids = runner.tokenize([value])[0] if isinstance(value, str) else value[runner.input_names[0]]
        return list(ids) or start

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
                "kt.export.litert, streaming=True of kt.export.saved_model, kt.export.litertlm or kt.export.onnx."
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

    def stream(self, line: bytes | str, batch: int, place: int = 0) -> Iterator[str]:
        """The parts of the answer to a line, as `plain` writes it whole.

        Args:
            line: The line.
            batch, place: The number of its batch, and its place there.
        """
        runner = self.runner
        value = self.value_of(line)
        if isinstance(value, str):
            value = {runner.input_names[0]: runner.tokenize([value])[0]}
        copies = 1 if self.seed is None else place + 1
        seed = None if self.seed is None else self.seed + batch
        steps = runner.stream({name: [x] * copies for name, x in value.items()}, seed=seed)
        written = ""
        for is_last, ids in self._growing(self._begins_with(value), steps):
            text = runner.text_of(ids) if self._has_texts else " ".join(map(str, ids))
            text = text if is_last else text.rstrip(INCOMPLETE)
            if text.startswith(written):
                yield text[len(written) :]
                written = text

    def _growing(self, ids: list[int], steps: Iterator[np.ndarray]) -> Iterator[tuple[bool, list[int]]]:
        """The ids of the last row, before the first step and after each, and at last once more."""
        yield False, ids
        ends, nothing = self.runner.metadata["end_tokens"], (-1, self.runner.metadata["padding_id"])
        for tokens in steps:
            if tokens[-1] in nothing and tokens[-1] not in ends:  # other rows go on
                break
            ids = [*ids, int(tokens[-1])]
            yield False, ids
            if ids[-1] in ends:
                break
        yield True, ids


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
