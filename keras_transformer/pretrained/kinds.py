"""What kinds of values settings have, by their names: the same in all families and files."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        expected: What error messages call it.
        fits: Whether a value, as JSON has it, is of it.
    """

    expected: str
    fits: Callable[[Any], bool]


def _is_whole(x) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _is_number(x) -> bool:
    return _is_whole(x) or (isinstance(x, float) and math.isfinite(x))


def _is_name(x) -> bool:
    return isinstance(x, str)


def _is_list(x, fits: Callable[[Any], bool]) -> bool:
    return isinstance(x, list | tuple) and all(map(fits, x))


def _is_pair(x) -> bool:
    return _is_list(x, lambda y: y is None or _is_whole(y)) and len(x) == 2 and x[0] is not None


def _is_token(x) -> bool:
    if isinstance(x, Mapping) and not all(isinstance(x.get(flag, False), bool) for flag in TOKEN_FLAGS):
        return False
    return isinstance(x.get("content") if isinstance(x, Mapping) else x, str)


def _is_template(x) -> bool:
    return isinstance(x, Mapping) and all(isinstance(x.get(part), str) for part in ("name", "template"))


SIZE = Kind("a whole number above 0", lambda x: _is_whole(x) and x > 0)
SIZES = Kind(
    "a whole number above 0, or two of them,", lambda x: SIZE.fits(x) or (_is_list(x, SIZE.fits) and len(x) == 2)
)
COUNT = Kind("a whole number, 0 or more,", lambda x: _is_whole(x) and x >= 0)
ID = Kind("an id, a whole number,", _is_whole)
IDS = Kind("an id, or a list of ids,", lambda x: _is_whole(x) or _is_list(x, _is_whole))
WORDS = Kind("a list of lists of ids", lambda x: _is_list(x, lambda y: _is_list(y, _is_whole)))
PAIRS = Kind("a list of pairs, a position and an id,", lambda x: _is_list(x, _is_pair))
NUMBER = Kind("a number", _is_number)
POSITIVE = Kind("a number above 0", lambda x: _is_number(x) and x > 0)
FROM_ZERO = Kind("a number, 0 or more,", lambda x: _is_number(x) and x >= 0)
RATE = Kind("a rate, from 0 to below 1,", lambda x: _is_number(x) and 0 <= x < 1)
PART = Kind("a number above 0, up to 1,", lambda x: _is_number(x) and 0 < x <= 1)
FLAG = Kind("true or false", lambda x: isinstance(x, bool))
FLAGS = Kind("a list of 0 and 1", lambda x: _is_list(x, lambda y: y in (0, 1)))
NAME = Kind("a string", _is_name)
NAMES = Kind("a list of strings", lambda x: _is_list(x, _is_name))
NAME_OR_NAMES = Kind("a string, or a list of strings,", lambda x: _is_name(x) or NAMES.fits(x))
NUMBERS = Kind("a list of numbers above 0", lambda x: _is_list(x, POSITIVE.fits))
SCORES = Kind("a list of numbers", lambda x: _is_list(x, _is_number))
INTEGERS = Kind("a list of whole numbers", lambda x: _is_list(x, _is_whole))
GROUP = Kind("an object with settings", lambda x: isinstance(x, Mapping))
STOP = Kind("true, false or 'never'", lambda x: isinstance(x, bool) or x == "never")
TOKEN = Kind("a string, or an object with its content,", _is_token)
TOKENS = Kind(
    "a list, or an object, of tokens",
    lambda x: _is_list(list(x.values()) if isinstance(x, Mapping) else x, _is_token),
)
BY_ID = Kind(
    "an object of tokens by their ids",
    lambda x: isinstance(x, Mapping) and all(key.isdecimal() for key in x) and _is_list([*x.values()], _is_token),
)
TEMPLATES = Kind(
    "a string, or a list of objects with name and template,", lambda x: _is_name(x) or _is_list(x, _is_template)
)

