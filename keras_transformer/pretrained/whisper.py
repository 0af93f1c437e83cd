"""Whisper: log-mel features through two convolutions, and a decoder of text."""

from functools import partial

import keras

from keras_transformer.layers import LayerNormalization
from keras_transformer.pretrained.bart import layer_entries, position_entries, read_layers
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.decoder import learned_positions
from keras_transformer.pretrained.encoder_decoder import EncoderDecoder, Stack
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.initializers import PretrainedNormal
from keras_transformer.pretrained.layouts import SAME, TRANSPOSED, Entry, dense, layer_norm

# Of models that classify sounds, of the times of words, and of masks in training, which `apply_spec_augment` asks for.
OF_OTHERS = """
    use_weighted_layer_sum classifier_proj_size median_filter_width mask_time_prob mask_time_length mask_time_min_masks
    mask_feature_prob mask_feature_length mask_feature_min_masks scale_embedding
""".split()

OF_TIMES = ("alignment_heads", "max_initial_timestamp_index", "is_multilingual", "prev_sot_token_id")


def convolve(features, dtype, *, dim: int, stddev: float):
    """(B, 2 S, mel) to (B, S, D): each convolution sees its neighbours, with zeros at both ends."""
    x = features
    for i, stride in enumerate((1, 2)):
        options = {"data_format": "channels_last", "dtype": dtype}
        x = keras.layers.ZeroPadding1D(1, name=f"padding_{i}", **options)(x)
        x = keras.layers.Conv1D(
            dim,
            3,
            strides=stride,
            activation="gelu",
            kernel_initializer=PretrainedNormal(stddev=stddev),
            name=f"convolution_{i}",
            **options,
        )(x)
    return x


def read_whisper(s: Settings) -> EncoderDecoder:
    """All sizes. The features' length is fixed, 30 seconds of sound."""
    s.only("apply_spec_augment", False, why="as features are not masked in training; without it the model is the same")
    s.skip(*OF_OTHERS)
    dim, stddev = s["d_model"], s.get("init_std", 0.02)
    source_length, target_length = s.get("max_source_positions", 1500), s.get("max_target_positions", 448)
    counts, layers = read_layers(s, norm_placement="before")
    norm = partial(LayerNormalization, epsilon=1e-5)
    sources = partial(learned_positions, source_length, 0, stddev=stddev, trainable=False)
    targets = partial(learned_positions, target_length, 0, stddev=stddev)
    table = Entry("embedding/embeddings", ("decoder.embed_tokens.weight",), SAME, (":proj_out.weight",))
    return EncoderDecoder(
        vocabulary_size=s["vocab_size"],
        dim=dim,
        encoder=Stack(num_layers=counts["encoder"], layer=layers["encoder"], position=sources, norm=norm),
        decoder=Stack(num_layers=counts["decoder"], layer=layers["decoder"], position=targets, norm=norm),
        entries=(
            table,
            Entry("logits/kernel", (":proj_out.weight",), TRANSPOSED),
            *position_entries(),
            *dense("convolution_0", "encoder.conv1"),
            *dense("convolution_1", "encoder.conv2"),
            *layer_norm("encoder_norm", "encoder.layer_norm"),
            *layer_norm("decoder_norm", "decoder.layer_norm"),
            *layer_entries(counts, dim, key_bias=False),
        ),
        features=((2 * source_length, s.get("num_mel_bins", 80)), partial(convolve, dim=dim, stddev=stddev)),
        tied=s.get("tie_word_embeddings", True),
        dropout=s.get("dropout", 0.0),
        stddev=stddev,
    )


def read_forced(s: Settings) -> dict[int, int | list[int]]:
    """The tokens that follow the start, by position: the language, the task, and that no times are written.

    Raises:
        ValueError: If times are asked for, or the language or the task is not known.
    """
    s.only("return_timestamps", False, why="as text without times is what is written here")
    s.skip(*OF_TIMES)
    languages, tasks = (dict(s.get(name) or {}) for name in ("lang_to_id", "task_to_id"))
    language, task, no_times = s.get("language"), s.get("task"), s.get("no_timestamps_token_id")
    given = sorted(s.get("forced_decoder_ids") or [])
    tokens: list = [] if language or task else [token for _, token in given]
    if language:
        key = language if language in languages else f"<|{language}|>"
        tokens = [_known(s, "language", key, languages)]
    elif languages and (not tokens or tokens[0] is None):
        tokens[:1] = [sorted(languages.values())]  # the most probable one
    if task or (language and tasks):
        tokens.append(_known(s, "task", task or "transcribe", tasks))
    tokens = [token for token in tokens if token is not None]
    if no_times is not None and tokens[-1:] != [no_times]:
        tokens.append(no_times)
    return dict(enumerate(tokens, 1))


def _known(s: Settings, name: str, value: str, table: dict) -> int:
    if value not in table:
        raise ValueError(f"{s.where} has {name}={value!r}; known are {', '.join(sorted(table))}.")
    return table[value]


FAMILIES = {"whisper": Family(read_whisper, "model.")}
