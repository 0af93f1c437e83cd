"""BART and Marian, and what Whisper has in common with them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from keras_transformer.layers import FeedForward, LayerNormalization, PositionalEncoding
from keras_transformer.ops import sinusoids
from keras_transformer.pretrained.activations import read_activation
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.decoder import learned_positions
from keras_transformer.pretrained.encoder_decoder import EncoderDecoder, Stack
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.layouts import SAME, TRANSPOSED, Entry, Layout, dense, joined, layer_norm, partly
from keras_transformer.pretrained.variables import whole_name
from keras_transformer.pretrained.weights import Tensor

ROW = Layout(lambda tensors: tensors[0][0], lambda x: [x[None]])  # of a matrix that has one
OF_OLDER_FILES = {
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "normalize_before": False,
}
UNUSED = ("num_hidden_layers", "classif_dropout", "force_bos_token_to_be_generated", "_num_labels")  # of these, too


def attention_entries(path: str, name: str, dim: int, *, crosses: bool, key_bias: bool) -> list[Entry]:
    """Of one attention layer. A bias of the keys adds the same to all scores of a query, and so changes nothing: where
    the checkpoint has none, ours is left out."""
    q, k, v = (f"{name}.{x}_proj" for x in "qkv")
    of_all, of_keys = (joined(*[dim] * count) for count in (3, 2))
    keys, bias = (f"{k}.weight", f"{v}.weight"), (f"{k}.bias", f"{v}.bias")
    found = dense(f"{path}/output", f"{name}.out_proj")
    if not crosses:
        path = f"{path}/query_key_value"
        found.append(Entry(f"{path}/kernel", (f"{q}.weight", *keys), of_all))
        if key_bias:
            return [*found, Entry(f"{path}/bias", (f"{q}.bias", *bias), of_all)]
        return [*found, Entry(f"{path}/bias", (f"{q}.bias", f"{v}.bias"), partly(dim, dim, dim, left_out=1))]
    found += [*dense(f"{path}/query", q), Entry(f"{path}/key_value/kernel", keys, of_keys)]
    if key_bias:
        return [*found, Entry(f"{path}/key_value/bias", bias, of_keys)]
    return [*found, Entry(f"{path}/key_value/bias", (f"{v}.bias",), partly(dim, dim, left_out=0))]


def layer_entries(num_layers: Mapping[str, int], dim: int, *, key_bias: bool = True) -> list[Entry]:
    """Of all layers of both stacks, whose numbers `num_layers` has."""
    found = []
    for stack, count in num_layers.items():
        for i in range(count):
            path, name = f"{stack}_{i}", f"{stack}.layers.{i}"
            attention = {"self_attention": "self_attn"}
            if stack == "decoder":
                attention["cross_attention"] = "encoder_attn"
            for part, tensor in attention.items():
                crosses = part == "cross_attention"
                of = {"crosses": crosses, "key_bias": key_bias}
                found += attention_entries(f"{path}/{part}", f"{name}.{tensor}", dim, **of)
                found += layer_norm(f"{path}/{part}_norm", f"{name}.{tensor}_layer_norm")
            found += layer_norm(f"{path}/feed_forward_norm", f"{name}.final_layer_norm")
            found += dense(f"{path}/feed_forward/inner", f"{name}.fc1")
            found += dense(f"{path}/feed_forward/outer", f"{name}.fc2")
    return found


def position_entries() -> list[Entry]:
    """Of the positions' tables."""
    tables = {"source": "encoder", "target": "decoder"}
    return [
        Entry(f"{side}_position/embeddings", (f"{name}.embed_positions.weight",), SAME) for side, name in tables.items()
    ]


def read_layers(s: Settings, **options) -> tuple[dict[str, int], dict[str, Callable[[], dict]]]:
    """The numbers of layers of both stacks, and what makes the options of a layer."""
    activation = read_activation(s, "activation_function", "gelu")
    inner_rate = s.get("activation_dropout", 0.0)
    counts: dict[str, int] = {}
    makers: dict[str, Callable[[], dict]] = {}
    shared = {"dropout": s.get("dropout", 0.1), "attention_dropout": s.get("attention_dropout", 0.0), **options}
    s.only("is_encoder_decoder", True)
    s.skip(*UNUSED)
    for stack in ("encoder", "decoder"):
        s.only(f"{stack}_layerdrop", 0.0, why="as layers are not left out in training")
        counts[stack] = s[f"{stack}_layers"]
        inner, heads = s[f"{stack}_ffn_dim"], s[f"{stack}_attention_heads"]
        feed_forward = partial(FeedForward, inner, activation=activation, dropout=inner_rate)
        norm = partial(LayerNormalization, epsilon=1e-5)

        def layer(feed_forward=feed_forward, heads=heads, norm=norm):
            return {"num_heads": heads, "norm": norm(), "feed_forward": feed_forward, **shared}

        makers[stack] = layer
    return counts, makers


