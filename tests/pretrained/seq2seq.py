"""Encoder-decoders of `transformers`: three configurations of each family, with odd settings on and primes."""

from pathlib import Path

import numpy as np

from .helpers import load_reference, torch, transformers

T5 = {
    "vocab_size": 97,
    "d_model": 44,
    "d_kv": 7,
    "d_ff": 67,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 10,
    "relative_attention_max_distance": 17,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": 97,
    "d_model": 44,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 67,
    "decoder_ffn_dim": 59,
    "max_position_embeddings": 53,
    "dropout": 0.0,
}
MARIAN = {**BART, "pad_token_id": 96, "decoder_start_token_id": 96, "activation_function": "swish"}
WHISPER = {
    **{name: value for name, value in BART.items() if name != "max_position_embeddings"},
    "num_mel_bins": 13,
    "max_source_positions": 19,
    "max_target_positions": 53,
    "pad_token_id": 5,
    "bos_token_id": 5,
    "eos_token_id": 5,
    "decoder_start_token_id": 7,
}
CASES = {
    "t5": ("T5ForConditionalGeneration", T5, {}),
    "t5-gated": (
        "T5ForConditionalGeneration",
        T5,
        {
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "num_decoder_layers": 3,
            "layer_norm_epsilon": 1e-3,
            "own_logits": True,
        },
    ),
    "t5-silu": (
        "T5ForConditionalGeneration",
        T5,
        {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False, "pad_token_id": 3},
    ),
    "mt5": ("MT5ForConditionalGeneration", T5, {"tie_word_embeddings": False, "own_logits": True}),
    "bart": ("BartForConditionalGeneration", BART, {}),
    "bart-scaled": (
        "BartForConditionalGeneration",
        BART,
        {"scale_embedding": True, "activation_function": "relu", "pad_token_id": 0, "decoder_start_token_id": 0},
    ),
    "bart-swish": ("BartForConditionalGeneration", BART, {"activation_function": "swish", "encoder_layers": 3}),
    "marian": ("MarianMTModel", MARIAN, {"scale_embedding": True}),
    "marian-odd": (
        "MarianMTModel",
        MARIAN,
        {"d_model": 45, "encoder_attention_heads": 3, "decoder_attention_heads": 5},
    ),
    "marian-two-tables": (
        "MarianMTModel",
        MARIAN,
        {
            "share_encoder_decoder_embeddings": False,
            "decoder_vocab_size": 89,
            "pad_token_id": 88,
            "decoder_start_token_id": 88,
        },
    ),
    "whisper": ("WhisperForConditionalGeneration", WHISPER, {}),
    "whisper-untied": ("WhisperForConditionalGeneration", WHISPER, {"tie_word_embeddings": False}),
    "whisper-relu": ("WhisperForConditionalGeneration", WHISPER, {"activation_function": "relu", "num_mel_bins": 7}),
}
QUICK = ("t5-gated",)


def options_of(name: str) -> tuple[str, dict]:
    """The class of a case, and the options of its configuration."""
    kind, sizes, further = CASES[name]
    return kind, {**sizes, **further}


def save_random(name: str, folder: Path, *, dtype: str = "float32", shards: str = "60KB", architecture=None, **changes):
    """A model of a case, saved to the folder, in that type and in shards of that size; as float32, as it comes back."""
    kind, options = options_of(name)
    options = {**options, **changes}
    own_logits = options.pop("own_logits", False)
    torch.manual_seed(1234)
    kinds = getattr(transformers, architecture or kind)
    family = kind.split("For")[0].removesuffix("MTModel")
    model = kinds(getattr(transformers, f"{family}Config")(**options))
    with torch.no_grad():
        if own_logits and hasattr(model, "lm_head"):
            model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn_like(model.lm_head.weight))
        for parameter in model.parameters():  # norms and biases, too
            parameter.add_(0.15 * torch.randn_like(parameter))
        for module in model.modules():
            if type(module).__name__ == "MarianSinusoidalPositionalEmbedding":
                module.weight.copy_(module.create_weight())
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shards)
    return load_reference(kinds, folder)


def source_of(name: str, batch: int = 2, length: int = 11) -> np.ndarray:
    """Sources, without padding: ids, or features for a model that takes them (B, frames, mel)."""
    kind, options = options_of(name)
    random = np.random.default_rng(5)
    if kind.startswith("Whisper"):
        shape = (batch, 2 * options["max_source_positions"], options["num_mel_bins"])
        return random.normal(size=shape).astype("float32")
    padding = options.get("pad_token_id", {"T5": 0, "Bar": 1}.get(kind[:3].removesuffix("F"), 0))
    ids = random.integers(0, 80, (batch, length))
    return np.where(ids == padding, 17, ids)


def outputs(model, source, target, padding: int | None = None):
    """What a model of `transformers` makes of a source and the tokens of a target, a tensor with its gradient."""
    target = torch.tensor(np.asarray(target))
    if source.ndim == 3:
        answer = model(input_features=torch.tensor(source).transpose(1, 2), decoder_input_ids=target)
    else:
        mask = torch.ones(source.shape) if padding is None else torch.tensor(source != padding).float()
        mask = mask.long()
        answer = model(input_ids=torch.tensor(source), attention_mask=mask, decoder_input_ids=target)
    return answer.logits if hasattr(answer, "logits") else answer.last_hidden_state


def continue_greedily(model, source, prompt: list[int], count: int) -> list[int]:
    """The prompt and the most probable tokens behind it, without a cache."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(outputs(model, source, [tokens])[0, -1].argmax()))
    return tokens


def step(model, source, target, rate: float):
    """A model of `transformers` after a step of gradient descent on the next tokens."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # PyTorch would leave its row as it is
        if type(module).__name__ in ("MarianSinusoidalPositionalEmbedding", "WhisperEncoder"):
            getattr(module, "embed_positions", module).requires_grad_(False)  # as they are until a file is loaded
    logits = outputs(model, source, target[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(target[:, 1:]).flatten()).backward()
    torch.optim.SGD([x for x in model.parameters() if x.requires_grad], rate).step()
    model.eval()
    return model
