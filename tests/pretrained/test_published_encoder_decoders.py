"""Configuration files of encoder-decoders as they are published are read whole."""

import pytest

from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.families import FAMILIES

LABELS = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
T5 = {
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "num_heads": 8,
    "num_layers": 6,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "use_cache": True,
    "vocab_size": 32128,
}
GATED = {
    **T5,
    "dense_act_fn": "gelu_new",
    "feed_forward_proj": "gated-gelu",
    "is_gated_act": True,
    "num_decoder_layers": 8,
    "relative_attention_max_distance": 128,
    "tie_word_embeddings": False,
    "tokenizer_class": "T5Tokenizer",
    "torch_dtype": "float32",
    "transformers_version": "4.24.0",
}
BART = {
    "activation_dropout": 0.0,
    "activation_function": "gelu",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "d_model": 1024,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 12,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 12,
    "eos_token_id": 2,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_position_embeddings": 1024,
    "normalize_before": False,
    "num_hidden_layers": 12,
    "scale_embedding": False,
    "use_cache": True,
    **LABELS,
}
WHISPER = {
    **{name: x for name, x in BART.items() if not name.startswith(("add_", "classif", "normalize", "max_p"))},
    "begin_suppress_tokens": [220, 50256],
    "max_length": 448,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "num_mel_bins": 80,
    "pad_token_id": 50256,
    "suppress_tokens": [1, 2, 7],
    "vocab_size": 51864,
}
PUBLISHED = {
    "t5-small": {
        **T5,
        "architectures": ["T5WithLMHeadModel"],
        "model_type": "t5",
        "n_positions": 512,
        "task_specific_params": {"summarization": {"early_stopping": True, "prefix": "summarize: "}},
    },
    "flan-t5-small": {**GATED, "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "n_positions": 512},
    "mt5-small": {**GATED, "architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5", "vocab_size": 250112},
    "bart-large-cnn": {
        **BART,
        "_num_labels": 3,
        "architectures": ["BartForConditionalGeneration"],
        "early_stopping": True,
        "force_bos_token_to_be_generated": True,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "gradient_checkpointing": False,
        "length_penalty": 2.0,
        "max_length": 142,
        "min_length": 56,
        "model_type": "bart",
        "no_repeat_ngram_size": 3,
        "normalize_embedding": True,
        "num_beams": 4,
        "output_past": True,
        "pad_token_id": 1,
        "prefix": " ",
        "static_position_embeddings": False,
        "task_specific_params": {"summarization": {"length_penalty": 2.0}},
        "vocab_size": 50264,
    },
    "opus-mt-en-de": {
        **BART,
        "activation_function": "swish",
        "architectures": ["MarianMTModel"],
        "bad_words_ids": [[58100]],
        "decoder_start_token_id": 58100,
        "decoder_vocab_size": 58101,
        "eos_token_id": 0,
        "extra_pos_embeddings": 58101,
        "forced_eos_token_id": 0,
        "max_length": 512,
        "max_position_embeddings": 512,
        "model_type": "marian",
        "normalize_embedding": False,
        "num_beams": 6,
        "pad_token_id": 58100,
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
        "static_position_embeddings": True,
        "vocab_size": 58101,
    },
    "whisper-tiny.en": {**WHISPER, "forced_decoder_ids": [[1, 50362]], "model_type": "whisper"},
    "whisper-large-v3": {
        **WHISPER,
        "apply_spec_augment": False,
        "architectures": ["WhisperForConditionalGeneration"],
        "classifier_proj_size": 256,
        "mask_feature_length": 10,
        "mask_feature_min_masks": 0,
        "mask_feature_prob": 0,
        "mask_time_length": 10,
        "mask_time_min_masks": 2,
        "mask_time_prob": 0.05,
        "median_filter_width": 7,
        "model_type": "whisper",
        "num_mel_bins": 128,
        "use_weighted_layer_sum": False,
        "vocab_size": 51866,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_read_whole(name):
    values = PUBLISHED[name]
    settings = Settings(values, name)
    shape = FAMILIES[values["model_type"]].read(settings)
    settings.check()
    counts = shape.encoder.num_layers, shape.decoder.num_layers
    assert counts == ((6, 6) if name == "t5-small" else (6, 8) if "t5" in name else (12, 12))
    assert shape.decoder.layer()["num_heads"] in (8, 16)
    settings = Settings({**values, "attention_wobble": 0.1}, name)
    FAMILIES[values["model_type"]].read(settings)
    with pytest.raises(ValueError, match=r"attention_wobble=0\.1"):
        settings.check()
