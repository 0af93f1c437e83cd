"""An image in front of the tokens: its features stand in place of the embeddings of tokens that hold the place."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

IMAGE, PATCHES, DIM = 28, 9, 20


@keras.saving.register_keras_serializable("tests")
class ImageTokens(keras.layers.Layer):
    """Features (B, P, D) in place of the embeddings of the P tokens `image_id`, the first of which is at `start`."""

    def __init__(self, image_id, start=0, **kwargs):
        super().__init__(**kwargs)
        self.image_id = image_id
        self.start = start

    def call(self, inputs):
        x, tokens, features = inputs
        places = ops.clip(kt.incremental.positions(self, tokens) - self.start, 0, features.shape[1] - 1)
        places = ops.broadcast_to(places, ops.shape(tokens))
        features = ops.take_along_axis(features, ops.expand_dims(places, 2), axis=1)
        return ops.where(ops.expand_dims(tokens == self.image_id, 2), ops.cast(features, x.dtype), x)

    def get_config(self):
        return {**super().get_config(), "image_id": self.image_id, "start": self.start}


def vision_language_model() -> keras.Model:
    """A small vision transformer in front of a decoder, one token behind the start."""
    pixels = keras.Input((12, 12, 3), name="pixels")
    x = keras.layers.Conv2D(26, 4, strides=4, data_format="channels_last")(pixels)
    x = kt.LearnedPositionalEncoding(PATCHES)(keras.layers.Reshape((PATCHES, 26))(x))
    x = kt.EncoderLayer(2, 31, norm_placement="before")(x)
    features = keras.layers.Dense(DIM)(x)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = kt.TokenEmbedding(29, DIM, padding_id=None)(tokens)
    x = ImageTokens(IMAGE, start=1)([x, tokens, features])
    for _ in range(2):
        x = kt.DecoderLayer(2, 37, position=kt.RotaryPosition())(x)
    model = keras.Model([pixels, tokens], keras.layers.Dense(29)(x))
    random = np.random.default_rng(1)
    weights = model.get_weights()  # those of norms are ones
    model.set_weights([float((w == 1).all()) + 0.4 * random.normal(size=w.shape) for w in weights])
    return model


PIXELS = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype("float32")
PROMPTS = [[2, *[IMAGE] * PATCHES, 5, 3], [2, *[IMAGE] * PATCHES, 7]]
OPTIONS = {"max_length": 19, "end_token": None, "processors": [kt.ForbiddenTokens([IMAGE])], "jit_compile": False}


def continued(model, pixels, prompt) -> list[int]:
    """The most probable tokens behind a prompt, each by the whole model."""
    tokens = list(prompt)
    while len(tokens) < OPTIONS["max_length"]:
        padded = np.array([tokens + [1] * (OPTIONS["max_length"] - len(tokens))], "int32")
        logits = model.predict([pixels[None], padded], verbose=0)[0, len(tokens) - 1]
        logits[IMAGE] = -np.inf
        tokens.append(int(logits.argmax()))
    return tokens


def test_it_generates_what_the_whole_model_does():
    model = vision_language_model()
    result = kt.Generator(model, **OPTIONS)(PIXELS, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        expected = continued(model, PIXELS[row], prompt)
        assert result["tokens"][row, 0].tolist() == expected
        assert expected != continued(model, PIXELS[1 - row], prompt)  # it sees the image


@pytest.mark.slow
def test_beams_with_a_cache_are_those_without():
    model = vision_language_model()
    some, others = (
        kt.Generator(model, **OPTIONS, cache=cache, strategy=kt.BeamSearch(3, num_return=2))(PIXELS, PROMPTS)
        for cache in (True, False)
    )
    np.testing.assert_array_equal(some["tokens"], others["tokens"])
    np.testing.assert_allclose(some["scores"], others["scores"], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_it_is_exported(tmp_path):
    """With sources, sequences of an export begin with the start token; what follows it is forced."""
    told = kt.ForcedTokens({i: token for i, token in enumerate(PROMPTS[0]) if i})
    options = {**OPTIONS, "processors": [told, kt.ForbiddenTokens([IMAGE], start=len(PROMPTS[0]))]}
    generator = kt.Generator(vision_language_model(), start_token=2, **options)
    expected = generator(PIXELS)["tokens"]
    np.testing.assert_array_equal(expected, kt.Generator(generator.model, **OPTIONS)(PIXELS, PROMPTS[:1] * 2)["tokens"])
    kt.export.saved_model(generator, tmp_path / "served")
    kt.export.litert(generator, tmp_path / "model.tflite", batch_size=2)
    for name in ("served", "model.tflite"):
        np.testing.assert_array_equal(kt.export.load(tmp_path / name)(PIXELS)["tokens"], expected)


@pytest.mark.slow
def test_two_checkpoints_become_one_that_describes_images(tmp_path):
    """LLaVA of its two parts: a tower of CLIP, all but its last layer, and a Llama."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tower = transformers.CLIPVisionConfig(
        hidden_size=26, intermediate_size=31, num_hidden_layers=3, num_attention_heads=2, image_size=12, patch_size=4
    )
    text = transformers.LlamaConfig(
        vocab_size=29,
        hidden_size=DIM,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    torch.manual_seed(3)
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=IMAGE, image_seq_length=PATCHES
    )
    llava = transformers.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in llava.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    llava.model.vision_tower.save_pretrained(tmp_path / "vision")
    language = transformers.LlamaForCausalLM(text)
    language.model, language.lm_head = llava.model.language_model, llava.lm_head
    language.save_pretrained(tmp_path / "language")

    vision = kt.pretrained.load_model(tmp_path / "vision")
    language = kt.pretrained.load_model(tmp_path / "language")
    inner = keras.layers.Dense(DIM, activation="gelu")
    outer = keras.layers.Dense(DIM)
    features = outer(inner(vision.get_layer("encoder_1").output[:, 1:]))
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = ImageTokens(IMAGE, start=1)([language.get_layer("embedding")(tokens), tokens, features])
    for name in ("decoder_0", "decoder_1", "decoder_norm", "logits"):
        x = language.get_layer(name)(x)
    model = keras.Model([vision.input, tokens], x)
    for layer, given in ((inner, "linear_1"), (outer, "linear_2")):
        given = getattr(llava.model.multi_modal_projector, given)
        layer.set_weights([given.weight.detach().numpy().T, given.bias.detach().numpy()])

    pixels = torch.tensor(PIXELS).permute(0, 3, 1, 2)
    ids = np.array([PROMPTS[0], [*PROMPTS[1], 4]])
    with torch.no_grad():
        expected = llava(input_ids=torch.tensor(ids), pixel_values=pixels).logits.numpy()
    found = ops.convert_to_numpy(model([PIXELS, ids]))
    assert abs(found - expected).max() < 1e-5 * abs(expected).max()
    result = kt.Generator(model, **{**OPTIONS, "processors": []})(PIXELS, ids)
    for row in range(2):
        tokens = ids[row].tolist()
        with torch.no_grad():
            while len(tokens) < OPTIONS["max_length"]:
                given = {"input_ids": torch.tensor([tokens]), "pixel_values": pixels[row : row + 1]}
                tokens.append(int(llava(**given).logits[0, -1].argmax()))
        assert result["tokens"][row, 0].tolist() == tokens
