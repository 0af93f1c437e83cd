"""Configurations of encoders of `transformers`, three of each family at least, with odd settings on."""

TEXT = {
    "vocab_size": 97,
    "hidden_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 67,
    "max_position_embeddings": 53,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DISTILBERT = {
    "vocab_size": 97,
    "dim": 44,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 67,
    "max_position_embeddings": 53,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "seq_classif_dropout": 0.0,
}
MODERNBERT = {
    "vocab_size": 97,
    "hidden_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 67,
    "local_attention": 6,
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
VISION = {
    "hidden_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 67,
    "image_size": 21,
    "patch_size": 7,
}
CLIP_TEXT = {
    "vocab_size": 97,
    "hidden_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 67,
    "max_position_embeddings": 53,
    "projection_dim": 19,
    "eos_token_id": 5,
    "bos_token_id": 4,
}
CLIP_VISION = {**VISION, "projection_dim": 19}
LABELS = {"num_labels": 5}
ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
}


def case(architecture: str, sizes: dict, config: str | None = None, **options) -> tuple[str, str, dict]:
    """The classes of a model and of its configuration, and the options of that."""
    family = architecture.partition("For")[0].removesuffix("Model")
    return architecture, f"{config or family}Config", {**sizes, **options}


def both(**options) -> dict:
    """The options of CLIP with both towers."""
    text, vision = {**CLIP_TEXT, **options.pop("text", {})}, {**CLIP_VISION, **options.pop("vision", {})}
    return {"text_config": text, "vision_config": vision, "projection_dim": 23, **options}


CASES = {
    "bert": case("BertForMaskedLM", TEXT, layer_norm_eps=1e-3, hidden_act="gelu_new", pad_token_id=3),
    "bert-bare": case("BertModel", TEXT, type_vocab_size=3, num_attention_heads=11),
    "bert-classes": case("BertForSequenceClassification", TEXT, hidden_act="relu", classifier_dropout=0.0, **LABELS),
    "bert-tokens": case("BertForTokenClassification", TEXT, pad_token_id=5, **LABELS),
    "roberta": case("RobertaForMaskedLM", TEXT, layer_norm_eps=1e-3, hidden_act="relu"),
    "roberta-bare": case("RobertaModel", TEXT, type_vocab_size=1, pad_token_id=4),
    "roberta-classes": case("RobertaForSequenceClassification", TEXT, **LABELS),
    "roberta-tokens": case("RobertaForTokenClassification", TEXT, pad_token_id=0, **LABELS),
    "xlm-roberta": case("XLMRobertaForMaskedLM", TEXT, type_vocab_size=1),
    "distilbert": case("DistilBertForMaskedLM", DISTILBERT, activation="relu", pad_token_id=3),
    "distilbert-bare": case("DistilBertModel", DISTILBERT, n_heads=11, sinusoidal_pos_embds=True),
    "distilbert-classes": case("DistilBertForSequenceClassification", DISTILBERT, **LABELS),
    "mpnet": case("MPNetForMaskedLM", TEXT, layer_norm_eps=1e-3),
    "mpnet-bare": case("MPNetModel", TEXT, num_attention_heads=11, hidden_act="relu"),
    "mpnet-classes": case("MPNetForSequenceClassification", TEXT, pad_token_id=3, **LABELS),
    "modernbert": case("ModernBertForMaskedLM", MODERNBERT, norm_eps=1e-3, rope_parameters=ROPE),
    "modernbert-bare": case("ModernBertModel", MODERNBERT, norm_bias=True, mlp_bias=True, global_attn_every_n_layers=2),
    "modernbert-classes": case(
        "ModernBertForSequenceClassification",
        MODERNBERT,
        attention_bias=True,
        classifier_bias=True,
        classifier_pooling="mean",
        classifier_activation="relu",
        layer_types=["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        **LABELS,
    ),
    "modernbert-untied": case(
        "ModernBertForMaskedLM",
        MODERNBERT,
        hidden_activation="silu",
        tie_word_embeddings=False,
        layer_types=["sliding_attention"] * 4,
    ),
    "modernbert-tokens": case("ModernBertForTokenClassification", MODERNBERT, norm_bias=True, **LABELS),
    "vit": case("ViTForImageClassification", VISION, layer_norm_eps=1e-3, qkv_bias=False, **LABELS),
    "vit-bare": case("ViTModel", VISION, num_channels=5, pooler_act="relu", pooler_output_size=13),
    "vit-wide": case("ViTForImageClassification", VISION, image_size=[14, 21], patch_size=[7, 3], hidden_act="relu"),
    "clip-text": case("CLIPTextModel", CLIP_TEXT, "CLIPText"),
    "clip-text-old": case("CLIPTextModelWithProjection", CLIP_TEXT, "CLIPText", eos_token_id=2, layer_norm_eps=1e-3),
    "clip-text-gelu": case("CLIPTextModelWithProjection", CLIP_TEXT, "CLIPText", hidden_act="gelu", projection_dim=7),
    "clip-vision": case("CLIPVisionModel", CLIP_VISION, "CLIPVision", num_channels=5),
    "clip-vision-projected": case("CLIPVisionModelWithProjection", CLIP_VISION, "CLIPVision", hidden_act="gelu"),
    "clip-vision-small": case("CLIPVisionModelWithProjection", CLIP_VISION, "CLIPVision", layer_norm_eps=1e-3),
    "clip": case("CLIPModel", both()),
    "clip-widths": case("CLIPModel", both(text={"hidden_size": 40}, vision={"hidden_size": 36, "patch_size": 3})),
    "clip-old": case("CLIPModel", both(text={"eos_token_id": 2}, logit_scale_init_value=1.5)),
}
QUICK = ("bert", "mpnet-bare", "modernbert", "clip")
