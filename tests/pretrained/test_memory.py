"""What loading takes of memory: the weights once, and little else."""

import json

import numpy as np
import pytest

from keras_transformer.pretrained.weights import write

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 8191,
    "hidden_size": 1024,
    "intermediate_size": 4099,
    "num_attention_heads": 16,
    "num_hidden_layers": 4,
    "tie_word_embeddings": True,
}
CODE = """
    import resource
    import keras
    import keras_transformer as kt

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    kt.models.language_model(11, num_layers=1, dim=8, num_heads=2)
    before = peak()
    model = kt.pretrained.load_model("folder")
    size = sum(4 * weight.value.shape.num_elements() for weight in model.weights)
    print((peak() - before) / size)
"""


def save(folder, dtype: str) -> None:
    """A model of zeros."""
    dim, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes = {"model.embed_tokens.weight": (CONFIG["vocab_size"], dim), "model.norm.weight": (dim,)}
    for i in range(CONFIG["num_hidden_layers"]):
        of_layer = {
            **{f"self_attn.{x}_proj": (dim, dim) for x in "qkvo"},
            "mlp.gate_proj": (inner, dim),
            "mlp.up_proj": (inner, dim),
            "mlp.down_proj": (dim, inner),
            "input_layernorm": (dim,),
            "post_attention_layernorm": (dim,),
        }
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in of_layer.items()}
    folder.mkdir()
    dtype = np.dtype(dtype)
    values = (np.zeros(shape, dtype) for shape in shapes.values())
    write(folder, {name: (dtype, shape) for name, shape in shapes.items()}, values, 10**9)
    (folder / "config.json").write_text(json.dumps(CONFIG))


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_take_their_memory_once(dtype, fresh_process, tmp_path):
    save(tmp_path / "folder", dtype)
    assert float(fresh_process(CODE, cwd=tmp_path)) < 1.3
