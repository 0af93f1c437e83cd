"""All families, by the `model_type` of their configuration files."""

from keras_transformer.pretrained import bert, clip, experts, gemma, gpt2, llama, modernbert, neox, vit
from keras_transformer.pretrained.family import Family

FAMILIES: dict[str, Family] = {
    **bert.FAMILIES,
    **clip.FAMILIES,
    **experts.FAMILIES,
    **gemma.FAMILIES,
    **gpt2.FAMILIES,
    **llama.FAMILIES,
    **modernbert.FAMILIES,
    **neox.FAMILIES,
    **vit.FAMILIES,
}
