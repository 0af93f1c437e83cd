"""A mixture of experts equals its formula however it is computed, each token by itself, for the work of k experts."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.ops import experts

from . import oracle
from .helpers import DIM, HEADS, INNER, MASK, WIDE, X, as_numpy, gradients, influence, randomize, weight_gradients

BACKEND = keras.backend.backend()
WAYS = {
    "tensorflow": ["split", "loop", "at once", "xla"],
    "jax": ["loop", "at once", "ragged"],
    "torch": ["split", "at once"],
}[BACKEND]
EXPERTS, TOKENS, CHOICES, OUT = 7, 61, 3, 17

random = np.random.default_rng(7)
ROWS = random.normal(size=(TOKENS, DIM)).astype("float32")
KERNELS = random.normal(size=(EXPERTS, DIM, OUT)).astype("float32")
BIASES = random.normal(size=(EXPERTS, OUT)).astype("float32")
WEIGHTS = random.uniform(size=(TOKENS, CHOICES)).astype("float32")
CHOSEN = np.argsort(random.normal(size=(TOKENS, EXPERTS)), axis=1)[:, :CHOICES].astype("int32")
CHOSEN[:40] = [2, 0, 5]  # some have much to do, one has nothing
CHOSEN[40:] = np.where(CHOSEN[40:] == 6, 3, CHOSEN[40:])
REAL = random.uniform(size=TOKENS) < 0.7


def layer_on_x(x=X, **options):
    layer = kt.MixtureOfExperts(EXPERTS, INNER, **options)
    layer(x)
    randomize(layer)
    return layer


# The products


@pytest.mark.parametrize("real", [None, REAL], ids=["", "padded"])
@pytest.mark.parametrize("way", WAYS)
def test_all_ways_to_multiply_equal_the_formula(way, real, monkeypatch, assert_close):
    monkeypatch.setattr(experts, "LEAST", 5)  # several blocks an expert
    if way != "xla":
        monkeypatch.setattr(experts, "_way", lambda: way)

    def mixed(x, kernels, biases, weights):
        slots = experts.dispatch(ops.convert_to_tensor(CHOSEN), EXPERTS, real=real)
        return slots.collect(slots.product(slots.spread(x), kernels, biases), weights)

    def by_formula(x, kernels, biases, weights):
        chosen = ops.one_hot(CHOSEN, EXPERTS, dtype="float32") * ops.expand_dims(weights, 2)
        share = ops.sum(chosen, axis=1) * (1.0 if real is None else ops.cast(real[:, None], "float32"))  # (N, E)
        return ops.einsum("ne,enf->nf", share, ops.einsum("nd,edf->enf", x, kernels) + ops.expand_dims(biases, 1))

    function = mixed
    if way == "xla":
        import tensorflow as tf

        function = tf.function(mixed, jit_compile=True)
    cotangent = np.random.default_rng(3).normal(size=(TOKENS, OUT)).astype("float32")
    inputs = ROWS, KERNELS, BIASES, WEIGHTS
    assert_close(function(*map(ops.convert_to_tensor, inputs)), by_formula(*inputs))
    found, wanted = (gradients(f, *inputs, cotangents=[cotangent]) for f in (function, by_formula))
    assert_close(found, wanted, 3e-5)


@pytest.mark.skipif(BACKEND == "jax", reason="traces what it multiplies once")
@pytest.mark.parametrize("way", [way for way in WAYS if way != "xla"])
def test_the_work_does_not_grow_with_the_number_of_experts(way, monkeypatch):
    rows, multiplied, matmul = 1024, {}, ops.matmul
    x = np.random.default_rng(3).normal(size=(1, rows, DIM)).astype("float32")
    monkeypatch.setattr(experts, "_way", lambda: way)
    for count in (4, 64):
        layer = kt.MixtureOfExperts(count, INNER, top_k=CHOICES)
        layer.build(x.shape)
        done = []

        def counting(a, b, done=done):
            done.append(np.prod(a.shape))
            return matmul(a, b)

        monkeypatch.setattr(experts.ops, "matmul", counting)
        layer(x)
        monkeypatch.setattr(experts.ops, "matmul", matmul)
        _, *products = done if done[0] == rows * DIM else [None, *done]  # that of the router
        multiplied[count] = sum(products) / (CHOICES * rows * (DIM + INNER))
    most = 1.0 if way == "split" else 1.7  # some slots of a block are empty
    assert all(1.0 <= share <= most for share in multiplied.values()), multiplied


@pytest.mark.skipif(BACKEND != "jax", reason="asks JAX's compiler")
def test_the_compiled_work_does_not_grow_with_the_number_of_experts(monkeypatch):
    import jax

    monkeypatch.setattr(experts, "_way", lambda: "at once")
    work = {}
    for count in (4, 16):
        layer = kt.MixtureOfExperts(count, 64)
        layer.build((1, 512, 32))
        x = ops.zeros((1, 512, 32))
        work[count] = jax.jit(layer).lower(x).compile().cost_analysis()["flops"]
    assert work[16] < 1.5 * work[4]


# The layer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gated": True, "activation": "silu", "use_bias": False},
        {"top_k": 1, "normalize": False, "activation": "gelu"},
        {"top_k": EXPERTS, "activation": "tanh"},
        {"gated": True, "activation": "quick_gelu", "gate_limit": 0.7, "gate_offset": 1.0, "router_bias": True},
    ],
    ids=["", "gated", "one", "all", "gpt-oss"],
)
def test_equals_the_oracle(options, assert_close):
    if options.get("activation") == "gelu":
        options = {**options, "activation": lambda x: keras.activations.gelu(x, approximate=False)}
    layer = layer_on_x(**options)
    options = {name: x for name, x in options.items() if name not in ("use_bias", "router_bias")}
    if callable(options.get("activation")):
        options["activation"] = "gelu"
    assert_close(layer(X), oracle.mixture(oracle.weights_of(layer), X, **options))


@pytest.mark.long
def test_equals_keras_hubs_mixtral_with_its_gradients(assert_close):
    mixtral = pytest.importorskip("keras_hub.src.models.mixtral.mixtral_decoder")
    peer = mixtral.MixtralSparseMoeBlock(DIM, INNER, EXPERTS, 2, 0.0)
    peer.build(X.shape)
    randomize(peer)
    layer = layer_on_x(activation="silu", gated=True, use_bias=False)
    gate, inner, outer = (
        getattr(peer.expert_bank, f"_expert_feedforward_{name}_dense").numpy()
        for name in ("gate", "intermediate", "output")
    )
    layer.router.assign(peer._sparse_feedforward_gate_dense.kernel)
    layer.inner.kernel.assign(np.concatenate([gate, inner], axis=-1))
    layer.outer.kernel.assign(outer)
    assert_close(layer(X), peer(X)[0])
    cotangents = [np.random.default_rng(3).normal(size=X.shape).astype("float32")]
    assert_close(*(gradients(f, X, cotangents=cotangents) for f in (layer, lambda x: peer(x)[0])), 1e-4)
    ours, theirs = (list(weight_gradients(one, lambda f=f: f(X)).values()) for one, f in (
        (layer, layer), (peer, lambda x: peer(x)[0])
    ))  # fmt: skip
    by_shape = {gradient.shape: gradient for gradient in theirs if gradient.shape != gate.shape}
    for gradient in ours:
        if gradient.shape in by_shape:
            assert_close(gradient, by_shape[gradient.shape], 1e-4)
    halves = np.split(next(x for x in ours if x.shape[-1] == 2 * INNER), 2, axis=-1)
    assert_close(halves, [gradient for gradient in theirs if gradient.shape == gate.shape], 1e-4)


def test_the_losses_equal_their_formulas_over_the_real_tokens(assert_close):
    layer = layer_on_x(top_k=2, balance_loss=0.3, z_loss=0.7)
    layer(X, mask=MASK, training=False)
    assert not layer.losses
    layer(X, mask=MASK, training=True)
    logits = X[MASK].astype("float64") @ oracle.weights_of(layer)["router"]
    chosen = np.argsort(-logits, axis=1)[:, :2]
    shares = np.bincount(chosen.ravel(), minlength=EXPERTS) / chosen.size
    total = np.exp(logits).sum(1, keepdims=True)
    balance = EXPERTS * (shares * (np.exp(logits) / total).mean(0)).sum()
    assert_close(list(layer.losses), [0.3 * balance, 0.7 * (np.log(total) ** 2).mean()])


def test_losses_of_one_expert_and_of_padding_alone():
    layer = layer_on_x(balance_loss=1.0, z_loss=0.0)
    layer.router.assign(np.zeros(layer.router.shape))
    layer(X, training=True)
    np.testing.assert_allclose(as_numpy(layer.losses[0]), 1.0, rtol=1e-6)  # all alike
    layer = layer_on_x()
    layer(X, mask=np.zeros_like(MASK), training=True)
    assert [float(x) for x in layer.losses] == [0.0, 0.0]


def test_training_spreads_the_tokens_over_the_experts():
    layer = kt.MixtureOfExperts(EXPERTS, INNER, top_k=1, normalize=False, balance_loss=1.0)
    x = np.random.default_rng(3).normal(size=(1, 256, DIM)).astype("float32") + 1.0
    inputs = keras.Input((None, DIM))
    model = keras.Model(inputs, layer(inputs))
    layer.router.assign(0.1 * np.eye(DIM, EXPERTS) + np.eye(1, EXPERTS))  # the first gets almost all

    def busiest():
        chosen = np.argmax(x[0] @ as_numpy(layer.router.value), axis=1)
        return np.bincount(chosen, minlength=EXPERTS).max() / len(chosen)

    before = busiest()
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, x, epochs=60, verbose=0)
    assert before > 0.9 and busiest() < 0.5


def test_each_token_is_by_itself(assert_close):
    layer = layer_on_x()
    seen = influence(layer, X)
    assert (seen == np.eye(X.shape[1], dtype=bool)).all()
    whole = as_numpy(layer(X))
    assert_close(layer(X[1:2, 3:4]), whole[1:2, 3:4])
    padded = as_numpy(layer(X, mask=MASK))
    assert_close(padded[MASK], whole[MASK])
    assert not padded[~MASK].any()


def test_capacity_drops_while_training_only(assert_close):
    layer = layer_on_x(top_k=2, capacity_factor=0.5)
    free = kt.MixtureOfExperts(EXPERTS, INNER)
    free.build(X.shape)
    free.set_weights(layer.get_weights())
    assert_close(layer(X), free(X))
    weights, count = oracle.weights_of(layer), X.shape[0] * X.shape[1]
    tokens = X.reshape(count, DIM)
    logits = tokens @ weights["router"]
    chosen, room = np.argsort(-logits, axis=1)[:, :2], int(np.ceil(0.5 * 2 * count / EXPERTS))
    expected, taken = np.zeros((count, DIM)), np.zeros(EXPERTS, int)
    for choice in range(2):
        for n in range(count):
            e = chosen[n, choice]
            taken[e] += 1
            if taken[e] <= room:
                inner, outer = (oracle.below(weights, f"experts_{part}") for part in ("inner", "outer"))
                p = np.exp(logits[n, e]) / np.exp(logits[n, chosen[n]]).sum()
                hidden = np.maximum(tokens[n] @ inner["kernel"][e] + inner["bias"][e], 0)
                expected[n] += p * (hidden @ outer["kernel"][e] + outer["bias"][e])
    assert (taken > room).any()
    assert_close(layer(X, training=True), expected.reshape(X.shape))


def test_each_expert_has_an_initializer_regularizer_and_constraint_by_itself():
    layer = kt.MixtureOfExperts(
        3,
        200,
        kernel_initializer=keras.initializers.GlorotUniform(seed=5),
        kernel_regularizer=keras.regularizers.OrthogonalRegularizer(0.1),
        kernel_constraint=keras.constraints.UnitNorm(axis=0),
    )
    layer.build((None, None, 100))
    kernel = layer.inner.kernel.numpy()
    assert abs(kernel.std() / (2 / (100 + 200)) ** 0.5 - 1) < 0.03
    assert len({matrix[0, 0] for matrix in kernel}) == 3
    assert np.isfinite(sum(float(x) for x in layer.losses))
    constrained = as_numpy(layer.inner.kernel.constraint(ops.convert_to_tensor(kernel)))
    np.testing.assert_allclose(np.linalg.norm(constrained, axis=1), 1.0, rtol=1e-4)


def test_the_router_computes_in_float32():
    layer = kt.MixtureOfExperts(EXPERTS, INNER, dtype="mixed_bfloat16")
    output = layer(X, training=True)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    assert {keras.backend.standardize_dtype(x.dtype) for x in layer.losses} == {"float32"}


@pytest.mark.filterwarnings("ignore:The matrices of the experts .*_outer")
def test_quantize_says_what_it_leaves_alone():
    inputs = keras.Input((None, DIM))
    model = keras.Model(inputs, kt.MixtureOfExperts(3, INNER)(inputs))
    with pytest.warns(UserWarning, match="experts_inner' stay in float"):
        model.quantize("int8")


# Within other layers


@pytest.mark.long
@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_remat_keeps_the_losses_and_their_gradients(dropout, assert_close):
    ids = np.random.default_rng(3).integers(1, 13, (5, 11)).astype("int32")
    found = []
    for wrap in (lambda layer: layer, kt.training.Remat):
        keras.utils.set_random_seed(3)
        tokens = keras.Input((None,), dtype="int32")
        x = kt.TokenEmbedding(13, WIDE)(tokens)
        mixture = kt.MixtureOfExperts(5, INNER, balance_loss=1.0, z_loss=0.1)
        x = wrap(kt.DecoderLayer(HEADS, dropout=dropout, feed_forward=mixture))(x)
        model = keras.Model(tokens, keras.layers.Dense(13)(x))
        model.compile(keras.optimizers.SGD(0.5), kt.training.SequenceCrossentropy(), jit_compile=False)
        history = model.fit(ids, np.roll(ids, -1, 1), batch_size=5, epochs=3, verbose=0).history["loss"]
        found.append((history, as_numpy(mixture.router.value)))
    assert found[0][0][0] > np.log(13) + 0.9  # the losses are in there
    assert_close(found[1], found[0], 1e-4)


@pytest.mark.long
def test_any_layer_may_be_the_feed_forward_and_one_may_be_shared(assert_close, tmp_path):
    shared = kt.MixtureOfExperts(3, INNER)
    inputs = keras.Input((None, WIDE))
    x = kt.EncoderLayer(HEADS, feed_forward=shared)(inputs)
    x = kt.EncoderLayer(HEADS, feed_forward=shared)(x)
    model = keras.Model(inputs, kt.EncoderLayer(HEADS, feed_forward=keras.layers.Dense(WIDE))(x))
    assert len([w for w in model.weights if w.path.endswith("router")]) == 1
    model.save(tmp_path / "model.keras")
    clone = keras.models.load_model(tmp_path / "model.keras")
    assert clone.layers[1].feed_forward is clone.layers[2].feed_forward
    x = np.random.default_rng(3).normal(size=(2, 5, WIDE)).astype("float32")
    assert_close(clone(x), model(x))


def test_a_feed_forward_of_another_width_is_refused():
    with pytest.raises(ValueError, match=f"keeps the width of its input, {WIDE}.*puts out 1"):
        kt.EncoderLayer(HEADS, feed_forward=keras.layers.Dense(1))(keras.Input((None, WIDE)))


# Generation


def language_model(**options):
    model = kt.models.language_model(
        23, num_layers=2, dim=12, num_heads=2, dropout=0.0,
        feed_forward=lambda: kt.MixtureOfExperts(5, INNER, gated=True, activation="silu", **options),
    )  # fmt: skip
    randomize(model)
    return model


@pytest.mark.long
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(None, id="greedy"),
        pytest.param(lambda: kt.BeamSearch(3), id="beams"),
        pytest.param(lambda: kt.Sampling(seed=2), id="sampling", marks=pytest.mark.slow),
        pytest.param(lambda: kt.ContrastiveSearch(3, 0.5), id="contrastive", marks=pytest.mark.slow),
    ],
)
def test_generates_the_same_with_a_cache_and_without(strategy):
    model, tokens = language_model(capacity_factor=1.0), []
    for cache in (True, False):
        options = {} if strategy is None else {"strategy": strategy()}
        if not cache and options.get("strategy").__class__.__name__ == "ContrastiveSearch":
            break
        generator = kt.Generator(model, start_token=1, end_token=2, max_length=9, cache=cache, **options)
        tokens.append(as_numpy(generator([[3, 4, 5], [7, 8], [11]])["tokens"]))
    assert len(np.unique(tokens[0])) > 4
    np.testing.assert_array_equal(tokens[0], tokens[-1])


@pytest.mark.xla
@pytest.mark.long
def test_generates_under_xla_what_the_full_model_says():
    model = language_model()
    generator = kt.Generator(model, start_token=1, end_token=None, max_length=7)
    tokens = as_numpy(generator([[3, 4, 5], [7]])["tokens"])[:, 0]
    best = 1 + as_numpy(model(tokens))[:, :-1, 1:].argmax(-1)  # padding is never chosen
    for row, length in zip(range(2), (3, 1), strict=True):
        np.testing.assert_array_equal(tokens[row, length:], best[row, length - 1 :])