def embedding_entries(*, shared: bool) -> list[Entry]:
    """Of the tables of ids, and of a projection to logits that is none of them."""
    source, target, logits = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", ":lm_head.weight"
    tables = [Entry("embedding/embeddings", ("shared.weight",), SAME, (source, target, logits))]
    if not shared:
        tables = [
            Entry("source_embedding/embeddings", (source,), SAME),
            Entry("target_embedding/embeddings", (target,), SAME, (logits,)),
        ]
    bias = Entry("logits_bias/bias", (":final_logits_bias",), ROW)
    return [*tables, Entry("logits/kernel", (logits,), TRANSPOSED), bias]


def read_bart(s: Settings) -> EncoderDecoder:
    """BART: learned positions behind two rows that nothing reads, and embeddings that are normalized."""
    for name, value in OF_OLDER_FILES.items():
        s.only(name, value)
    s.only("extra_pos_embeddings", 2)
    s.only("static_position_embeddings", False)
    s.only("normalize_embedding", True)
    dim, stddev = s["d_model"], s.get("init_std", 0.02)
    counts, layers = read_layers(s)
    size = s.get("max_position_embeddings", 1024)
    position = partial(learned_positions, size, 2, stddev=stddev)
    stack = partial(Stack, position=position, embedding_norm=partial(LayerNormalization, epsilon=1e-5))
    return EncoderDecoder(
        vocabulary_size=s["vocab_size"],
        dim=dim,
        encoder=stack(num_layers=counts["encoder"], layer=layers["encoder"]),
        decoder=stack(num_layers=counts["decoder"], layer=layers["decoder"]),
        entries=(
            *embedding_entries(shared=True),
            *position_entries(),
            *layer_norm("source_norm", "encoder.layernorm_embedding"),
            *layer_norm("target_norm", "decoder.layernorm_embedding"),
            *layer_entries(counts, dim),
        ),
        padding_id=s.get("pad_token_id", 1),
        tied=s.get("tie_word_embeddings", True),
        scale=bool(s.get("scale_embedding", False)),
        logits_bias=True,
        dropout=s.get("dropout", 0.1),
        stddev=stddev,
    )


def read_marian(s: Settings) -> EncoderDecoder:
    """Marian: sinusoids, all sines before all cosines."""
    for name, value in OF_OLDER_FILES.items():
        s.only(name, value)
    s.skip("extra_pos_embeddings")  # of learned ones
    s.only("static_position_embeddings", True)
    s.only("normalize_embedding", False)
    dim, shared = s["d_model"], s.get("share_encoder_decoder_embeddings", True)
    counts, layers = read_layers(s)
    size = s.get("decoder_vocab_size", s["vocab_size"])
    position = partial(PositionalEncoding, interleaved=False)
    return EncoderDecoder(
        vocabulary_size=s["vocab_size"],
        dim=dim,
        encoder=Stack(num_layers=counts["encoder"], layer=layers["encoder"], position=position),
        decoder=Stack(num_layers=counts["decoder"], layer=layers["decoder"], position=position),
        entries=(*embedding_entries(shared=shared), *layer_entries(counts, dim)),
        padding_id=s.get("pad_token_id"),
        target_vocabulary_size=None if shared else size,
        tied=s.get("tie_word_embeddings", True),
        scale=bool(s.get("scale_embedding", False)),
        logits_bias=True,
        dropout=s.get("dropout", 0.1),
        stddev=s.get("init_std", 0.02),
    )


def adapt(shape: EncoderDecoder, tensors: Mapping[str, Tensor], where: str) -> EncoderDecoder:
    """Logits have a bias where there is one."""
    return replace(shape, logits_bias="final_logits_bias" in tensors)


def adapt_marian(shape: EncoderDecoder, tensors: Mapping[str, Tensor], where: str) -> EncoderDecoder:
    """As `adapt`; and positions that a file holds have to be those that are computed here.

    Raises:
        ValueError: If they are others.
    """
    for stack in ("encoder", "decoder"):
        for prefix in ("model.", ""):
            name = whole_name(f"{stack}.embed_positions.weight", prefix)
            if name in tensors:
                table = tensors[name].read().astype("float32")
                expected = np.asarray(sinusoids(np.arange(len(table)), shape.dim, interleaved=False))
                if table.shape != expected.shape or abs(table - expected).max() > 1e-2:
                    raise ValueError(
                        f"{where} has the tensor {name}, which are no sinusoids: Marian's positions are not learned."
                    )
    return adapt(shape, tensors, where)


VERSIONS = (r"(model\.)?(encoder|decoder)\.version",)
POSITIONS = (r"(model\.)?(encoder|decoder)\.embed_positions\.weight",)
FAMILIES = {
    "bart": Family(read_bart, "model.", VERSIONS, adapt=adapt),
    "marian": Family(read_marian, "model.", VERSIONS, heads=POSITIONS, adapt=adapt_marian),
}
