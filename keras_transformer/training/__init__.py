"""What training a sequence model needs beside `model.fit`: a loss, a schedule, metrics, and layouts of variables."""

from keras_transformer.training.distribution import layout_map
from keras_transformer.training.losses import SequenceCrossentropy
from keras_transformer.training.metrics import Perplexity, TokenAccuracy
from keras_transformer.training.schedules import InverseSquareRootSchedule

__all__ = ["InverseSquareRootSchedule", "Perplexity", "SequenceCrossentropy", "TokenAccuracy", "layout_map"]
