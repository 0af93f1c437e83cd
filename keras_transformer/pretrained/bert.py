"""BERT and its relatives, RoBERTa, DistilBERT and MPNet: learned positions, norms behind the sub-layers."""

from collections.abc import Callable
from functools import partial

import keras

from keras_transformer.layers import EncoderLayer, LayerNormalization, RelativePosition
from keras_transformer.layers.position import AttentionPosition
from keras_transformer.pretrained.activations import read_activation
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.encoder import Encoder, Head, Tokens
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.heads import classes, hidden, masked_tokens, number_of_classes, pooled, token_classes
from keras_transformer.pretrained.initializers import PretrainedNormal
from keras_transformer.pretrained.layouts import SAME, TRANSPOSED, TWICE, Entry, dense, joined, layer_norm

BUFFERS = (r"(.*\.)?embeddings\.position_ids",)
BERT = {  # the parts of a layer, and their tensors
    "self_attention/query_key_value": "attention.self.{}",
    "self_attention/output": "attention.output.dense",
    "self_attention_norm": "attention.output.LayerNorm",
    "feed_forward/inner": "intermediate.dense",
    "feed_forward/outer": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
MPNET = {
    **BERT,
    "self_attention/query_key_value": "attention.attn.{}",
    "self_attention/output": "attention.attn.o",
    "self_attention_norm": "attention.LayerNorm",
}
SHARED = "encoder_0/self_attention/position_bias"  # of the position that all layers share
DISTILBERT = {
    "self_attention/query_key_value": "attention.{}_lin",
    "self_attention/output": "attention.out_lin",
    "self_attention_norm": "sa_layer_norm",
    "feed_forward/inner": "ffn.lin1",
    "feed_forward/outer": "ffn.lin2",
    "feed_forward_norm": "output_layer_norm",
}


def of_layers(
    num_layers: int, dim: int, parts: dict, name: str, query_key_value=("query", "key", "value"), prefix: str = ""
) -> list[Entry]:
    """The entries of all layers.

    Args:
        num_layers, dim: Number of layers and their width.
        parts: Parts of a layer and what their tensors are called; of queries, keys and values with a place for which.
        name: What the tensors begin with, with a place for the number of the layer.
        query_key_value: What is put there.
        prefix: What the layers' names begin with.
    """
    found = []
    for i in range(num_layers):
        for part, tensor in parts.items():
            path, tensor = f"{prefix}encoder_{i}/{part}", f"{name.format(i)}.{tensor}"
            if part.endswith("norm"):
                found += layer_norm(path, tensor)
            elif "{}" in tensor:
                for kind, weights in {"kernel": "weight", "bias": "bias"}.items():
                    tensors = tuple(f"{tensor.format(x)}.{weights}" for x in query_key_value)
                    found.append(Entry(f"{path}/{kind}", tensors, joined(dim, dim, dim)))
            else:
                found += dense(path, tensor)
    return found


def of_embeddings(logits: str, bias: str) -> list[Entry]:
    """The entries of what stands before the layers, and of the logits: of their projection and, where that has another
    name, of their bias."""
    apart = bias != f"{logits}.bias"  # where the projection is not tied, it has one, too, and that one counts
    return [
        Entry("embedding/embeddings", ("embeddings.word_embeddings.weight",), SAME, copies=(f"{logits}.weight",)),
        Entry("embedding/output_bias", (bias,), SAME, copies=(f"{logits}.bias",)),
        Entry("logits/kernel", (f"{logits}.weight",), TRANSPOSED),
        Entry("logits/bias", (f"{logits}.bias", bias), TWICE) if apart else Entry("logits/bias", (bias,), SAME),
        Entry("token_type/embeddings", ("embeddings.token_type_embeddings.weight",), SAME),
        Entry("position/embeddings", ("embeddings.position_embeddings.weight",), SAME),
        *layer_norm("embedding_norm", "embeddings.LayerNorm"),
    ]


def read_encoder(
    s: Settings,
    *,
    entries: list[Entry],
    heads: dict[str, Head],
    padding_id: int | None,
    counted: int | None = None,
    types: int = 0,
    position: Callable[..., AttentionPosition] | None = None,
) -> Encoder:
    """What BERT, RoBERTa and MPNet have in common."""
    dim, num_layers = s["hidden_size"], s["num_hidden_layers"]
    norm = read_norm(s)
    offset = 0 if counted is None else counted + 1
    s.only("position_embedding_type", "absolute")
    s.only("is_decoder", False)
    options = {
        "num_heads": s["num_attention_heads"],
        "intermediate_dim": s["intermediate_size"],
        "activation": read_activation(s, "hidden_act", "gelu"),
        "norm": norm(),
        "dropout": s.get("hidden_dropout_prob", 0.1),
        "attention_dropout": s.get("attention_probs_dropout_prob", 0.1),
    }
    return Encoder(
        first=Tokens(
            vocabulary_size=s["vocab_size"],
            dim=dim,
            padding_id=padding_id,
            positions=(s.get("max_position_embeddings", 512) - offset, offset),
            counted=counted,
            types=types,
            norm=norm,
            dropout=options["dropout"],
        ),
        num_layers=num_layers,
        layer=lambda i, **further: EncoderLayer(**options, **further),
        entries=tuple(entries),
        heads=heads,
        position=position,
        stddev=s.get("initializer_range", 0.02),
        output_bias=s.get("tie_word_embeddings", True),
    )


def read_norm(s: Settings) -> Callable[..., keras.layers.Layer]:
    """What makes the normalizations."""
    return partial(LayerNormalization, epsilon=s.get("layer_norm_eps", 1e-12))


def read_dropout(s: Settings) -> float:
    """The rate before the classes."""
    return s.get("classifier_dropout", s.get("hidden_dropout_prob", 0.1))


def read_bert(s: Settings) -> Encoder:
    """BERT, and what has its model_type, such as MiniLM."""
    dim, count, dropout = s["hidden_size"], number_of_classes(s), read_dropout(s)
    activation, tied = read_activation(s, "hidden_act", "gelu"), s.get("tie_word_embeddings", True)
    pooler = pooled(dim, keras.activations.tanh) if s.has_tensor("pooler.dense.weight") else hidden
    heads = {
        "ForMaskedLM": masked_tokens(dim, activation, read_norm(s), tied=tied),
        "ForSequenceClassification": classes(
            count, dim=dim, name="pooler", activation=keras.activations.tanh, dropout=dropout
        ),
        "ForTokenClassification": token_classes(count, dropout=dropout),
        "Model": pooler,
    }
    entries = [
        *of_embeddings(":cls.predictions.decoder", ":cls.predictions.bias"),
        *of_layers(s["num_hidden_layers"], dim, BERT, "encoder.layer.{}"),
        *dense("pooler", "pooler.dense"),
        *dense("token_projection", ":cls.predictions.transform.dense"),
        *layer_norm("token_norm", ":cls.predictions.transform.LayerNorm"),
        *dense("classifier", ":classifier"),
    ]
    padding = s.optional("pad_token_id", 0)
    return read_encoder(s, entries=entries, heads=heads, padding_id=padding, types=s.get("type_vocab_size", 2))


def read_roberta(s: Settings) -> Encoder:
    """RoBERTa and XLM-RoBERTa."""
    padding = s.get("pad_token_id", 1)
    types = s.get("type_vocab_size", 2)
    layers = of_layers(s["num_hidden_layers"], s["hidden_size"], BERT, "encoder.layer.{}")
    return _counting(s, read_dropout(s), layers, padding_id=padding, counted=padding, types=types)


def read_mpnet(s: Settings) -> Encoder:
    """MPNet, whose layers share the biases of distances."""
    s.only("relative_attention_num_buckets", 32, why="as their code has it in any case")
    layers = of_layers(s["num_hidden_layers"], s["hidden_size"], MPNET, "encoder.layer.{}", "qkv")
    layers.append(Entry(f"{SHARED}/embeddings", ("encoder.relative_attention_bias.weight",), SAME))
    normal = PretrainedNormal(stddev=s.get("initializer_range", 0.02))
    position = partial(RelativePosition, 32, embeddings_initializer=normal)
    dropout = s.get("hidden_dropout_prob", 0.1)
    return _counting(s, dropout, layers, padding_id=s.get("pad_token_id", 1), counted=1, position=position)


def _counting(s: Settings, dropout: float, layers: list[Entry], **options) -> Encoder:
    """Of RoBERTa and MPNet: positions count from behind the id of padding on, and the heads are alike."""
    dim, count = s["hidden_size"], number_of_classes(s)
    tied, tanh = s.get("tie_word_embeddings", True), keras.activations.tanh
    of_tokens = (s.get("architectures") or [""])[0].endswith("ForTokenClassification")
    heads = {
        "ForMaskedLM": masked_tokens(dim, keras.activations.gelu, read_norm(s), tied=tied),
        "ForSequenceClassification": classes(count, dim=dim, activation=tanh, first_dropout=dropout, dropout=dropout),
        "ForTokenClassification": token_classes(count, dropout=dropout),
        "Model": pooled(dim, tanh) if s.has_tensor("pooler.dense.weight") else hidden,
    }
    entries = [
        *of_embeddings(":lm_head.decoder", ":lm_head.bias"),
        *layers,
        *dense("pooler", "pooler.dense"),
        *dense("token_projection", ":lm_head.dense"),
        *layer_norm("token_norm", ":lm_head.layer_norm"),
        *dense("class_projection", ":classifier.dense"),
        *dense("classifier", ":classifier" if of_tokens else ":classifier.out_proj"),
    ]
    return read_encoder(s, entries=entries, heads=heads, **options)


def read_distilbert(s: Settings) -> Encoder:
    """DistilBERT, which has no kinds of tokens and no pooler."""
    dim, num_layers, dropout = s["dim"], s["n_layers"], s.get("dropout", 0.1)
    activation, norm = read_activation(s, "activation", "gelu"), partial(LayerNormalization, epsilon=1e-12)
    count, tied = number_of_classes(s), s.get("tie_word_embeddings", s.get("tie_weights_", True))
    s.skip("sinusoidal_pos_embds", "qa_dropout")  # how the table of positions began; of another head
    options = {
        "num_heads": s["n_heads"],
        "intermediate_dim": s["hidden_dim"],
        "activation": activation,
        "norm": norm(),
        "dropout": dropout,
        "attention_dropout": s.get("attention_dropout", 0.1),
    }
    entries = [
        *of_embeddings(":vocab_projector", ":vocab_projector.bias"),
        *of_layers(num_layers, dim, DISTILBERT, "transformer.layer.{}", "qkv"),
        *dense("token_projection", ":vocab_transform"),
        *layer_norm("token_norm", ":vocab_layer_norm"),
        *dense("class_projection", ":pre_classifier"),
        *dense("classifier", ":classifier"),
    ]
    return Encoder(
        first=Tokens(
            vocabulary_size=s["vocab_size"],
            dim=dim,
            padding_id=s.optional("pad_token_id", 0),
            positions=(s.get("max_position_embeddings", 512), 0),
            norm=norm,
            dropout=dropout,
        ),
        num_layers=num_layers,
        layer=lambda i, **further: EncoderLayer(**options, **further),
        entries=tuple(entries),
        heads={
            "ForMaskedLM": masked_tokens(dim, activation, norm, tied=tied),
            "ForSequenceClassification": classes(
                count, dim=dim, activation=keras.activations.relu, dropout=s.get("seq_classif_dropout", 0.2)
            ),
            "ForTokenClassification": token_classes(count, dropout=dropout),
            "Model": hidden,
        },
        stddev=s.get("initializer_range", 0.02),
        output_bias=tied,
    )


RENAMED = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
HEADS = (r"(\w+\.)?pooler\..*", r"cls\..*", r"lm_head\..*", r"vocab_\w+\..*")  # of pretraining
FAMILIES = {
    "bert": Family(read_bert, "bert.", BUFFERS, HEADS, RENAMED),
    "distilbert": Family(read_distilbert, "distilbert.", BUFFERS, HEADS, RENAMED),
    "mpnet": Family(read_mpnet, "mpnet.", BUFFERS, HEADS, RENAMED),
    "roberta": Family(read_roberta, "roberta.", BUFFERS, HEADS, RENAMED),
    "xlm-roberta": Family(read_roberta, "roberta.", BUFFERS, HEADS, RENAMED),
}
