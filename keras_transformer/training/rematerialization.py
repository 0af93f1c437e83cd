"""Encoder and decoder layers whose activations are computed again in the backward pass instead of being kept."""

import keras
from keras import ops

from keras_transformer._keras import layers_within
from keras_transformer.layers.block import TransformerBlock
from keras_transformer.layers.composite import Composite
from keras_transformer.layers.sequence import SequenceLayer


@keras.saving.register_keras_serializable("keras_transformer")
class Remat(SequenceLayer, Composite):
    """An `EncoderLayer` or `DecoderLayer` that keeps only its input for the backward pass, and runs twice.

    ("Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174.) Of all that the layer computes
    in training only its input and output stay in memory until the gradients are taken; the rest is computed again,
    at the price of one more forward pass. The numbers are those of the layer alone: dropout's seeds are read once and
    handed to both passes, which is what `keras.remat` around a layer with dropout lacks. (Compiled by JAX for a CPU
    it saves nothing: there XLA merges the two passes again.)

    Outside of training it is the layer itself: it generates with a cache, exports, and shows its attention weights.

    Args:
        layer: An `EncoderLayer` or `DecoderLayer`.

    Call arguments: As of the layer, but for `return_attention_scores`.

    Raises: ValueError if `layer` is something else.

    Example:

    >>> import keras, keras_transformer as kt
    >>> x = tokens = keras.Input((None,), dtype="int32")
    >>> x = kt.TokenEmbedding(11, 8)(x)
    >>> for _ in range(12):
    ...     x = kt.training.Remat(kt.DecoderLayer(2, 32, dropout=0.1))(x)
    >>> model = keras.Model(tokens, keras.layers.Dense(11)(x))
    """

    def __init__(self, layer: TransformerBlock, **kwargs):
        if not isinstance(layer, TransformerBlock):
            raise ValueError(
                f"Remat takes an EncoderLayer or a DecoderLayer. Received: {layer!r}. `keras.remat` wraps any function "
                "without dropout."
            )
        if any(part.activity_regularizer is not None for part in (layer, *layers_within(layer))):
            raise ValueError(
                f"Remat would drop what the activity_regularizer of '{layer.name}' adds to the loss. Give it to Remat "
                "itself: Remat(layer, activity_regularizer=...)."
            )
        # With autocasting the weights would reach the layer rounded to half precision.
        super().__init__(**{"dtype": layer.dtype_policy, **kwargs, "autocast": False})
        self.layer = self.adopt("layer", layer)

    def build(self, inputs_shape, memory_shape=None):
        shapes = [inputs_shape] if memory_shape is None else [inputs_shape, memory_shape]
        if not self.layer.built:  # a layer that was loaded is
            self.layer.build(*shapes)

    def call(
        self,
        inputs,
        memory=None,
        mask=None,
        inputs_mask=None,
        memory_mask=None,
        segment_ids=None,
        memory_segment_ids=None,
        attention_mask=None,
        memory_attention_mask=None,
        training=None,
    ):
        sequences = [x for x in (inputs, memory) if x is not None]
        options = {
            "mask": inputs_mask if mask is None else mask,
            "memory_mask": memory_mask,
            "segment_ids": segment_ids,
            "memory_segment_ids": memory_segment_ids,
            "attention_mask": attention_mask,
            "memory_attention_mask": memory_attention_mask,
        }
        options = {name: value for name, value in options.items() if value is not None}
        if not training:
            return self.layer(*sequences, **options, training=False)
        # Not the layer's own lists: parts of a frozen layer may be trained, as LoRA does.
        weights = [variable for variable in self.layer.variables if variable.trainable]
        state = [variable for variable in self.layer.variables if not variable.trainable]
        # Read here: TensorFlow would read the variables again in the backward pass, when the seeds have moved on.
        before = [ops.copy(variable) for variable in state]

        # What has a gradient is an argument; TensorFlow takes none with respect to what a closure holds.
        def run(*tensors):
            values = [*zip(weights, tensors[len(sequences) :], strict=True), *zip(state, before, strict=True)]
            with keras.StatelessScope(state_mapping=values, collect_losses=True) as scope:
                outputs = self.layer(*tensors[: len(sequences)], **options, training=True)
            return outputs, *(scope.get_current_value(variable) for variable in state), *scope.losses

        outputs, *others = keras.remat(run)(*sequences, *(ops.copy(variable) for variable in weights))
        for variable, value in zip(state, others, strict=False):
            variable.assign(value)
        for loss in others[len(state) :]:  # of a mixture of experts
            self.add_loss(loss)
        return outputs

    def get_config(self):
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})
