"""Token ids to vectors, and vectors back to logits with the same table."""

import keras
from keras import ops

from keras_transformer.context import decoding
from keras_transformer.layers.checks import (
    check_above_zero,
    check_dense,
    check_id,
    check_positive,
    check_sequence,
    describe,
)
from keras_transformer.layers.ids import check_ids, rows
from keras_transformer.layers.quantized import Adaptable, int8_product
from keras_transformer.layers.sequence import note_mask
from keras_transformer.ops.runtime import is_without_xla


@keras.saving.register_keras_serializable("keras_transformer")
class TokenEmbedding(Adaptable, keras.layers.Embedding):
    """A vector for each token id, and, in reverse, the logit of each token for a vector.

    forward: E[id] * sqrt(D) if `scale` else E[id]; reverse: x E^T + b (tied weights, "Using the Output Embedding to
    Improve Language Models", https://arxiv.org/abs/1608.05859; "Attention Is All You Need", section 3.4).
    This is where the padding mask starts: what is `padding_id` is not a token.

    Args:
        vocabulary_size: Number of ids V, padding included.
        dim: Width D.
        padding_id: The id that sequences are padded with. None: every id is a token, and no mask starts here; what
            pads a sequence then has to be known from elsewhere, from lengths, say, or from a `PaddingMask` in front.
        scale: Whether to multiply by sqrt(D), as the paper does, so that the embedding is not drowned by a
            positional encoding of unit size; or a number to multiply by.
        output_bias: Whether a learned vector b (V,) is added in reverse. It starts at 0.
        embeddings_initializer: Default: normal with standard deviation 1 / sqrt(D), which gives logits of unit size
            in reverse.
        kwargs: Further ones of `keras.layers.Embedding`: `embeddings_regularizer`, `embeddings_constraint`, `weights`,
            `lora_rank`, `lora_alpha`.

    Input shape: (B, T), int. Output shape: (B, T, D). With `reverse=True`: (B, T, D) to (B, T, V). Within compiled
        functions, where its value is not known, an id out of the vocabulary has a vector of NaN.

    Raises:
        ValueError: If a size is not positive, `padding_id` is no id of the vocabulary, an id is out of the vocabulary
            or a fraction (where its value is known), ids are floats that hold no integers as large as V, or the width
            in reverse is not D.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> embedding = kt.TokenEmbedding(11, 5)
    >>> x = embedding(np.array([[7, 3, 0]]))
    >>> tuple(x.shape), tuple(embedding(x, reverse=True).shape)
    ((1, 3, 5), (1, 3, 11))
    >>> np.array(embedding.compute_mask(np.array([[7, 3, 0]]))).tolist()
    [[True, True, False]]
    """

    adapted = "embeddings"

    def __init__(
        self,
        vocabulary_size: int,
        dim: int,
        *,
        scale: bool | float = False,
        output_bias: bool = False,
        embeddings_initializer=None,
        padding_id: int | None = 0,
        **kwargs,
    ):
        if "mask_zero" in kwargs:
            raise ValueError(
                "TokenEmbedding takes padding_id=0, its default, or padding_id=None in place of mask_zero."
            )
        weights = kwargs.pop("weights", None)
        super().__init__(input_dim=1, output_dim=1, **kwargs)  # sizes of Keras' own, whose checks would say so
        check_positive(self, vocabulary_size=vocabulary_size, dim=dim)
        if padding_id is not None:
            check_id(self, vocabulary_size, padding_id=padding_id)
        self.vocabulary_size = self.input_dim = int(vocabulary_size)
        self.dim = self.output_dim = int(dim)
        if not isinstance(scale, bool):
            check_above_zero(self, scale=scale)
        self.scale = scale
        self.output_bias = output_bias
        self.padding_id = None if padding_id is None else int(padding_id)
        if embeddings_initializer is None:
            embeddings_initializer = keras.initializers.RandomNormal(stddev=dim**-0.5)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.supports_masking = True
        if weights is not None:
            self.build()
            self._embeddings.assign(weights[0] if isinstance(weights, list | tuple) and len(weights) == 1 else weights)

    def build(self, inputs_shape=None):
        if self.built:  # by Keras, with the weights that it was given
            return
        self.bias = None
        if self.output_bias:  # before what LoRA adds, whenever that is
            self.bias = self.add_weight(name="output_bias", shape=(self.vocabulary_size,), initializer="zeros")
        super().build(inputs_shape)

    @property
    def variable_serialization_spec(self):
        """What Keras saves, by quantization, in order."""
        further = ["bias"] if self.output_bias else []
        return {mode: [*names, *further] for mode, names in super().variable_serialization_spec.items()}

    def add_weight(self, *args, **kwargs):
        # This layer casts no inputs, so a model around it would decide to what its scales are rounded (Keras 3.15.1).
        return super().add_weight(*args, **{"autocast": False, **kwargs})

    def __call__(self, inputs, *args, **kwargs):
        padding = 0 if self.padding_id is None else self.padding_id
        check_dense(self, [inputs], f"Pad it: `ids.to_tensor({padding})`.")
        if isinstance(inputs, list | tuple):
            raise ValueError(
                f"{describe(self)} takes an array of ids (batch, length), got a {type(inputs).__name__}. Make one of "
                f"it: `keras.utils.pad_sequences(ids, padding='post', value={padding})`."
            )
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs, reverse: bool = False):
        if reverse:
            check_sequence(self, "inputs to reverse", inputs.shape, self.dim)
            logits = self._project(ops.cast(inputs, self.compute_dtype))
            return logits if self.bias is None else logits + ops.cast(self.bias, logits.dtype)
        self._check_ids(inputs)
        if self.padding_id is not None:
            note_mask(self, inputs)
        embedded = rows(self.look_up, inputs, self.vocabulary_size)
        factor = self.dim**0.5 if self.scale is True else self.scale
        return embedded * ops.cast(factor, embedded.dtype) if factor else embedded

    def quantized_call(self, inputs, reverse: bool = False):
        return self.call(inputs, reverse)

    def look_up(self, ids):
        """The rows of the table that ids (B, T) name."""
        if self.quantization_mode is not None:
            return ops.cast(super().quantized_call(ids), self.compute_dtype)
        found = ops.take(self._embeddings, ids, axis=0)
        if self.lora_enabled:
            found = found + self._lora_scale * ops.matmul(
                ops.take(self.lora_embeddings_a, ids, axis=0), self.lora_embeddings_b
            )
        return ops.cast(found, self.compute_dtype)

    def _project(self, inputs):
        if self.quantization_mode == "int4":
            return self._product(inputs, self.look_up(ops.arange(self.vocabulary_size)))
        if self.quantization_mode == "int8":
            config, default = self.quantization_config, keras.quantizers.AbsMaxQuantizer(axis=-1)
            quantizer = default if config is None else config.activation_quantizer
            table, scales = ops.convert_to_tensor(self._embeddings), ops.convert_to_tensor(self.embeddings_scale)
            logits = int8_product(inputs, table, scales, quantizer, self.compute_dtype)
        else:
            logits = self._product(inputs, ops.convert_to_tensor(self._embeddings))
        if not self.lora_enabled:
            return logits
        change = ops.matmul(
            ops.matmul(inputs, ops.transpose(self.lora_embeddings_b)), ops.transpose(self.lora_embeddings_a)
        )
        return logits + ops.cast(self._lora_scale * change, logits.dtype)

    def _product(self, inputs, table):
        table = ops.cast(table, self.compute_dtype)
        if decoding() is None or not is_without_xla():
            return ops.matmul(inputs, ops.transpose(table))
        # For the few rows of a step TensorFlow's own product E x^T is the faster one.
        tokens = ops.reshape(inputs, (-1, self.dim))
        logits = ops.transpose(ops.matmul(table, ops.transpose(tokens)))
        return ops.reshape(logits, (-1, ops.shape(inputs)[1], self.vocabulary_size))

    @property
    def _lora_scale(self) -> float:
        return self.lora_alpha / self.lora_rank

    def compute_mask(self, inputs, previous_mask=None):
        if len(inputs.shape) == 3 or self.padding_id is None:  # in reverse, a position keeps the mask it has
            return previous_mask
        return ops.not_equal(inputs, self.padding_id)

    def compute_output_spec(self, inputs, reverse=False):
        if reverse:
            check_sequence(self, "inputs to reverse", inputs.shape, self.dim)
            return keras.KerasTensor((*inputs.shape[:-1], self.vocabulary_size), dtype=self.compute_dtype)
        self._check_ids(inputs)
        return keras.KerasTensor((*inputs.shape, self.dim), dtype=self.compute_dtype)

    def _check_ids(self, ids) -> None:
        if len(ids.shape) != 2:
            raise ValueError(f"{describe(self)} takes ids of shape (batch, length), got {tuple(ids.shape)}.")
        check_ids(self, ids, self.vocabulary_size)

    def get_config(self):
        config = super().get_config()
        for name in ("input_dim", "output_dim", "mask_zero"):
            del config[name]
        return {
            **config,
            "vocabulary_size": self.vocabulary_size,
            "dim": self.dim,
            "scale": self.scale,
            "output_bias": self.output_bias,
            "padding_id": self.padding_id,
        }
