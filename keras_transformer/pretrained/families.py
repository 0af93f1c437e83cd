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

FAMILIES: dict[str, Family] = {
    **bart.FAMILIES,
    **bert.FAMILIES,
    **clip.FAMILIES,
    **experts.FAMILIES,
    **gemma.FAMILIES,
    **gpt2.FAMILIES,
    **llama.FAMILIES,
    **modernbert.FAMILIES,
    **neox.FAMILIES,
    **t5.FAMILIES,
    **vit.FAMILIES,
    **whisper.FAMILIES,
}
