"""What the LiteRT-LM runtime calls: a prompt read in pieces, and one token after another, with caches as arguments.

`prefill_N` reads N tokens at the positions `input_pos` (N,) and gives the caches; `decode` reads one token and gives
the `logits` (1, 1, V) behind it, too. `kv_cache_k_<i>` and `kv_cache_v_<i>`, (1, G, C, K), are the keys and values of
the i-th attention layer; the runtime hands in and out the same piece of memory. `mask` is not used, as positions tell
what may be seen: its shape tells the runtime how long a sequence may be. `select`, which the runtime does not call,
chooses as the strategy does: for a program that runs the loop by itself (`keras_transformer_runtime`).
"""

import math
import re
from collections.abc import Sequence

import keras
from keras import ops

from keras_transformer.context import Decoding, active
from keras_transformer.decoding import Generator
from keras_transformer.decoding.processors import ForbiddenTokens
from keras_transformer.decoding.sampling import Sampling
from keras_transformer.decoding.strategies import Greedy
from keras_transformer.export.signatures import Input, Signature


def check_bundle(generator: Generator) -> None:
    """Raise ValueError if a LiteRT-LM bundle cannot hold what the generator does."""
    otherwise = "kt.export.litert takes it as it is"
    if not isinstance(generator, Generator):
        raise ValueError(
            f"litertlm takes a Generator, got {type(generator).__name__}: kt.Generator(model, max_length=...)."
        )
    names = generator.graph.input_names
    if len(names) > 1:
        raise ValueError(
            f"A LiteRT-LM bundle holds a decoder-only model, whose one input is the tokens; this one takes {names}, "
            f"and the runtime has no place for what an encoder makes of them. {otherwise}: layout='step' streams."
        )
    strategy = generator.strategy
    if type(strategy) not in (Greedy, Sampling) or strategy.num_return != 1 or getattr(strategy, "min_p", None):
        raise ValueError(
            "The LiteRT-LM runtime takes the most probable token, or draws one by temperature, top_k and top_p, of one "
            f"sequence; the generator has {strategy}. Give it Greedy() or Sampling(...), or: {otherwise}."
        )
    others = [x for x in generator.decoder.processors if not _forbids_always(x)]
    if others:
        raise ValueError(
            f"The LiteRT-LM runtime chooses tokens by their logits alone, and does not know of {others}. Leave them "
            f"away, and set what the runtime has of its own, a penalty of repetition say, there; or: {otherwise}."
        )
    if not generator.decoder.cache:
        raise ValueError(f"A LiteRT-LM bundle keeps a cache; the generator was made with cache=False. {otherwise}.")


def is_placeholder(size: int) -> bool:
    """Whether the runtime takes a length of prompts or caches for a placeholder, to put a smaller number in its place:
    a prime above 10 (`magic_number_configs_helper.cc` of LiteRT-LM)."""
    return size > 10 and all(size % factor for factor in range(2, math.isqrt(size) + 1))


def _forbids_always(processor) -> bool:
    return type(processor) is ForbiddenTokens and not processor.start and processor.stop is None


def bundle_signatures(generator: Generator, prefill_lengths: Sequence[int]) -> dict[str, Signature]:
    """The signatures of a bundle.

    Raises:
        ValueError: If the model keeps something else of earlier tokens than keys and values in float32.
    """
    decoder, length = generator.decoder, generator.max_length
    begun = decoder.begin({}, ops.ones((1, 1), "int32"), ops.ones((1,), "int32"))
    caches = dict(begun.state)
    wrong = [name for name in (*caches, *begun.memory) if not re.search(r"/(key|value)$", name) or name in begun.memory]
    if wrong:
        raise ValueError(
            "The LiteRT-LM runtime keeps keys and values of earlier tokens, and nothing else; the model "
            f"'{generator.model.name}' keeps {wrong[:4]}. kt.export.litert takes it as it is."
        )
    dtypes = {keras.backend.standardize_dtype(x.dtype) for x in caches.values()}
    if dtypes - {"float32"}:
        raise ValueError(
            f"The LiteRT-LM runtime keeps caches in float32, the model '{generator.model.name}' in {sorted(dtypes)}: "
            "load it under float32 and give quantize='float16' or 'int8', which make the weights small."
        )
    layers = list(dict.fromkeys(name.rpartition("/")[0] for name in caches))
    numbers = {layer: number for number, layer in enumerate(layers)}
    names = {f"kv_cache_{name.rpartition('/')[2][0]}_{numbers[name.rpartition('/')[0]]}": name for name in caches}
    held = [Input(name, tuple(caches[state].shape), "float32") for name, state in names.items()]

    def inputs(count):
        tokens, positions = Input("tokens", (1, count), "int32"), Input("input_pos", (count,), "int32")
        return [tokens, positions, *held, Input("mask", (1, 1, count, length + is_placeholder(length)), "bool")]

    def packed(state):
        return {name: state[key] for name, key in names.items()}

    def read(tokens, positions, *values):
        state = dict(zip(names.values(), values[:-1], strict=True))
        # What fills a piece up has position 0, whatever position comes first.
        places = positions[0] + ops.arange(positions.shape[0], dtype="int32")
        count = ops.sum(ops.cast(positions == places, "int32"))
        lengths = ops.reshape(positions[0] + count, (1,))
        context = Decoding(state, {}, ops.expand_dims(places, 0), length, lengths=lengths)
        with active(context):
            decoder.graph.decode(tokens, {})
        return packed(context.state)

    def decode(tokens, positions, *values):
        state = dict(zip(names.values(), values[:-1], strict=True))
        stepped = decoder.step(tokens, ops.expand_dims(positions, 0), state, {})
        # Logits they are, too, and those that our own loop sums up to a score.
        scores = decoder.log_probabilities(stepped.logits[:, 0])
        history = ops.zeros((1, length), "int32")  # what is forbidden is so whatever came before
        scores = decoder.allowed(scores, history, positions + 1)
        return {**packed(stepped.state), "logits": ops.expand_dims(scores, 1)}

    def select(logits, positions, *seed):
        strategy = generator.strategy.with_seed(seed[0]) if seed else generator.strategy
        log_probabilities = logits[:, 0]
        chosen = strategy.select(log_probabilities, positions)
        gained = ops.take_along_axis(log_probabilities, ops.expand_dims(chosen, 1), axis=1)[:, 0]
        return {"token": chosen, "score": gained}

    signatures = {f"prefill_{count}": Signature(inputs(count), read) for count in prefill_lengths}
    signatures["decode"] = Signature(inputs(1), decode)
    seed = [Input("seed", (), "int32")] if generator.strategy.is_random else []
    scores = [Input("logits", (1, 1, decoder.vocabulary_size), "float32"), Input("positions", (1,), "int32")]
    signatures["select"] = Signature([*scores, *seed], select)
    return signatures
