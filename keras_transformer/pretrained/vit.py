"""Vision Transformers: images as sequences of patches."""

from functools import partial

from keras_transformer.layers import EncoderLayer, LayerNormalization
from keras_transformer.pretrained.activations import read_activation
from keras_transformer.pretrained.bert import of_layers
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.encoder import Encoder, Pixels
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.heads import classes, hidden, number_of_classes, pooled
from keras_transformer.pretrained.layouts import CONVOLUTION, Entry, dense, layer_norm, shaped

PARTS = {
    "self_attention/query_key_value": "attention.attention.{}",
    "self_attention/output": "attention.output.dense",
    "self_attention_norm": "layernorm_before",
    "feed_forward/inner": "intermediate.dense",
    "feed_forward/outer": "output.dense",
    "feed_forward_norm": "layernorm_after",
}


def read_sizes(s: Settings, patch: int = 16) -> dict:
    """Height and width of images and of patches, which a file has as two numbers or as one."""
    found = {}
    for name, default in {"image": 224, "patch": patch}.items():
        size = s.get(f"{name}_size", default)
        found[name] = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return found


def read_vit(s: Settings) -> Encoder:
    """ViT, DeiT without distillation, DINO."""
    dim, num_layers = s["hidden_size"], s["num_hidden_layers"]
    norm = partial(LayerNormalization, epsilon=s.get("layer_norm_eps", 1e-12))
    dropout = s.get("hidden_dropout_prob", 0.0)
    s.skip("encoder_stride")  # of the head that paints
    options = {
        "num_heads": s["num_attention_heads"],
        "intermediate_dim": s["intermediate_size"],
        "activation": read_activation(s, "hidden_act", "gelu"),
        "norm": norm(),
        "norm_placement": "before",
        "dropout": dropout,
        "attention_dropout": s.get("attention_probs_dropout_prob", 0.0),
        "qkv_bias": s.get("qkv_bias", True),
    }
    pooler = pooled(s.get("pooler_output_size", dim), read_activation(s, "pooler_act", "tanh"))
    projection = "embeddings.patch_embeddings.projection"
    entries = [
        *dense("patches", projection, CONVOLUTION),
        Entry("class_token/embeddings", ("embeddings.cls_token",), shaped(1, 1, -1)),
        Entry("position/embeddings", ("embeddings.position_embeddings",), shaped(1, -1, dim)),
        *of_layers(num_layers, dim, PARTS, "encoder.layer.{}"),
        *layer_norm("encoder_norm", "layernorm"),
        *dense("pooler", "pooler.dense"),
        *dense("classifier", ":classifier"),
    ]
    return Encoder(
        first=Pixels(**read_sizes(s), channels=s.get("num_channels", 3), dim=dim, dropout=dropout),
        num_layers=num_layers,
        layer=lambda i, **further: EncoderLayer(**options, **further),
        entries=tuple(entries),
        heads={
            "ForImageClassification": classes(number_of_classes(s), dim=None),
            "Model": pooler if s.has_tensor("pooler.dense.weight") else hidden,
        },
        norm=norm,
        stddev=s.get("initializer_range", 0.02),
    )


FAMILIES = {"vit": Family(read_vit, "vit.", heads=(r"(vit\.)?pooler\..*",))}
