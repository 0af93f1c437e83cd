"""A model made ready for decoding: read, verified, and compiled as pure functions of tensors."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from types import EllipsisType
from typing import Any

import keras

from keras_transformer.decoding.buckets import CompileLog, SourcePadding
from keras_transformer.decoding.decoder import Decoder
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.inputs import InputReader
from keras_transformer.decoding.probabilities import check_scores
from keras_transformer.decoding.scoring import score_sequences
from keras_transformer.decoding.settings import is_integer
from keras_transformer.decoding.special import read_special_tokens
from keras_transformer.decoding.strategies import Strategy, generate
from keras_transformer.decoding.structure import Structure
from keras_transformer.decoding.texts import Texts
from keras_transformer.decoding.verification import verify_cached, verify_causal

logger = logging.getLogger("keras_transformer")


class Loop:
    """What a `Generator` does with its settings, before and beneath what a user calls.

    Attributes:
        graph: The model as a graph, split.
        decoder: Its step.
        special: The tokens with a meaning of their own.
        source_padding: Which sources may be padded.
    """

    model: keras.Model
    max_length: int
    start_token: int | None
    end_token: int | Sequence[int] | None
    strategy: Strategy
    processors: Sequence[Callable]
    target_input: str | None
    from_logits: bool
    cache: bool
    source_tokenizer: Any
    target_tokenizer: Any
    _padding_id: int | EllipsisType | None
    _settings: dict

    # The model as it is now

    def _prepare(self) -> None:
        """Read the model, and verify that it can be decoded."""
        for name in ("_compiled", "_compiled_begin", "_compiled_advance", "_compiled_score", "_log"):
            self.__dict__.pop(name, None)
        self.graph = Graph(self.model, self.target_input)
        if self.graph.takes_values:
            raise ValueError(
                f"Generator takes a model of ids (batch, length), but the input "
                f"'{self.graph.input_names[self.graph.target]}' takes values "
                f"{self.graph.shapes[self.graph.target]}: kt.Rollout continues those."
            )
        special = read_special_tokens(self.graph, self.start_token, self.end_token, self._padding_id)
        self._settings.update(
            padding_id=special.padding,
            start_token=special.start,
            end_token=special.ends[0] if is_integer(self.end_token) else special.ends or None,
        )
        self.decoder = Decoder(
            self.graph,
            self.max_length,
            end_token=special.ends,
            padding_id=special.padding,
            from_logits=self.from_logits,
            cache=self.cache,
            processors=self.processors,
        )
        self.special = special
        self._texts = Texts(self.graph, special, self.source_tokenizer, self.target_tokenizer)
        self.source_padding = SourcePadding(self.graph)
        self._reader = InputReader(self.graph, special, self._texts, self.source_padding.may_pad)
        self.strategy.check(self.decoder)
        for processor in self.processors:
            getattr(processor, "check", lambda decoder: None)(self.decoder)
        try:
            logits = (verify_cached if self.cache else verify_causal)(self.graph, self.max_length)
        except ValueError as error:
            names = self.graph.input_names
            if self.target_input is not None or len(names) == 1:
                raise
            raise ValueError(
                f"{error}\nThe input '{names[self.graph.target]}' was taken for that of the tokens generated so far. "
                f"If it is another one, name it: target_input=..., one of {names}."
            ) from error
        check_scores(self.model.name, logits, self.from_logits)
        self._structure = self._read_structure()

    def _read_structure(self) -> Structure:
        models = [self.model, *self.strategy.models]
        return Structure(models, [self.strategy, *self.processors])

    def _follow(self) -> None:
        """Prepare anew if more than weights has changed in the model."""
        if self._structure.is_current():
            return
        structure = self._read_structure()
        if structure == self._structure:
            self._structure = structure
        else:
            logger.info("The model '%s' has changed: verifying and compiling anew.", self.model.name)
            self._prepare()

    @cached_property
    def _log(self) -> dict[str, CompileLog]:
        return {name: CompileLog(name) for name in ("generation", "streaming", "scoring")}

    # Pure functions of tensors: compiled here, exported by `kt.export`

    def generate(self, sources: dict, prompts, lengths, seed=None, limit: int | None = None) -> dict:
        """Generate from tensors: the whole loop, as `__call__` compiles it and `kt.export` writes it.

        Args:
            sources: A tensor for each source, by its place among the model's inputs.
            prompts: (B, P), int32, padded on the right; P at most `max_length`.
            lengths: (B,), int32. Tokens in each prompt, at least one.
            seed: int32 scalar. Of the random numbers, in place of the strategy's own.
            limit: int32 scalar. Longest sequence, in place of `max_length`; the shapes stay.

        Returns:
            What `__call__` returns, as tensors.
        """
        return generate(*self._with(seed, limit), sources, prompts, lengths)

    def _with(self, seed, limit) -> tuple[Strategy, Decoder]:
        """Strategy and decoder with the seed and the limit of a call."""
        strategy = self.strategy if seed is None else self.strategy.with_seed(seed)
        return strategy, self.decoder if limit is None else self.decoder.limited(limit)

    def _compile(self, function: Callable) -> Callable:
        raise NotImplementedError

    @cached_property
    def _compiled(self) -> Callable:
        return self._compile(lambda *request: self.generate(*request))

    @cached_property
    def _compiled_begin(self) -> Callable:
        def begin(sources, prompts, lengths, *numbers):
            strategy, decoder = self._with(*numbers)
            return strategy.begin(decoder, strategy.encode(decoder, sources), prompts, lengths)

        return self._compile(begin)

    @cached_property
    def _compiled_advance(self) -> Callable:
        def advance(carry, memory, *numbers):
            strategy, decoder = self._with(*numbers)
            return strategy.advance(decoder, carry, memory)

        return self._compile(advance)

    @cached_property
    def _compiled_score(self) -> Callable:
        return self._compile(lambda *request: score_sequences(self.strategy, self.decoder, *request))
