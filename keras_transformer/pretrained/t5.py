"""T5, T5 v1.1, Flan-T5 and mT5: no scale on the scores, and one relative position for all layers of a stack."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from keras_transformer.layers import FeedForward, RelativePosition, RMSNormalization
from keras_transformer.pretrained.activations import ACTIVATIONS, read_activation
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.encoder_decoder import EncoderDecoder, Stack
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.initializers import PretrainedNormal
from keras_transformer.pretrained.layouts import SAME, TRANSPOSED, Entry, joined
from keras_transformer.pretrained.weights import Tensor

TABLES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # one, by any of the names


def attention_entries(path: str, name: str, width: int, *, crosses: bool) -> list[Entry]:
    """Of one attention layer."""
    q, k, v = (f"{name}.{x}.weight" for x in "qkv")
    output = Entry(f"{path}/output/kernel", (f"{name}.o.weight",), TRANSPOSED)
    if not crosses:
        return [Entry(f"{path}/query_key_value/kernel", (q, k, v), joined(width, width, width)), output]
    keys = Entry(f"{path}/key_value/kernel", (k, v), joined(width, width))
    return [Entry(f"{path}/query/kernel", (q,), TRANSPOSED), keys, output]


def stack_entries(stack: str, num_layers: int, *, width: int, inner: int, gated: bool) -> list[Entry]:
    """All of the encoder or the decoder."""
    first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found = [
        Entry(f"{stack}_norm/scale", (f"{stack}.final_layer_norm.weight",), SAME),
        Entry(f"{stack}_0/self_attention/{stack}_position/embeddings", (first,), SAME),
    ]
    sublayers = ["self_attention", "cross_attention", "feed_forward"] if stack == "decoder" else [
        "self_attention", "feed_forward"
    ]  # fmt: skip
    for i in range(num_layers):
        for place, part in enumerate(sublayers):
            path, name = f"{stack}_{i}/{part}", f"{stack}.block.{i}.layer.{place}"
            found.append(Entry(f"{path}_norm/scale", (f"{name}.layer_norm.weight",), SAME))
            if part == "self_attention":
                found += attention_entries(path, f"{name}.SelfAttention", width, crosses=False)
            elif part == "cross_attention":
                found += attention_entries(path, f"{name}.EncDecAttention", width, crosses=True)
            else:
                name = f"{name}.DenseReluDense"
                inners = (f"{name}.wi_0.weight", f"{name}.wi_1.weight") if gated else (f"{name}.wi.weight",)
                found.append(Entry(f"{path}/inner/kernel", inners, joined(*[inner] * len(inners))))
                found.append(Entry(f"{path}/outer/kernel", (f"{name}.wo.weight",), TRANSPOSED))
    return found


def read_t5(s: Settings, *, may_scale: bool = True) -> EncoderDecoder:
    """All that have its model_type; what goes into the logits is scaled unless the settings say otherwise."""
    dim, num_heads, head_dim, inner = s["d_model"], s["num_heads"], s["d_kv"], s["d_ff"]
    s.only("is_encoder_decoder", True, False)
    s.skip("n_positions")
    kind = s.get("feed_forward_proj", "relu")
    gated = s.get("is_gated_act", kind.startswith("gated-"))
    named = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    if named not in ACTIVATIONS:
        raise ValueError(
            f"{s.where} has feed_forward_proj={kind!r}; known are {', '.join(ACTIVATIONS)}, and 'gated-...'."
        )
    activation = read_activation(s, "dense_act_fn", named)
    rate, stddev = s.get("dropout_rate", 0.1), s.get("initializer_factor", 1.0) * dim**-0.5
    norm = partial(RMSNormalization, epsilon=s.get("layer_norm_epsilon", 1e-6))
    position = partial(
        RelativePosition,
        s.get("relative_attention_num_buckets", 32),
        s.get("relative_attention_max_distance", 128),
        embeddings_initializer=PretrainedNormal(stddev=stddev),
    )
    feed_forward = partial(FeedForward, inner, activation=activation, gated=gated, use_bias=False, dropout=rate)

    def layer():
        return {
            "num_heads": num_heads,
            "head_dim": head_dim,
            "scale": 1.0,
            "use_bias": False,
            "norm": norm(),
            "norm_placement": "before",
            "dropout": rate,
            "attention_dropout": rate,
            "feed_forward": feed_forward,
        }

    counts = {"encoder": s["num_layers"], "decoder": s.get("num_decoder_layers", s["num_layers"])}
    stack = partial(Stack, layer=layer, shared_position=position, norm=norm, last_dropout=rate > 0)
    entries = [
        Entry("embedding/embeddings", TABLES[:1], SAME, (*TABLES[1:], "lm_head.weight")),
        Entry("logits/kernel", ("lm_head.weight",), TRANSPOSED),
    ]
    for name, count in counts.items():
        entries += stack_entries(name, count, width=num_heads * head_dim, inner=inner, gated=gated)
    tied = s.get("tie_word_embeddings", True)
    scaled = s.get("scale_decoder_outputs", tied) and may_scale
    return EncoderDecoder(
        vocabulary_size=s["vocab_size"],
        dim=dim,
        encoder=stack(num_layers=counts["encoder"]),
        decoder=stack(num_layers=counts["decoder"]),
        entries=tuple(entries),
        padding_id=s.get("pad_token_id", 0),
        output_scale=dim**-0.5 if scaled else 1.0,
        dropout=rate,
        stddev=stddev,
    )


def read_mt5(s: Settings) -> EncoderDecoder:
    """As T5 v1.1: nothing is scaled, whatever the settings say, which `transformers` writes one way or the other."""
    return read_t5(s, may_scale=False)


def adapt(shape: EncoderDecoder, tensors: Mapping[str, Tensor], where: str) -> EncoderDecoder:
    """Logits have a matrix of their own where there is one, whatever the settings say: T5 has `tie_word_embeddings` to
    tell whether what goes into it is scaled."""
    own, shared = tensors.get("lm_head.weight"), next((tensors[name] for name in TABLES if name in tensors), None)
    if own is None or shared is None or (own.shape == shared.shape and (own.read() == shared.read()).all()):
        return shape
    return replace(shape, tied=False)


IGNORED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
FAMILIES = {
    "t5": Family(read_t5, "", IGNORED, adapt=adapt),
    "mt5": Family(read_mt5, "", IGNORED, adapt=adapt),
}
