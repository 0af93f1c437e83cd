"""Models of `transformers` with random weights, saved to folders, and what is asked of ours that come from there."""

import json
from pathlib import Path

import numpy as np
import pytest

from .cases import CASES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
WITH_LOGITS = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}


def model_class(kind: str):
    return getattr(transformers, WITH_LOGITS.get(kind, f"{kind}ForCausalLM"))


def save_random(
    name: str, folder: Path, *, dtype: str = "float32", shards: str = "60KB", bare: bool = False, **changes
):
    """A model of a case, saved to the folder, in that type and in shards of that size; as float32, as it comes back."""
    kind, options = CASES[name]
    torch.manual_seed(1234)
    kinds = getattr(transformers, f"{kind}Model") if bare else model_class(kind)
    model = randomized(kinds(getattr(transformers, f"{kind}Config")(**{**options, **changes})), dtype)
    model.save_pretrained(folder, max_shard_size=shards)
    return load_reference(kinds, folder)


def randomized(model, dtype: str):
    """A model whose norms and biases are random, too, in that type."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model.to(getattr(torch, dtype))


def load_reference(kinds: type, folder: Path):
    """A model of `transformers` from a folder. (Its grouped experts take no odd sizes.)"""
    return kinds.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager").eval()


def rewrite_config(folder: Path, **changes) -> None:
    """Change settings of a saved model; `...` takes one out."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def outputs(model, ids) -> np.ndarray:
    """What a model of `transformers` makes of ids."""
    with torch.no_grad():
        answer = model(torch.tensor(ids), attention_mask=torch.ones(np.shape(ids), dtype=torch.long))
    return (answer.logits if hasattr(answer, "logits") else answer.last_hidden_state).numpy()


def continue_greedily(model, prompt: list[int], count: int) -> list[int]:
    """The prompt and the most probable tokens behind it, without a cache."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(outputs(model, [tokens])[0, -1].argmax()))
    return tokens


def read_tensors(folder: Path) -> dict:
    """All tensors of a folder."""
    load = pytest.importorskip("safetensors.torch").load_file
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load(path).items()}


def same(found: dict, expected: dict) -> None:
    """Raise AssertionError unless the tensors are equal bit for bit, in the same types."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def step(model, ids, rate: float):
    """A model of `transformers` after a step of gradient descent on the next tokens."""
    model.train()
    model.get_input_embeddings().padding_idx = None  # PyTorch would leave its row as it is; here no id is padding
    logits = model(torch.tensor(ids[:, :-1])).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(ids[:, 1:]).flatten()).backward()
    torch.optim.SGD(model.parameters(), rate).step()
    model.eval()
    return model
