"""ModernBERT: rotary positions, norms before the sub-layers, gated networks, windows in most layers."""

from functools import partial

import keras

from keras_transformer.layers import EncoderLayer, FeedForward, LayerNormalization
from keras_transformer.layers.dropout import Dropout
from keras_transformer.pretrained.activations import read_activation
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.encoder import Encoder, Tokens
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.heads import classes, hidden, masked_tokens, number_of_classes, token_classes
from keras_transformer.pretrained.layouts import SAME, TRANSPOSED, Entry, dense, layer_norm
from keras_transformer.pretrained.llama import SLIDING, layer_types
from keras_transformer.pretrained.rope import read_rotary, rotary

PARTS = {
    "self_attention_norm": "attn_norm",
    "self_attention/query_key_value": "attn.Wqkv",
    "self_attention/output": "attn.Wo",
    "feed_forward_norm": "mlp_norm",
    "feed_forward/inner": "mlp.Wi",
    "feed_forward/outer": "mlp.Wo",
}


@keras.saving.register_keras_serializable("keras_transformer")
class NormalizedEncoderLayer(EncoderLayer):
    """An `EncoderLayer` with `norm_placement="before"` for inputs that have been normalized: attention reads them as
    they are.

    x = x + Dropout(SelfAttention(x)); x = x + Dropout(FeedForward(Norm(x)))

    Example:

    >>> import numpy as np
    >>> from keras_transformer.pretrained.modernbert import NormalizedEncoderLayer
    >>> layer = NormalizedEncoderLayer(2, 16, norm_placement="before")
    >>> tuple(layer(np.ones((1, 3, 8))).shape), layer.self_attention_norm.count_params()
    ((1, 3, 8), 0)
    """

    def _build_residual(self, name, shape):
        if name != "self_attention":
            return super()._build_residual(name, shape)
        self.self_attention_norm = self.make(keras.layers.Activation, "self_attention_norm", activation="linear")
        self.self_attention_dropout = self.make(Dropout, "self_attention_dropout", rate=self.dropout)


def entries(num_layers: int) -> tuple[Entry, ...]:
    """All variables and their tensors."""
    found = [
        Entry("embedding/embeddings", ("embeddings.tok_embeddings.weight",), SAME, copies=(":decoder.weight",)),
        Entry("embedding/output_bias", (":decoder.bias",), SAME),
        *dense("logits", ":decoder"),
        *layer_norm("embedding_norm", "embeddings.norm"),
        *layer_norm("encoder_norm", "final_norm"),
        *dense("token_projection", ":head.dense"),
        *layer_norm("token_norm", ":head.norm"),
        *dense("class_projection", ":head.dense"),
        *layer_norm("class_norm", ":head.norm"),
        *dense("classifier", ":classifier"),
    ]
    for i in range(num_layers):
        for path, name in PARTS.items():
            path, name = f"encoder_{i}/{path}", f"layers.{i}.{name}"
            found += layer_norm(path, name) if path.endswith("norm") else dense(path, name, TRANSPOSED)
    return tuple(found)


def read_modernbert(s: Settings) -> Encoder:
    """ModernBERT."""
    dim, num_layers, num_heads = s["hidden_size"], s["num_hidden_layers"], s["num_attention_heads"]
    s.only("position_embedding_type", None, "absolute", "sans_pos")  # which their code does not use
    # How it is computed, what their code does not use, and what is of training.
    s.skip("deterministic_flash_attn", "reference_compile", "repad_logits_with_grad", "layer_norm_eps")
    s.skip("sparse_prediction", "sparse_pred_ignore_index", "initializer_cutoff_factor", "cls_token_id")
    every = s.get("global_attn_every_n_layers", 3)
    types = layer_types(s, lambda i: SLIDING if i % every else "full_attention")
    thetas = {"full_attention": s.get("global_rope_theta", 160000.0), SLIDING: s.get("local_rope_theta", 10000.0)}
    turned = {x: read_rotary(s, dim // num_heads, theta=theta, layer_type=x) for x, theta in thetas.items()}
    window = s.get("local_attention", 128) // 2 + 1
    norm = partial(LayerNormalization, epsilon=s.get("norm_eps", 1e-5), center=s.get("norm_bias", False))
    dropout = s.get("attention_dropout", 0.0)
    feed_forward = partial(
        FeedForward,
        s["intermediate_size"],
        activation=read_activation(s, "hidden_activation", "gelu"),
        gated=True,
        use_bias=s.get("mlp_bias", False),
        dropout=s.get("mlp_dropout", 0.0),
    )
    options = {
        "num_heads": num_heads,
        "use_bias": s.get("attention_bias", False),
        "attention_dropout": dropout,
        "norm_placement": "before",
        "parts": {"self_attention_dropout": {"rate": dropout}},  # behind attention alone
    }

    def layer(i, *, dtype, kernel_initializer, **further):
        return (EncoderLayer if i else NormalizedEncoderLayer)(
            feed_forward=feed_forward(dtype=dtype, kernel_initializer=kernel_initializer.clone(), name="feed_forward"),
            norm=norm(),
            position=rotary(**turned[types[i]]),
            window=window if types[i] == SLIDING else None,
            dtype=dtype,
            kernel_initializer=kernel_initializer,
            **options,
            **further,
        )

    tied, use_bias = s.get("tie_word_embeddings", True), s.get("classifier_bias", False)
    logits_bias, count = s.get("decoder_bias", True), number_of_classes(s)
    activation = read_activation(s, "classifier_activation", "gelu")
    class_dropout = s.get("classifier_dropout", 0.0)
    s.only("classifier_pooling", "cls", "mean")
    token_head = masked_tokens(dim, activation, norm, tied=tied, use_bias=use_bias, logits_bias=logits_bias)
    return Encoder(
        first=Tokens(
            vocabulary_size=s["vocab_size"],
            dim=dim,
            padding_id=s.optional("pad_token_id", 50283),
            norm=norm,
            dropout=s.get("embedding_dropout", 0.0),
        ),
        num_layers=num_layers,
        layer=layer,
        entries=entries(num_layers),
        heads={
            "ForMaskedLM": token_head,
            "ForSequenceClassification": classes(
                count,
                dim=dim,
                activation=activation,
                use_bias=use_bias,
                norm=norm,
                pooling="mean" if s.get("classifier_pooling", "cls") == "mean" else "first",
                dropout=class_dropout,
            ),
            "ForTokenClassification": token_classes(
                count, dim=dim, activation=activation, use_bias=use_bias, norm=norm, dropout=class_dropout
            ),
            "Model": hidden,
        },
        norm=norm,
        stddev=s.get("initializer_range", 0.02),
        output_bias=tied and logits_bias,
    )


FAMILIES = {"modernbert": Family(read_modernbert, "model.", heads=(r"head\..*", r"decoder\..*"))}
