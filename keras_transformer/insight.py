"""What a model attends to: the attention weights of every layer, and a picture of them."""

import keras
import numpy as np
from keras import ops

from keras_transformer.context import Recording, active
from keras_transformer_runtime.packages import needed


def attention_weights(model: keras.Model, inputs) -> dict[str, np.ndarray]:
    """The attention weights of every attention layer of a model, for the given inputs.

    The model runs once, without dropout, and is not changed. Any model will do, functional or not, with layers of
    this package at any depth.

    Args:
        model: A Keras model.
        inputs: What the model takes.

    Returns:
        For each layer's path (with ":1", ":2", ... for further calls of the same layer), in the order of the calls,
        the weights (B, H, T, S) as float32: how much query t attends to key s.

    Raises:
        ValueError: If the model has no attention layer of this package.

    Example:

    >>> import keras, numpy as np, keras_transformer as kt
    >>> tokens = keras.Input((None,), dtype="int32")
    >>> model = keras.Model(tokens, kt.EncoderLayer(2, 16, name="layer")(kt.TokenEmbedding(11, 8)(tokens)))
    >>> {path: scores.shape for path, scores in kt.attention_weights(model, np.array([[7, 3, 5]])).items()}
    {'layer/self_attention': (1, 2, 3, 3)}
    """
    if not model.built:  # Keras would build it by a symbolic call, and that would be recorded, too
        model(inputs, training=False)
    with active(Recording()) as recording:
        model(inputs, training=False)
    if not recording.scores:
        raise ValueError(
            f"The model '{model.name}' has no attention layer of keras_transformer: MultiHeadSelfAttention, "
            "MultiHeadCrossAttention, EncoderLayer or DecoderLayer."
        )
    return {path: ops.convert_to_numpy(ops.cast(scores, "float32")) for path, scores in recording.scores.items()}


def plot_attention(maps, path) -> None:
    """Draw attention maps side by side into a picture.

    Args:
        maps: For each map, weights (T, S), T labels of the queries, S labels of the keys, and a title.
        path: File to write, of a format that matplotlib knows by its suffix.

    Raises:
        ImportError: If `matplotlib` is not installed.
    """
    figure = needed("matplotlib.figure", "plot_attention").Figure(figsize=(6 * len(maps), 5.5), layout="constrained")
    for axes, (weights, queries, keys, title) in zip(
        figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True
    ):
        image = axes.imshow(np.asarray(weights), cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(keys)), keys, rotation=45)
        axes.set_yticks(range(len(queries)), queries)
        axes.set_xlabel("attended to")
        axes.set_ylabel("written")
        axes.set_title(title)
        figure.colorbar(image, ax=axes)
    figure.savefig(path, dpi=120)
