"""Generation from any functional model."""

from keras_transformer.decoding.beam_search import BeamSearch
from keras_transformer.decoding.contrastive import ContrastiveSearch
from keras_transformer.decoding.generator import Generator
from keras_transformer.decoding.processors import (
    ForbiddenTokens,
    ForcedTokens,
    MinimumLength,
    NoRepeatNGram,
    RepetitionPenalty,
)
from keras_transformer.decoding.rollout import Rollout
from keras_transformer.decoding.sampling import Sampling
from keras_transformer.decoding.speculative import Speculative
from keras_transformer.decoding.strategies import Greedy, Strategy

__all__ = [
    "BeamSearch",
    "ContrastiveSearch",
    "ForbiddenTokens",
    "ForcedTokens",
    "Generator",
    "Greedy",
    "MinimumLength",
    "NoRepeatNGram",
    "RepetitionPenalty",
    "Rollout",
    "Sampling",
    "Speculative",
    "Strategy",
]
