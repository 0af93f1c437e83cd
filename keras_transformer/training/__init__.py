"""What training a sequence model needs beside `model.fit`: loss, schedule, metrics, checkpoints, callbacks, memory."""

from keras_transformer.training.averaging import average_checkpoints
from keras_transformer.training.callbacks import Bleu, TokenRate
from keras_transformer.training.checkpoints import Checkpoints
from keras_transformer.training.losses import SequenceCrossentropy
from keras_transformer.training.metrics import PaddingRatio, Perplexity, TokenAccuracy, TokenCount
from keras_transformer.training.rematerialization import Remat
from keras_transformer.training.schedules import InverseSquareRootSchedule

__all__ = [
    "Bleu",
    "Checkpoints",
    "InverseSquareRootSchedule",
    "PaddingRatio",
    "Perplexity",
    "Remat",
    "SequenceCrossentropy",
    "TokenAccuracy",
    "TokenCount",
    "TokenRate",
    "average_checkpoints",
]
