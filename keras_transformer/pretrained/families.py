"""All families, by the `model_type` of their configuration files."""

from keras_transformer.pretrained import experts, gemma, gpt2, llama, neox
from keras_transformer.pretrained.family import Family

FAMILIES: dict[str, Family] = {
    **experts.FAMILIES,
    **gemma.FAMILIES,
    **gpt2.FAMILIES,
    **llama.FAMILIES,
    **neox.FAMILIES,
}
