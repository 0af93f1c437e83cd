"""What training a sequence model needs beside `model.fit`: batches, a loss, a schedule, and metrics."""

from keras_transformer.training.batches import TokenBatches
from keras_transformer.training.corpus import read_pairs, read_texts
from keras_transformer.training.losses import SequenceCrossentropy
from keras_transformer.training.metrics import Perplexity, TokenAccuracy
from keras_transformer.training.packing import PackedBatches
from keras_transformer.training.schedules import InverseSquareRootSchedule

__all__ = [
    "InverseSquareRootSchedule",
    "PackedBatches",
    "Perplexity",
    "SequenceCrossentropy",
    "TokenAccuracy",
    "TokenBatches",
    "read_pairs",
    "read_texts",
]
