"""Training in half precision, as Keras does it, reaches the validation loss of float32."""

import keras
import numpy as np
import pytest

import keras_transformer as kt


def reversals(seed, count):
    ids = np.random.default_rng(seed).integers(3, 11, (count, 5))
    targets = np.concatenate([np.full((count, 1), 2), ids[:, ::-1]], axis=1)
    return [ids, targets[:, :-1]], targets[:, 1:]


@pytest.mark.slow
def test_reaches_the_loss_of_float32():
    losses = {}
    for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(3)
        model = kt.models.transformer(11, 11, num_layers=1, dim=32, num_heads=2, intermediate_dim=64, dropout=0.0)
        model.compile(keras.optimizers.Adam(3e-3), kt.training.SequenceCrossentropy(label_smoothing=0.1))
        history = model.fit(
            *reversals(1, 4096), validation_data=reversals(2, 512), batch_size=64, epochs=8, shuffle=False, verbose=0
        )
        losses[policy] = history.history["val_loss"][-1]
    assert losses["float32"] < 1.0  # log 11 = 2.4 before training
    for loss in losses.values():
        assert loss == pytest.approx(losses["float32"], rel=0.02), losses
