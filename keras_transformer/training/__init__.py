"""What training a sequence model needs beside `model.fit`: batches, loss, schedule, metrics, checkpoints, callbacks."""

from keras_transformer.allocator import keep_freed_memory
from keras_transformer.training.averaging import average_checkpoints
from keras_transformer.training.batches import TokenBatches
from keras_transformer.training.bleu import Bleu
from keras_transformer.training.callbacks import TokenRate
from keras_transformer.training.checkpoints import Checkpoints
from keras_transformer.training.corpus import read_pairs, read_texts
from keras_transformer.training.distribution import layout_map
from keras_transformer.training.lora import enable_lora, merge_lora
from keras_transformer.training.losses import SequenceCrossentropy
from keras_transformer.training.masking import MaskedTokens
from keras_transformer.training.metrics import PaddingRatio, Perplexity, TokenAccuracy, TokenCount
from keras_transformer.training.packing import PackedBatches
from keras_transformer.training.rematerialization import Remat
from keras_transformer.training.schedules import InverseSquareRootSchedule
from keras_transformer.training.tied_crossentropy import TiedCrossentropy

__all__ = [
    "Bleu",
    "Checkpoints",
    "InverseSquareRootSchedule",
    "MaskedTokens",
    "PackedBatches",
    "PaddingRatio",
    "Perplexity",
    "Remat",
    "SequenceCrossentropy",
    "TiedCrossentropy",
    "TokenAccuracy",
    "TokenBatches",
    "TokenCount",
    "TokenRate",
    "average_checkpoints",
    "enable_lora",
    "keep_freed_memory",
    "layout_map",
    "merge_lora",
    "read_pairs",
    "read_texts",
]
