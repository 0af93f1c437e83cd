"""CLIP: a tower that reads texts, one that sees images, and how alike they find them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import keras
from keras import ops

from keras_transformer.layers import DecoderLayer, EncoderLayer, LayerNormalization
from keras_transformer.layers.quantized import Small
from keras_transformer.pretrained.activations import read_activation
from keras_transformer.pretrained.bert import BUFFERS, of_layers
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.encoder import Encoder, Head, Parts, Pixels, Tokens, as_inputs
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.layouts import CONVOLUTION, SAME, Entry, dense, layer_norm, shaped
from keras_transformer.pretrained.vit import read_sizes

PARTS = {
    "self_attention/query_key_value": "self_attn.{}_proj",
    "self_attention/output": "self_attn.out_proj",
    "self_attention_norm": "layer_norm1",
    "feed_forward/inner": "mlp.fc1",
    "feed_forward/outer": "mlp.fc2",
    "feed_forward_norm": "layer_norm2",
}
OLD_END = 2  # what files say that are older than the rule by the id of the end


@keras.saving.register_keras_serializable("keras_transformer")
class EndPooling(Small, keras.layers.Layer):
    """The vector (B, D) at the end of each text: at the first end token or, where it is not known, at the largest id.

    A text without the end token gives the vector of its first token.

    Args:
        end_token: Its id, or None.

    Call arguments:
        inputs: (B, T, D), float.
        tokens: (B, T), int.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.pretrained.clip import EndPooling
    >>> x = np.array([[[1.0], [2.0], [3.0]]])
    >>> np.array(EndPooling(7)(x, tokens=np.array([[5, 7, 9]]))).tolist()
    [[2.0]]
    """

    def __init__(self, end_token: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.end_token = end_token

    def call(self, inputs, tokens):
        ends = tokens if self.end_token is None else ops.cast(ops.equal(tokens, self.end_token), "int32")
        places = ops.reshape(ops.argmax(ends, axis=1), (-1, 1, 1))
        return ops.squeeze(ops.take_along_axis(inputs, ops.cast(places, "int32"), axis=1), axis=1)

    def compute_output_spec(self, inputs, tokens):
        return keras.KerasTensor((inputs.shape[0], inputs.shape[-1]), dtype=inputs.dtype)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def get_config(self):
        return {**super().get_config(), "end_token": self.end_token}


@keras.saving.register_keras_serializable("keras_transformer")
class Similarity(Small, keras.layers.Layer):
    """Logits of pairs, exp(s) * t v^T, of vectors of length 1, s being learned
    ("Learning Transferable Visual Models From Natural Language Supervision", https://arxiv.org/abs/2103.00020).

    Args:
        scale: What s begins with.

    Call arguments:
        texts: (B, D), float.
        images: (C, D), float.

    Output shape: (B, C).

    Example:

    >>> import numpy as np
    >>> from keras_transformer.pretrained.clip import Similarity
    >>> np.array(Similarity(scale=0.0)(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0]]))).tolist()
    [[0.0, 1.0]]
    """

    def __init__(self, scale: float = 2.6592, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def build(self, texts_shape, images_shape):
        self.logit_scale = self.add_weight(
            name="logit_scale", shape=(), initializer=keras.initializers.Constant(self.scale), autocast=False
        )

    def call(self, texts, images):
        return ops.cast(ops.exp(self.logit_scale), texts.dtype) * ops.matmul(texts, ops.transpose(images))

    def compute_output_spec(self, texts, images):
        return keras.KerasTensor((texts.shape[0], images.shape[0]), dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


def read_layers(s: Settings, num_heads: int, intermediate_dim: int) -> dict:
    """The options of the layers of a tower, with those numbers where the file has none: it may leave out what is usual
    for the tower within a model of both."""
    # Of their initialization; and of older files, which their code does not use.
    s.skip("initializer_factor", "dropout", "tie_word_embeddings")
    return {
        "num_heads": s.get("num_attention_heads", num_heads),
        "intermediate_dim": s.get("intermediate_size", intermediate_dim),
        "activation": read_activation(s, "hidden_act", "quick_gelu"),
        "norm": LayerNormalization(epsilon=s.get("layer_norm_eps", 1e-5)),
        "norm_placement": "before",
        "attention_dropout": s.get("attention_dropout", 0.0),
    }


def read_text(s: Settings, prefix: str = "", width: int | None = None) -> Encoder:
    """The tower that reads texts. No id is padding: what stands behind the end changes nothing before it."""
    dim, num_layers, options = s.get("hidden_size", 512), s.get("num_hidden_layers", 12), read_layers(s, 8, 2048)
    norm = partial(LayerNormalization, epsilon=s.get("layer_norm_eps", 1e-5))
    own, end = s.get("projection_dim", 512), s.get("eos_token_id", 49407)
    if not isinstance(end, int):
        raise ValueError(f"{s.where} has eos_token_id={end!r}; one id is supported.")
    entries = [
        Entry(f"{prefix}embedding/embeddings", ("embeddings.token_embedding.weight",), SAME),
        Entry(f"{prefix}position/embeddings", ("embeddings.position_embedding.weight",), SAME),
        *of_layers(num_layers, dim, PARTS, "encoder.layers.{}", "qkv", prefix),
        *layer_norm(f"{prefix}encoder_norm", "final_layer_norm"),
        *dense(f"{prefix}projection", ":text_projection"),
    ]

    def pool(parts: Parts):
        layer = EndPooling(None if end == OLD_END else end, **parts.layer("pooling"))
        return layer(parts.hidden, tokens=parts.inputs["tokens"])

    return Encoder(
        first=Tokens(
            vocabulary_size=s.get("vocab_size", 49408),
            dim=dim,
            padding_id=None,
            hides_padding=False,
            positions=(s.get("max_position_embeddings", 77), 0),
        ),
        num_layers=num_layers,
        layer=lambda i, **further: DecoderLayer(**options, **further),
        entries=tuple(entries),
        heads=heads(pool, width or own, "text_embeds"),
        norm=norm,
        stddev=s.get("initializer_range", 0.02),
        prefix=prefix,
    )


def read_vision(s: Settings, prefix: str = "", width: int | None = None) -> Encoder:
    """The tower that sees images."""
    dim, num_layers, options = s.get("hidden_size", 768), s.get("num_hidden_layers", 12), read_layers(s, 12, 3072)
    norm = partial(LayerNormalization, epsilon=s.get("layer_norm_eps", 1e-5))
    own = s.get("projection_dim", 512)
    entries = [
        *dense(f"{prefix}patches", "embeddings.patch_embedding", CONVOLUTION),
        Entry(f"{prefix}class_token/embeddings", ("embeddings.class_embedding",), shaped(-1)),
        Entry(f"{prefix}position/embeddings", ("embeddings.position_embedding.weight",), SAME),
        *layer_norm(f"{prefix}embedding_norm", "pre_layrnorm"),
        *of_layers(num_layers, dim, PARTS, "encoder.layers.{}", "qkv", prefix),
        *layer_norm(f"{prefix}pooled_norm", "post_layernorm"),
        *dense(f"{prefix}projection", ":visual_projection"),
    ]
    return Encoder(
        first=Pixels(**read_sizes(s, 32), channels=s.get("num_channels", 3), dim=dim, use_bias=False, norm=norm),
        num_layers=num_layers,
        layer=lambda i, **further: EncoderLayer(**options, **further),
        entries=tuple(entries),
        heads=heads(lambda parts: norm(**parts.layer("pooled_norm"))(parts.hidden[:, 0]), width or own, "image_embeds"),
        stddev=s.get("initializer_range", 0.02),
        prefix=prefix,
    )


def heads(pool: Head, width: int, name: str) -> Mapping[str, Head]:
    """Of a tower: one vector of the hidden states, projected to that width under that name, or as it is."""

    def projected(parts):
        return {"hidden": parts.hidden, name: parts.dense(width, "projection", use_bias=False)(pool(parts))}

    return {
        "WithProjection": projected,
        "Model": lambda parts: {"hidden": parts.hidden, "pooled": pool(parts)},
    }


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Both towers.

    Attributes:
        text, vision: The towers.
        scale: What the scale of logits begins with.
        entries: Of both.
    """

    text: Encoder
    vision: Encoder
    scale: float
    entries: tuple[Entry, ...]

    def build(self, architecture, dtype):
        if architecture not in (None, "CLIPModel"):
            raise ValueError(f"'{architecture}' is not supported: of models with both towers CLIPModel is.")
        inputs, vectors = {}, {}
        for tower, name in ((self.text, "text_embeds"), (self.vision, "image_embeds")):
            parts = tower.run(dtype)
            inputs.update(parts.inputs)
            vector = tower.heads["WithProjection"](parts)[name]
            vectors[name] = keras.layers.UnitNormalization(**parts.layer("unit"))(vector)
        logits = Similarity(self.scale, dtype=dtype, name="similarity")(*vectors.values())
        return as_inputs(inputs), {"logits_per_text": logits, "logits_per_image": ops.transpose(logits), **vectors}


