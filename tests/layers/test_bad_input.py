"""What cannot be is refused with a ValueError that names the layer, what it got and what it takes."""

import re

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .helpers import BATCH, CATALOGUE, DIM, HEAD_DIM, HEADS, INNER, LENGTH, MEMORY, MEMORY_DIM, VOCABULARY, X, build

FLAT = np.zeros((BATCH, DIM), "float32")


def refused(call, layer, got, takes):
    """Check that `call` raises ValueError, and that its message has all three."""
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert re.search(rf"{layer} '\w+'", message), message
    for part in (got, takes):
        assert str(part) in message, f"{part!r} is not in: {message}"


def named(layer):
    """Which layer a message may name: the layer itself, or, for encoder and decoder layers, a part of it."""
    blocks = "EncoderLayer", "DecoderLayer"
    return f"(?:{layer}|FeedForward|MultiHead(?:Self|Cross)Attention)" if layer in blocks else layer


# Constructors: class, arguments, what the message says it got, what it takes
CONSTRUCTORS = [
    ("TokenEmbedding", {"vocabulary_size": 0, "dim": DIM}, "got 0", "positive integer as vocabulary_size"),
    ("TokenEmbedding", {"vocabulary_size": VOCABULARY, "dim": -1}, "got -1", "positive integer as dim"),
    *(
        (
            "TokenEmbedding",
            {"vocabulary_size": VOCABULARY, "dim": DIM, "padding_id": bad},
            f"got {bad!r}",
            "an id from 0",
        )
        for bad in (-1, VOCABULARY, True, 1.0, "0")
    ),
    ("PositionalEncoding", {"max_wavelength": 0}, "got 0", "positive max_wavelength"),
    ("PositionalEncoding", {"offset": -1}, "got -1", "integer from 0 on as offset"),
    ("LearnedPositionalEncoding", {"max_length": 0}, "got 0", "positive integer as max_length"),
    ("RotaryPosition", {"max_wavelength": -2.0}, "got -2.0", "positive max_wavelength"),
    ("LearnedPositionalEncoding", {"max_length": 7, "offset": -1}, "got -1", "integer from 0 on as offset"),
    ("RotaryPosition", {"frequencies": [0.5, float("nan")]}, "got [0.5, nan]", "finite numbers as frequencies"),
    ("RotaryPosition", {"frequencies": 0.5}, "got 0.5", "a list of finite numbers as frequencies"),
    ("RotaryPosition", {"frequencies": [0.5], "max_wavelength": 7.0}, "got both: 7.0", "max_wavelength or frequencies"),
    ("RotaryPosition", {"magnitude": 0.0}, "got 0.0", "positive magnitude"),
    ("TokenEmbedding", {"vocabulary_size": VOCABULARY, "dim": DIM, "scale": -0.5}, "got -0.5", "positive scale"),
    ("RelativePosition", {"num_buckets": 7}, "got 7", "even num_buckets of at least 4"),
    ("RelativePosition", {"num_buckets": 8, "max_distance": 4}, "got 4", "max_distance above num_buckets / 2"),
    ("FeedForward", {"intermediate_dim": 0}, "got 0", "positive integer as intermediate_dim"),
    ("FeedForward", {"intermediate_dim": 2.5}, "got 2.5", "positive integer as intermediate_dim"),
    ("FeedForward", {"intermediate_dim": INNER, "dropout": 1.0}, "got 1.0", "rate in [0, 1) as dropout"),
    ("FeedForward", {"intermediate_dim": INNER, "activation": "rleu"}, "got 'rleu'", "'relu', 'gelu', 'silu'"),
    ("FeedForward", {"intermediate_dim": INNER, "gate_limit": 7.0}, "gate_limit=7.0", "with gated=True only"),
    ("FeedForward", {"intermediate_dim": INNER, "gated": True, "gate_limit": 0}, "got 0", "positive gate_limit"),
    ("MixtureOfExperts", {"num_experts": 0, "intermediate_dim": 7}, "got 0", "positive integer as num_experts"),
    ("MixtureOfExperts", {"num_experts": 3, "intermediate_dim": 0}, "got 0", "positive integer as intermediate_dim"),
    ("MixtureOfExperts", {"num_experts": 3, "intermediate_dim": 7, "top_k": 0}, "got 0", "positive integer as top_k"),
    ("MixtureOfExperts", {"num_experts": 3, "intermediate_dim": 7, "top_k": 5}, "top_k=5", "at most num_experts"),
    (
        "MixtureOfExperts",
        {"num_experts": 3, "intermediate_dim": 7, "capacity_factor": 0.0},
        "got 0.0",
        "positive capacity_factor",
    ),
    ("MixtureOfExperts", {"num_experts": 3, "intermediate_dim": 7, "z_loss": -1.0}, "got -1.0", "weight as z_loss"),
    ("PatchEmbedding", {"dim": 0, "patch_size": 7}, "got 0", "positive integer as dim"),
    ("PatchEmbedding", {"dim": DIM, "patch_size": 0}, "got 0", "positive integer as patch_size"),
    ("PatchEmbedding", {"dim": DIM, "patch_size": (2, 0)}, "got 0", "positive integer as patch_size"),
    ("PatchEmbedding", {"dim": DIM, "patch_size": (2, 3, 5)}, "got (2, 3, 5)", "height and width, as patch_size"),
    ("PatchEmbedding", {"dim": DIM, "patch_size": 2, "strides": 1.5}, "got 1.5", "positive integer as strides"),
    ("ConvolutionalSubsampling", {"dim": 0}, "got 0", "positive integer as dim"),
    ("ConvolutionalSubsampling", {"dim": DIM, "strides": ()}, "got ()", "a stride for each"),
    ("ConvolutionalSubsampling", {"dim": DIM, "strides": (2, 0)}, "got 0", "positive integer as strides"),
    ("ConvolutionalSubsampling", {"dim": DIM, "kernel_size": 0}, "got 0", "positive integer as kernel_size"),
    ("ConvolutionalSubsampling", {"dim": DIM, "activation": "rleu"}, "got 'rleu'", "'relu', 'gelu', 'silu'"),
    ("RMSNormalization", {"offset": "1"}, "got '1'", "a number as offset"),
    pytest.param(
        *("LayerNormalization", {"rms_scaling": True}, "no rms_scaling", "Use kt.RMSNormalization()"),
        marks=pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`"),  # Keras speaks first
    ),
    ("EncoderLayer", {"num_heads": HEADS}, "got None", "positive integer as intermediate_dim"),
    ("EncoderLayer", {"num_heads": HEADS, "feed_forward": 7}, "got 7", "a layer as feed_forward"),
    (
        "EncoderLayer",
        {"num_heads": HEADS, "intermediate_dim": INNER, "feed_forward": keras.layers.Dense(7)},
        f"intermediate_dim={INNER}",
        "or a feed_forward, which has them itself",
    ),
    ("MultiHeadSelfAttention", {"num_heads": 0}, "got 0", "positive integer as num_heads"),
    ("MultiHeadSelfAttention", {"num_heads": True}, "got True", "positive integer as num_heads"),
    ("MultiHeadSelfAttention", {"num_heads": HEADS, "head_dim": 0}, "got 0", "positive integer as head_dim"),
    ("MultiHeadSelfAttention", {"num_heads": HEADS, "window": 0}, "got 0", "positive integer as window"),
    ("MultiHeadSelfAttention", {"num_heads": HEADS, "window": -3}, "got -3", "positive integer as window"),
    ("MultiHeadSelfAttention", {"num_heads": HEADS, "soft_cap": 0.0}, "got 0.0", "positive soft_cap"),
    ("MultiHeadSelfAttention", {"num_heads": HEADS, "scale": -1.0}, "got -1.0", "positive scale"),
    ("MultiHeadSelfAttention", {"num_heads": HEADS, "qk_norm": "rms"}, "got 'rms'", "True, False or a layer"),
    ("MultiHeadSelfAttention", {"num_heads": HEADS, "qk_norm_over": "all"}, "got 'all'", "as qk_norm_over"),
    ("MultiHeadSelfAttention", {"num_heads": HEADS, "dropout": -0.1}, "got -0.1", "rate in [0, 1) as dropout"),
    ("MultiHeadSelfAttention", {"num_heads": HEADS, "position": "rotary"}, "got 'rotary'", "RotaryPosition()"),
    *(
        (name, {"num_heads": 3, "num_kv_heads": 2, **more}, "num_heads=3, num_kv_heads=2", "that divides num_heads")
        for name, more in [
            ("MultiHeadSelfAttention", {}),
            ("MultiHeadCrossAttention", {}),
            ("EncoderLayer", {"intermediate_dim": INNER}),
            ("DecoderLayer", {"intermediate_dim": INNER}),
        ]
    ),
    *(
        (name, {"num_heads": HEADS, "intermediate_dim": INNER, **bad}, got, takes)
        for name in ("EncoderLayer", "DecoderLayer")
        for bad, got, takes in [
            ({"intermediate_dim": 0}, "got 0", "positive integer as intermediate_dim"),
            ({"norm": "batch"}, "got 'batch'", "['layer', 'rms'] as norm"),
            ({"norm_placement": "middle"}, "got 'middle'", "['after', 'before', 'both', 'branch'] as norm_placement"),
            (
                {"norm_placement": "both", "normalize_first": True},
                "got both: 'both'",
                "normalize_first=True, which means",
            ),
            (
                {"norm": kt.RMSNormalization(), "norm_epsilon": 0.1},
                "norm_epsilon=0.1",
                "norm_epsilon or a layer as norm",
            ),
            ({"parallel_norms": 3}, "got 3", "1 or 2 norms as parallel_norms"),
            ({"parallel_norms": True}, "got True", "1 or 2 norms as parallel_norms"),
            (
                {"parallel_norms": 2, "norm_placement": "after"},
                "parallel_norms=2 and norm_placement='after'",
                "before sub-layers that are parallel",
            ),
            ({"activation": "rleu"}, "got 'rleu'", "'relu', 'gelu', 'silu'"),
            ({"window": 0}, "got 0", "positive integer as window"),
            ({"dropout": 1.5}, "got 1.5", "rate in [0, 1) as dropout"),
            ({"attention_dropout": 1.5}, "got 1.5", "rate in [0, 1) as attention_dropout"),
        ]
    ),
]


@pytest.mark.parametrize(("name", "arguments", "got", "takes"), CONSTRUCTORS, ids=lambda x: str(x))
def test_constructors(name, arguments, got, takes):
    refused(lambda: getattr(kt, name)(**arguments), named(name), got, takes)


# Shapes


@pytest.mark.parametrize(
    "name", ["PositionalEncoding", "LearnedPositionalEncoding", "FeedForward", "MultiHeadSelfAttention",
             "EncoderLayer", "DecoderLayer, without memory", "ConvolutionalSubsampling"],
)  # fmt: skip
@pytest.mark.parametrize("symbolic", [False, True], ids=["", "symbolic"])
@pytest.mark.parametrize("built", [False, True], ids=["", "built"])
def test_wrong_rank(name, symbolic, built):
    layer, _ = build(name) if built else CATALOGUE[name]()
    inputs = keras.Input((DIM,)) if symbolic else FLAT
    refused(lambda: layer(inputs), named(type(layer).__name__), f"{DIM})", "inputs of shape (batch, length, width)")


@pytest.mark.parametrize("make", [lambda: kt.MultiHeadCrossAttention(HEADS, HEAD_DIM),
                                  lambda: kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM)],
                         ids=["cross-attention", "decoder"])  # fmt: skip
def test_wrong_rank_of_the_memory(make):
    refused(lambda: make()(X, FLAT), "MultiHeadCrossAttention", f"{(BATCH, DIM)}", "memory of shape")


def test_more_frequencies_than_pairs():
    layer = kt.MultiHeadSelfAttention(HEADS, 5, position=kt.RotaryPosition(frequencies=[1.0, 0.5, 0.1]))
    refused(lambda: layer(X), "RotaryPosition", "got 5", "3 frequencies")


def test_another_axis_than_the_last():
    refused(lambda: kt.LayerNormalization(axis=1)(X), "LayerNormalization", "axis=1", "the last axis")


def test_parallel_sublayers_have_no_memory():
    layer = kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM, parallel_norms=2)
    refused(lambda: layer(X, MEMORY), "DecoderLayer", "parallel_norms=2 and a memory", "Call it without a memory")


def test_what_has_no_patches():
    refused(lambda: kt.PatchEmbedding(DIM, 2)(FLAT), "PatchEmbedding", f"got {FLAT.shape}", "(batch, steps, channels)")
    refused(lambda: kt.PatchEmbedding(DIM, 7)(X), "PatchEmbedding", f"got {X.shape}", "at least one patch, (7,)")
    refused(lambda: kt.PatchEmbedding(DIM, (2, 3))(X), "PatchEmbedding", "got (2, 3)", "one number as the size")
    unknown = keras.Input((None, None))
    refused(lambda: kt.PatchEmbedding(DIM, 2)(unknown), "PatchEmbedding", "got (None, None, None)", "a known number")
    layer, (image,) = build("PatchEmbedding, image")
    refused(lambda: layer(image[..., :1]), "PatchEmbedding", "got (3, 5, 7, 1)", "inputs of 2 channels")
    refused(lambda: layer(image[..., 0]), "PatchEmbedding", "got (3, 5, 7)", "(batch, height, width, channels)")
    refused(lambda: layer(image, mask=np.ones((BATCH, LENGTH))), "PatchEmbedding", "an image", "with a series only")


def test_wrong_rank_of_ids():
    layer = kt.TokenEmbedding(VOCABULARY, DIM)
    refused(
        lambda: layer(keras.Input((None, 2), dtype="int32")), "TokenEmbedding", "got (None, None, 2)", "ids of shape"
    )
    refused(lambda: layer(np.ones((2, 3, 5), "int32")), "TokenEmbedding", "got (2, 3, 5)", "ids of shape")


@pytest.mark.parametrize(
    "make",
    [
        lambda: kt.MultiHeadSelfAttention(HEADS),
        lambda: kt.EncoderLayer(HEADS, INNER),
        lambda: kt.DecoderLayer(HEADS, INNER),
    ],
    ids=["attention", "encoder", "decoder"],
)
def test_width_that_the_heads_do_not_divide(make):
    refused(lambda: make()(X), "MultiHeadSelfAttention", f"got width {DIM} and num_heads={HEADS}", "divides the width")


def test_wrong_width_of_the_memory():
    for name in ("MultiHeadCrossAttention", "DecoderLayer"):
        layer, _ = build(name)
        takes = f"memory of width {MEMORY_DIM}"
        refused(lambda layer=layer: layer(X, X), "MultiHeadCrossAttention", f"got width {DIM}", takes)


def test_wrong_width_of_the_inputs():
    wider = np.zeros((BATCH, LENGTH, MEMORY_DIM), "float32")
    for name in ("MultiHeadSelfAttention", "EncoderLayer"):
        layer, _ = build(name)
        refused(lambda layer=layer: layer(wider), "MultiHeadSelfAttention", f"got width {MEMORY_DIM}", f"width {DIM}")


def test_wrong_width_in_reverse():
    layer = kt.TokenEmbedding(VOCABULARY, DIM)
    refused(lambda: layer(MEMORY, reverse=True), "TokenEmbedding", f"got width {MEMORY_DIM}", f"of width {DIM}")


def test_unknown_width():
    layer = kt.MultiHeadSelfAttention(HEADS)
    refused(lambda: layer(keras.Input((None, None))), "MultiHeadSelfAttention", "(None, None, None)", "known width")


@pytest.mark.parametrize(
    "shape", [(BATCH,), (LENGTH, LENGTH + 2), (BATCH, LENGTH + 2, LENGTH), (BATCH, HEADS + 1, LENGTH, LENGTH),
              (BATCH + 1, 1, LENGTH, LENGTH), (1, BATCH, HEADS, LENGTH, LENGTH)], ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", ["MultiHeadSelfAttention", "EncoderLayer", "DecoderLayer, without memory"])
def test_wrong_shape_of_an_attention_mask(name, shape):
    layer, _ = build(name)
    takes = f"(B, heads, T, S) = {(BATCH, HEADS, LENGTH, LENGTH)}"
    refused(lambda: layer(X, attention_mask=np.ones(shape, bool)), "MultiHeadSelfAttention", f"got {shape}", takes)


def test_wrong_shape_of_an_attention_mask_over_a_memory():
    layer, inputs = build("MultiHeadCrossAttention")
    mask = np.ones((LENGTH, LENGTH), bool)
    refused(lambda: layer(*inputs, attention_mask=mask), "MultiHeadCrossAttention", f"got {mask.shape}", "(T, S)")


@pytest.mark.parametrize("shape", [(BATCH, LENGTH + 2), (BATCH + 2, LENGTH), (BATCH, LENGTH, 1), (LENGTH,)], ids=str)
@pytest.mark.parametrize("argument", ["mask", "segment_ids"])
def test_wrong_shape_of_a_padding_mask_or_of_segments(argument, shape):
    layer, _ = build("MultiHeadSelfAttention")
    value = np.ones(shape, "bool" if argument == "mask" else "int32")
    refused(lambda: layer(X, **{argument: value}), "MultiHeadSelfAttention", f"got {shape}", f"{argument} of shape")


@pytest.mark.parametrize("name", ["EncoderLayer", "DecoderLayer, without memory"])
def test_wrong_shape_of_a_padding_mask_of_a_block(name):
    layer, _ = build(name)
    mask = np.ones((BATCH, LENGTH + 2), bool)
    refused(lambda: layer(X, mask=mask), "MultiHeadSelfAttention", f"got {mask.shape}", "mask of shape")


@pytest.mark.parametrize("argument", ["memory_mask", "memory_segment_ids"])
@pytest.mark.parametrize("name", ["MultiHeadCrossAttention", "DecoderLayer"])
def test_wrong_shape_of_a_padding_mask_or_of_segments_of_a_memory(name, argument):
    layer, inputs = build(name)
    values = {"segment_ids": np.ones((BATCH, LENGTH), "int32"), argument: np.ones((BATCH, LENGTH), "int32")}
    takes = f"{argument} of shape"
    refused(lambda: layer(*inputs, **values), "MultiHeadCrossAttention", f"got {(BATCH, LENGTH)}", takes)


@pytest.mark.parametrize("given", ["segment_ids", "memory_segment_ids"])
@pytest.mark.parametrize("name", ["MultiHeadCrossAttention", "DecoderLayer"])
def test_segments_of_one_side_only(name, given):
    layer, inputs = build(name)
    segments = np.ones(inputs[given.startswith("memory")].shape[:2], "int32")
    refused(lambda: layer(*inputs, **{given: segments}), "MultiHeadCrossAttention", given, "both")


# Positions and ids


@pytest.mark.parametrize("symbolic", [False, True], ids=["", "symbolic"])
def test_odd_rotary_width(symbolic):
    layer = kt.MultiHeadSelfAttention(HEADS, 7, position=kt.RotaryPosition())
    inputs = keras.Input((None, DIM)) if symbolic else X
    refused(lambda: layer(inputs), "RotaryPosition", "got 7", "even head width")


@pytest.mark.parametrize("symbolic", [False, True], ids=["", "symbolic"])
def test_more_tokens_than_a_learned_table_has(symbolic):
    layer = kt.LearnedPositionalEncoding(3)
    inputs = keras.Input((LENGTH, DIM)) if symbolic else X
    refused(lambda: layer(inputs), "LearnedPositionalEncoding", f"sequence of {LENGTH}", "holds 3 positions")


@pytest.mark.parametrize("bad", [VOCABULARY, VOCABULARY + 7, -1])
def test_ids_out_of_the_vocabulary(bad):
    layer = kt.TokenEmbedding(VOCABULARY, DIM)
    takes = f"ids from 0 to {VOCABULARY - 1}"
    refused(lambda: layer(np.array([[1, bad]])), "TokenEmbedding", bad, takes)


def test_a_position_shared_by_layers_of_other_shapes():
    position = kt.RelativePosition()
    kt.MultiHeadSelfAttention(HEADS, HEAD_DIM, position=position)(X)
    layer = kt.MultiHeadSelfAttention(3, HEAD_DIM, position=position)
    refused(lambda: layer(X), "MultiHeadSelfAttention", f"3 heads of width {HEAD_DIM}", "one of its own")


def test_a_memory_that_comes_or_goes():
    built_with, inputs = build("DecoderLayer")
    refused(lambda: built_with(X), "DecoderLayer", "without one", "built with a memory")
    built_without, _ = build("DecoderLayer, without memory")
    refused(lambda: built_without(*inputs), "DecoderLayer", "called with one", "built without a memory")


# Additive masks

ADDITIVE = np.where(np.arange(LENGTH) < 3, 0.0, -1e9).astype("float32") + np.zeros((BATCH, 1), "float32")
TAKE_MASKS = {
    "MultiHeadSelfAttention": ("mask", "inputs_mask", "attention_mask"),
    "MultiHeadCrossAttention": ("memory_mask", "attention_mask"),
    "EncoderLayer": ("mask", "inputs_mask", "attention_mask"),
    "DecoderLayer": ("mask", "memory_mask", "attention_mask", "memory_attention_mask"),
    "RecurrentDecoderLayer": ("mask", "inputs_mask"),
    "ReversibleNormalization": ("mask", "inputs_mask"),
    "DotAttention": ("memory_mask",),
    "ClassToken": ("mask",),
    "ConvolutionalSubsampling": ("mask",),
    "MaskedPooling": ("mask",),
    "PatchEmbedding": ("mask",),
}


@pytest.mark.parametrize("name, argument", [(name, one) for name, names in TAKE_MASKS.items() for one in names])
def test_an_additive_mask_is_refused_by_the_layer_that_is_given_it(name, argument):
    layer, inputs = build(name)
    other = inputs[-1].shape[1] if argument.startswith("memory") or "Cross" in name else LENGTH
    mask = ADDITIVE[:, :1] + np.zeros((BATCH, other), "float32")
    if "attention" in argument:
        mask = np.full((inputs[0].shape[1], other), -np.inf, "float32")
    mask = mask - np.float32(1e4)
    refused(lambda: layer(*inputs, **{argument: mask}), name, mask.ravel()[0], f"`{argument} == 0`")


@pytest.mark.parametrize("name", [name for name, arguments in TAKE_MASKS.items() if "mask" in arguments])
def test_an_additive_mask_that_only_a_compiled_function_knows_gives_nan(name, assert_close):
    layer, inputs = build(name)
    sequence, mask = keras.Input(inputs[0].shape[1:]), keras.Input((LENGTH,))
    memory = keras.Input(inputs[-1].shape[1:])
    outputs = layer(*([sequence, memory][: len(inputs)]), mask=mask)
    model = keras.Model([sequence, memory, mask], outputs)
    good = np.where(ADDITIVE == 0, 1.0, 0.0).astype("float32")
    rest = [inputs[0], inputs[-1]]
    assert_close(model.predict([*rest, good], verbose=0), layer(*inputs, mask=good.astype(bool)), 1e-5)
    if keras.backend.backend() != "torch":  # which runs eagerly, and refuses it
        assert np.isnan(model.predict([*rest, ADDITIVE], verbose=0)).all()


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name", ["PositionalEncoding", "EncoderLayer", "FeedForward", "MaskedPooling", "PatchEmbedding"]
)
def test_ragged_sequences(name):
    import tensorflow as tf

    layer = {"EncoderLayer": lambda: kt.EncoderLayer(2, 7), "FeedForward": lambda: kt.FeedForward(7)}
    layer["PatchEmbedding"] = lambda: kt.PatchEmbedding(7, 2)
    layer = layer.get(name, getattr(kt, name))()
    ragged = tf.RaggedTensor.from_row_lengths(tf.ones((5, 6)), [3, 2])
    refused(lambda: layer(ragged), name, "a ragged one", "ids.to_tensor(padding_id)")


@pytest.mark.tensorflow
@pytest.mark.parametrize("padding_id, fill", [(0, 0), (5, 5), (None, 0)])
def test_ragged_ids(padding_id, fill):
    import tensorflow as tf

    ragged = tf.ragged.constant([[7, 3, 2], [4]])
    layer = kt.TokenEmbedding(VOCABULARY, DIM, padding_id=padding_id)
    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(tokens, keras.layers.Dense(VOCABULARY)(layer(tokens)))
    model.compile("sgd", kt.training.SequenceCrossentropy())
    runs = [layer, model, lambda x: model.predict(x, verbose=0), lambda x: model.fit(x, x.to_tensor(), verbose=0)]
    for run in runs:
        refused(lambda run=run: run(ragged), "TokenEmbedding", "a ragged one", f"ids.to_tensor({fill})")
    model(ragged.to_tensor(fill))


def test_lists_of_ids():
    model = kt.models.language_model(VOCABULARY, num_layers=1, dim=8, num_heads=2)
    layer = kt.TokenEmbedding(VOCABULARY, DIM)
    for ids in ([[7, 3, 2], [4]], [[7, 3], [2, 4]]):
        refused(lambda ids=ids: layer(ids), "TokenEmbedding", "a list", "keras.utils.pad_sequences")
        with pytest.raises(ValueError, match=r"'language_model' takes arrays.*pad_sequences"):
            model(ids)
