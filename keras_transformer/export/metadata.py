"""What a program has to know of an export to use it, as JSON in the export; `keras_transformer_runtime` reads it."""

import json

import keras

from keras_transformer.decoding import Generator
from keras_transformer.decoding.program import Program
from keras_transformer.export.names import input_names
from keras_transformer.export.padding import Padding
from keras_transformer.export.signatures import Signature, input_paddings
from keras_transformer.text import Tokenizer
from keras_transformer.version import __version__
from keras_transformer_runtime.description import FORMAT, NAME


def metadata_files(
    target: Generator | keras.Model,
    ids: Signature,
    source_tokenizer=None,
    target_tokenizer=None,
    padding: Padding | None = None,
    **facts,
) -> dict[str, bytes]:
    """The files that describe an export, by name: a JSON file, and what it takes to tokenize.

    The JSON file holds the version of this package, what the inputs of the signature `ids` take, of a generator the
    special ids, the vocabulary's size, the maximum length and the strategy, and `facts`. A tokenizer that can work
    outside TensorFlow tells how: `Tokenizer.runtime_files`.
    """
    is_generator = isinstance(target, Generator)
    description = {
        "format": FORMAT,
        "keras_transformer": __version__,
        "kind": "generator" if is_generator else "model",
        "inputs": _describe_inputs(target, ids, padding),
        **facts,
    }
    files = {}
    if padding is not None and not is_generator:
        description["outputs"] = [{"name": name, "shape": shape} for name, shape in padding.outputs.items()]
    if is_generator:
        graph, strategy, special = target.graph, target.strategy, target.special
        names = input_names(target.model)
        description |= {
            "strategy": type(strategy).__name__,
            "num_return": strategy.num_return,
            "streams": strategy.returns_final_tokens,
            "takes_seed": bool(strategy.is_random),
            "seed": strategy.seed if strategy.is_random else None,  # None: another one for each call
            "max_length": target.max_length,
            "vocabulary_size": graph.vocabulary_size,
            "padding_id": special.padding,
            "hides_padding": target.special.is_hidden,
            "start_token": special.start,
            "end_tokens": list(special.ends),
            "end_token": special.ends[0] if special.ends else None,  # for readers of format 1, which know of one
            "sources": [name for slot, name in enumerate(names) if slot != graph.target],
            "target": names[graph.target],
        }
    for side, tokenizer in (("source", source_tokenizer), ("target", target_tokenizer)):
        if described(tokenizer) is not None:
            settings, parts = described(tokenizer)
            names = {part: f"{side}.{part}" for part in parts}
            description[f"{side}_tokenizer"] = {**settings, "files": names}
            files |= {names[part]: content for part, content in parts.items()}
    return {NAME: json.dumps(description, ensure_ascii=False, indent=1).encode(), **files}


def described(tokenizer) -> tuple[dict, dict[str, bytes]] | None:
    """What the runtime needs of a tokenizer to do without the graph; None if it cannot, or there is no tokenizer."""
    return tokenizer.runtime_files() if isinstance(tokenizer, Tokenizer) else None


def _describe_inputs(target: Generator | keras.Model, ids: Signature, padding: Padding | None) -> list[dict]:
    """Of each input its name, shape and type; of ids, also how many there are and which of them is padding."""
    program = target.graph if isinstance(target, Generator) else Program(target)
    slots = {name: slot for slot, name in enumerate(input_names(program.model))}
    limits = program.vocabulary_limits()
    paddings = dict(zip((x.name for x in ids.inputs), input_paddings(target, ids), strict=True))
    found = []
    for name, _, dtype in ids.inputs:
        if name not in slots:
            continue  # a seed, or lengths
        slot = slots[name]
        is_target = isinstance(target, Generator) and slot == target.graph.target
        size = limits.get(slot, (None, target.graph.vocabulary_size if is_target else None))[1]
        is_ids = "int" in dtype or size is not None
        found.append(
            {
                "name": name,
                # A file with static shapes is given one batch of rows after another.
                "shape": [None if padding is not None else program.shapes[slot][0], *program.shapes[slot][1:]],
                "dtype": dtype,
                "vocabulary_size": size,
                "padding_id": paddings[name] if is_ids else None,
                "padded": padding is None or name in padding.ignored,
            }
        )
    return found
