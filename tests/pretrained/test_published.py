"""Configuration files as they are published are read whole: nothing in them is refused, and nothing is overlooked."""

import pytest

from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.families import FAMILIES

COMMON = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 4,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
LLAMA = {**COMMON, "hidden_act": "silu"}
LLAMA3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
YARN = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 32.0,
    "original_max_position_embeddings": 4096,
    "rope_type": "yarn",
    "truncate": False,
}
GEMMA = {
    **COMMON,
    "attention_bias": False,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "pad_token_id": 0,
    "rope_scaling": None,
}
GEMMA2 = {**GEMMA, "query_pre_attn_scalar": 256, "sliding_window": 4096, "cache_implementation": "hybrid"}
PUBLISHED = {
    "gpt2": {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "_num_labels": 1,
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    },
    "llama": {
        **LLAMA,
        "attention_bias": False,
        "head_dim": 64,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rope_scaling": LLAMA3,
        "is_llama_config": True,
        "rope_interleaved": False,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    },
    "mistral": {**LLAMA, "sliding_window": None},
    "mixtral": {
        **LLAMA,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
    },
    "qwen2": {
        **LLAMA,
        "max_window_layers": 24,
        "sliding_window": 32768,
        "use_mrope": False,
        "use_sliding_window": False,
    },
    "qwen3": {
        **LLAMA,
        "attention_bias": False,
        "head_dim": 128,
        "max_window_layers": 28,
        "rope_scaling": None,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "gemma": {**GEMMA, "hidden_act": "gelu", "hidden_activation": None},
    "gemma2": {
        **GEMMA2,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "hidden_act": "gelu_pytorch_tanh",
    },
    "gemma3_text": {
        **GEMMA2,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "rope_local_base_freq": 10000,
        "sliding_window_pattern": 6,
        "_sliding_window_pattern": 6,
        "use_bidirectional_attention": False,
    },
    "smollm3": {
        **LLAMA,
        "attention_bias": False,
        "mlp_bias": False,
        "layer_types": ["full_attention"] * 4,
        "max_window_layers": 28,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "pretraining_tp": 2,
        "rope_scaling": None,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "phi3": {
        **LLAMA,
        "attention_bias": False,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "embd_pdrop": 0.0,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "mlp_bias": False,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0,
        "rope_scaling": {"long_factor": [2.0] * 24, "short_factor": [1.0] * 24, "type": "longrope"},
        "sliding_window": 262144,
    },
    "olmo2": {**LLAMA, "attention_bias": False, "rope_scaling": None, "pad_token_id": 100277},
    "gpt_neox": {
        "hidden_act": "gelu",
        "hidden_size": 512,
        "intermediate_size": 2048,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "vocab_size": 50304,
    },
    "opt": {
        "_remove_final_layer_norm": False,
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "attention_dropout": 0.0,
        "do_layer_norm_before": True,
        "dropout": 0.1,
        "ffn_dim": 3072,
        "hidden_size": 768,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 2048,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "prefix": "</s>",
        "vocab_size": 50272,
        "word_embed_proj_dim": 768,
    },
    "falcon": {
        "alibi": False,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "bias": False,
        "hidden_dropout": 0.0,
        "hidden_size": 4544,
        "layer_norm_epsilon": 1e-05,
        "multi_query": True,
        "new_decoder_architecture": False,
        "num_attention_heads": 71,
        "num_hidden_layers": 32,
        "parallel_attn": True,
        "vocab_size": 65024,
    },
    "gpt_oss": {
        **LLAMA,
        "attention_bias": True,
        "experts_per_token": 4,
        "head_dim": 64,
        "initial_context_length": 4096,
        "num_experts_per_tok": 4,
        "num_local_experts": 32,
        "output_router_logits": False,
        "rope_scaling": YARN,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_read_whole(name):
    settings = Settings(PUBLISHED[name], name)
    decoder = FAMILIES[name].read(settings)
    settings.check()
    assert decoder.num_layers in (4, 6, 12, 32)
    assert decoder.layer(decoder.num_layers - 1)["num_heads"] in (8, 12, 32, 71)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_added_to_it_is_refused(name):
    settings = Settings({**PUBLISHED[name], "attention_wobble": 0.1}, name)
    FAMILIES[name].read(settings)
    with pytest.raises(ValueError, match=r"attention_wobble=0\.1"):
        settings.check()
