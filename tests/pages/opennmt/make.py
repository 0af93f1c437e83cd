"""What OpenNMT-tf itself computes, for docs/migrate/opennmt.md: a checkpoint of a small Transformer, and its answers.

It runs where Keras 3 is not, since OpenNMT-tf 2.32 takes TensorFlow up to 2.13, and writes its files beside itself:

    python3.11 -m venv old && old/bin/pip install "OpenNMT-tf[tensorflow]==2.32.0" "setuptools<70"
    old/bin/python tests/pages/opennmt/make.py
"""

from pathlib import Path

import numpy as np
import opennmt
import tensorflow as tf

FOLDER = Path(__file__).parent
SOURCE = np.array([[5, 9, 4, 2], [7, 3, 2, 0], [10, 2, 0, 0]])  # </s> is 2, <blank> 0
TARGET = np.array([[1, 6, 12, 8, 3], [1, 4, 4, 0, 0], [1, 11, 0, 0, 0]])  # <s> is 1
PADDING = (4, 3, 2), (5, 3, 2)

if __name__ == "__main__":
    for name, count in (("source", 11), ("target", 13)):
        words = ["<blank>", "<s>", "</s>", *(f"{name}{i}" for i in range(3, count - 1))]  # <unk> comes behind
        (FOLDER / f"{name}.vocab").write_text("\n".join(words) + "\n")
    model = opennmt.models.Transformer(num_layers=2, num_units=12, num_heads=3, ffn_inner_dim=20)
    model.initialize(
        {
            "source_vocabulary": str(FOLDER / "source.vocab"),
            "target_vocabulary": str(FOLDER / "target.vocab"),
        },
        params={"beam_width": 1, "maximum_decoding_length": 12},
    )
    model.create_variables()
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        values = random.normal(size=variable.shape)
        variable.assign(float("gamma" in variable.name) + (0.1 if len(variable.shape) == 1 else 0.6) * values)
    source, target = (tf.constant(ids, tf.int64) for ids in (SOURCE, TARGET))
    features = {"ids": source, "length": tf.constant(PADDING[0])}
    encoded, _, _ = model.encoder(model.features_inputter(features), sequence_length=features["length"])
    state = model.decoder.initial_state(memory=encoded, memory_sequence_length=features["length"])
    embedded = model.labels_inputter({"ids": target})
    logits, _, _ = model.decoder(embedded, tf.constant(PADDING[1]), state=state)
    _, predictions = model(features)
    lengths = predictions["length"].numpy()[:, 0]
    words = [[word.decode() for word in row] for row in predictions["tokens"].numpy()[:, 0]]
    np.savez(
        FOLDER / "answers.npz",
        source=SOURCE,
        target=TARGET,
        logits=logits.numpy(),
        greedy=np.array([" ".join(row[:length]) for row, length in zip(words, lengths, strict=True)]),
        log_probs=predictions["log_probs"].numpy(),
    )
    tf.train.Checkpoint(model=model).write(str(FOLDER / "ckpt"))
