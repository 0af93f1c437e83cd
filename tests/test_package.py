"""The package as a whole: what importing it does, and that its public names are there."""

import pytest

PUBLIC_NAMES = """
    TokenEmbedding PositionalEncoding LearnedPositionalEncoding RotaryPosition AlibiPosition RelativePosition
    MultiHeadSelfAttention MultiHeadCrossAttention FeedForward EncoderLayer DecoderLayer
    RecurrentDecoderLayer DotAttention
    Generator Greedy attention_weights models training export ops
""".split()


def test_import_under_jax_does_not_import_tensorflow(fresh_process):
    pytest.importorskip("jax")
    fresh_process(
        """
        import sys
        import keras_transformer
        found = sorted(name for name in sys.modules if name.split(".")[0] == "tensorflow")
        assert not found, found
        """,
        KERAS_BACKEND="jax",
    )


def test_import_loads_no_optional_package(fresh_process):
    fresh_process(
        """
        import sys
        import keras
        before = set(sys.modules)
        import keras_transformer
        new = {name.split(".")[0] for name in set(sys.modules) - before}
        optional = {"tensorflow_text", "sentencepiece", "ai_edge_litert", "matplotlib", "torch", "keras_hub"}
        assert not new & optional, new & optional
        """
    )


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_public_name(name):
    package = pytest.importorskip("keras_transformer")
    assert hasattr(package, name)