_NAMES = {
    SIZE: """
        _sliding_window_pattern attention.head_count attention.head_count_kv attention.key_length
        attention.sliding_window block_count context_length d_ff d_kv d_model decoder_attention_heads decoder_ffn_dim
        decoder_layers decoder_vocab_size dim embedding_length encoder_attention_heads encoder_ffn_dim encoder_layers
        experts_per_token feed_forward_length ffn_dim ffn_hidden_size global_attn_every_n_layers head_dim hidden_dim
        hidden_size intermediate_size local_attention max_length max_new_tokens max_position_embeddings max_seq_length
        max_source_positions max_target_positions n_embd n_head n_heads n_inner n_layer n_layers n_positions
        no_rope_layer_interval num_attention_heads num_beams num_channels num_decoder_layers num_experts
        num_experts_per_tok num_heads num_hidden_layers num_key_value_heads num_kv_heads num_labels num_layers
        num_ln_in_parallel_attn num_local_experts num_mel_bins num_return_sequences original_max_position_embeddings
        out_features pooler_output_size projection_dim relative_attention_max_distance relative_attention_num_buckets
        sliding_window sliding_window_pattern vocab_size word_embed_proj_dim
    """,
    SIZES: "image_size patch_size",
    COUNT: "extra_ids max_window_layers min_length min_new_tokens no_repeat_ngram_size top_k type_vocab_size",
    ID: """
        forced_bos_token_id ggml.bos_token_id ggml.cls_token_id ggml.eos_token_id ggml.mask_token_id
        ggml.padding_token_id ggml.seperator_token_id ggml.unknown_token_id no_timestamps_token_id pad_token_id
    """,
    IDS: "bos_token_id decoder_start_token_id eos_token_id forced_eos_token_id suppress_tokens",
    WORDS: "bad_words_ids",
    PAIRS: "forced_decoder_ids",
    NUMBER: "length_penalty logit_scale_init_value min_p model_max_length temperature top_p",
    POSITIVE: """
        attention_factor attn_logit_softcapping factor final_logit_softcapping global_rope_theta high_freq_factor
        local_rope_theta low_freq_factor query_pre_attn_scalar repetition_penalty rope.freq_base rope.scaling.factor
        rope_local_base_freq rope_theta rotary_emb_base swiglu_limit
    """,
    FROM_ZERO: """
        attention.layer_norm_rms_epsilon beta_fast beta_slow init_std initializer_factor initializer_range
        layer_norm_eps layer_norm_epsilon mscale mscale_all_dim norm_eps rms_norm_eps
    """,
    RATE: """
        activation_dropout attention_dropout attention_probs_dropout_prob attn_pdrop classifier_dropout dropout
        dropout_rate embd_pdrop embedding_dropout hidden_dropout hidden_dropout_prob mlp_dropout resid_pdrop
        seq_classif_dropout
    """,
    PART: "partial_rotary_factor rotary_pct",
    FLAG: """
        _from_model_config _remove_final_layer_norm add_bos_token add_eos_token add_prefix_space attention_bias bias
        classifier_bias decoder_bias do_layer_norm_before do_lower_case do_sample enable_bias ggml.add_bos_token
        ggml.add_eos_token ggml.add_space_prefix is_encoder_decoder is_gated_act layer_norm_elementwise_affine legacy
        mlp_bias multi_query new_decoder_architecture norm_bias parallel_attn pooling_mode_cls_token
        pooling_mode_max_tokens pooling_mode_mean_tokens qkv_bias scale_attn_by_inverse_layer_idx scale_attn_weights
        scale_decoder_outputs scale_embedding share_encoder_decoder_embeddings strip_accents tie_weights_
        tie_word_embeddings tokenize_chinese_chars truncate use_parallel_residual use_sliding_window
    """,
    FLAGS: "no_rope_layers",
    NAME: """
        activation activation_function classifier_activation classifier_pooling default_prompt_name dense_act_fn
        feed_forward_proj general.architecture ggml.model ggml.pre hidden_act hidden_activation huggingface.json
        language model_type pooler_act rope.scaling.type rope_type task tokenizer_class type
    """,
    NAMES: "architectures ggml.merges ggml.tokens layer_types",
    NAME_OR_NAMES: "pooling_mode",
    NUMBERS: "long_factor short_factor",
    SCORES: "ggml.scores",
    INTEGERS: "begin_suppress_tokens ggml.token_type",
    GROUP: """
        full_attention id2label lang_to_id prompts rope_parameters rope_scaling sliding_attention task_to_id text_config
        text_config_dict vision_config vision_config_dict
    """,
    STOP: "early_stopping",
    TOKEN: "bos_token cls_token eos_token mask_token pad_token sep_token unk_token",
    TOKENS: "additional_special_tokens extra_special_tokens",
    BY_ID: "added_tokens_decoder",
    TEMPLATES: "chat_template",
}
OF_TOKENIZERS = """
    add_bos_token add_eos_token add_prefix_space added_tokens_decoder additional_special_tokens bos_token chat_template
    cls_token do_lower_case eos_token extra_ids extra_special_tokens legacy mask_token model_max_length pad_token
    sep_token strip_accents tokenize_chinese_chars tokenizer_class unk_token
""".split()
KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}


def check_kind(where: str, name: str, value) -> None:
    """Raise ValueError if a setting has a value of another kind than its name asks for; None is one that is not set.

    Args:
        where: What the message calls the file.
        name, value: Of the setting. One whose kind is not known here may have any value.

    Example:

    >>> from keras_transformer.pretrained.kinds import check_kind
    >>> check_kind("config.json", "hidden_size", "48")
    Traceback (most recent call last):
    ValueError: config.json has hidden_size='48'; a whole number above 0 is expected.
    """
    kind = KINDS.get(name)
    if kind is not None and value is not None and not kind.fits(value):
        shown = repr(value.as_dict() if hasattr(value, "as_dict") else value)
        shown = shown if len(shown) <= 120 else f"{shown[:120]} ..."
        raise ValueError(f"{where} has {name}={shown}; {kind.expected} is expected.")
