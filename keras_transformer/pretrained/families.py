"""All families, by the `model_type` of their configuration files."""

from keras_transformer.pretrained import (
    bart,
    bert,
    clip,
    experts,
    gemma,
    gpt2,
    llama,
    modernbert,
    neox,
    t5,
    vit,
    whisper,
)
from keras_transformer.pretrained.family import Family

ENCODERS: dict[str, Family] = {**bert.FAMILIES, **clip.FAMILIES, **modernbert.FAMILIES, **vit.FAMILIES}
FAMILIES: dict[str, Family] = {
    **ENCODERS,
    **bart.FAMILIES,
    **experts.FAMILIES,
    **gemma.FAMILIES,
    **gpt2.FAMILIES,
    **llama.FAMILIES,
    **neox.FAMILIES,
    **t5.FAMILIES,
    **whisper.FAMILIES,
}