def read_clip(s: Settings) -> Clip:
    """Both towers, whose settings are within; and, in old files, twice: then the second ones count."""
    width, towers, entries = s.get("projection_dim", 512), {}, []
    s.skip("initializer_factor")
    for kind, read in (("text", read_text), ("vision", read_vision)):
        given, other = s.get(f"{kind}_config"), s.get(f"{kind}_config_dict")
        if other:
            s.skip(f"{kind}_config")
            given = other
        towers[kind] = read(Settings({}, s.where) if given is None else given, f"{kind}_", width)
        entries += [_within(entry, f"{kind}_model.") for entry in towers[kind].entries]
    entries.append(Entry("similarity/logit_scale", ("logit_scale",), SAME))
    return Clip(**towers, scale=s.get("logit_scale_init_value", 2.6592), entries=tuple(entries))


def _within(entry: Entry, prefix: str) -> Entry:
    """An entry of a tower as one of both."""
    return entry._replace(tensors=tuple(name[1:] if name.startswith(":") else prefix + name for name in entry.tensors))


FAMILIES = {
    "clip": Family(read_clip, "", BUFFERS),
    "clip_text_model": Family(read_text, "text_model.", BUFFERS),
    "clip_vision_model": Family(read_vision, "vision_model.", BUFFERS),
}
