"""What a program has to know of an export to use it, as JSON in the export; `keras_transformer_runtime` reads it."""

import json

import keras

from keras_transformer.decoding import Generator
from keras_transformer.text import Tokenizer
from keras_transformer.version import __version__

NAME = "keras_transformer.json"
FORMAT = 1


def metadata_files(
    target: Generator | keras.Model, source_tokenizer=None, target_tokenizer=None, **facts
) -> dict[str, bytes]:
    """The files that describe an export, by name: a JSON file, and what it takes to tokenize.

    The JSON file holds the version of this package, the special ids, vocabulary sizes and maximum lengths, the
    strategy, and `facts`. A tokenizer that can work outside TensorFlow tells how: `Tokenizer.runtime_files`.
    """
    description = {"format": FORMAT, "keras_transformer": __version__, **facts}
    files = {}
    if isinstance(target, Generator):
        graph = target.graph
        description |= {
            "strategy": type(target.strategy).__name__,
            "num_return": target.strategy.num_return,
            "streams": target.strategy.returns_final_tokens,
            "takes_seed": bool(target.strategy.is_random),
            "max_length": target.max_length,
            "vocabulary_size": graph.vocabulary_size,
            "padding": 0,
            "start_token": _integer(target.start_token),
            "end_token": _integer(target.end_token),
            "sources": [name for slot, name in enumerate(graph.input_names) if slot != graph.target],
            "target": graph.input_names[graph.target],
        }
    for side, tokenizer in (("source", source_tokenizer), ("target", target_tokenizer)):
        described = tokenizer.runtime_files() if isinstance(tokenizer, Tokenizer) else None
        if described is not None:
            settings, parts = described
            names = {part: f"{side}.{part}" for part in parts}
            description[f"{side}_tokenizer"] = {**settings, "files": names}
            files |= {names[part]: content for part, content in parts.items()}
    return {NAME: json.dumps(description, ensure_ascii=False, indent=1).encode(), **files}


def _integer(token):
    return None if token is None else int(token)
