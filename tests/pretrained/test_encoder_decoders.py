"""Encoder-decoders against `transformers`, with random weights: logits, tokens, a step of training, the way back."""

import json

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy

import keras_transformer as kt

from .checkpoints import byte_level
from .helpers import load_reference, read_tensors, rewrite_config, same, torch, transformers
from .seq2seq import CASES, QUICK, continue_greedily, options_of, outputs, save_random, source_of, step

TARGET = np.random.default_rng(7).integers(0, 80, (2, 13))
TARGET[0, :3] = 0
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
SECOND = [pytest.param(name, marks=pytest.mark.slow) for name in CASES]


def padding_of(name: str) -> int:
    kind, options = options_of(name)
    return options.get("pad_token_id", 0 if "T5" in kind else 1)


@pytest.mark.parametrize("name", EACH)
def test_a_checkpoint_computes_generates_and_comes_back(name, tmp_path):
    reference = save_random(name, tmp_path / "in")
    model = kt.pretrained.load_model(tmp_path / "in")
    source = source_of(name)
    assert [x.name for x in model.inputs] == ["features" if source.ndim == 3 else "source", "target"]
    expected = outputs(reference, source, TARGET).detach().numpy()
    assert abs(convert_to_numpy(model([source, TARGET])) - expected).max() < 2e-4 * abs(expected).max()

    if source.ndim == 2:  # padded sources are as they are alone
        padded = source.copy()
        padded[1, 7:] = padding_of(name)
        found = convert_to_numpy(model([padded, TARGET]))
        expected = outputs(reference, padded, TARGET, padding_of(name)).detach().numpy()
        assert abs(found - expected).max() < 2e-4 * abs(expected).max()
        alone = convert_to_numpy(model([source[1:, :7], TARGET[1:]]))
        assert abs(found[1:] - alone).max() < 1e-5 * abs(alone).max()

    start = options_of(name)[1].get("decoder_start_token_id", 2)
    generator = kt.Generator(model, max_length=31, end_token=None, start_token=start, jit_compile=False)
    for prompts in ([[start], [start, 0, 5, 0]], None)[: 1 if name in QUICK else 2]:
        result = generator(source, prompts)
        for row, prompt in enumerate(prompts or [[start], [start]]):
            expected = continue_greedily(reference, source[row : row + 1], prompt, 30)[:31]
            assert result["tokens"][row, 0].tolist() == expected
    if source.ndim == 2 and name not in QUICK:
        lists = [source[0].tolist(), source[1, :7].tolist()]
        expected = [generator(x[None])["tokens"][0] for x in map(np.array, lists)]
        np.testing.assert_array_equal(generator(lists)["tokens"], expected)

    kt.pretrained.save_model(model, tmp_path / "out", shard_size=50_000)
    same(read_tensors(tmp_path / "out"), read_tensors(tmp_path / "in"))
    load_reference(type(reference), tmp_path / "out")


@pytest.mark.parametrize("name", SECOND)
def test_a_step_of_training_and_half_precision(name, tmp_path):
    reference = save_random(name, tmp_path / "in", dtype="bfloat16", shards="5GB")
    model = kt.pretrained.load_model(tmp_path / "in")
    source = source_of(name)
    expected = outputs(reference, source, TARGET).detach().numpy()
    assert abs(convert_to_numpy(model([source, TARGET])) - expected).max() < 2e-4 * abs(expected).max()
    kt.pretrained.save_model(model, tmp_path / "out")
    same(read_tensors(tmp_path / "out"), read_tensors(tmp_path / "in"))

    before = {name: tensor.detach().clone() for name, tensor in reference.state_dict().items()}
    rate = 0.1
    model.compile(keras.optimizers.SGD(rate), kt.training.SequenceCrossentropy(ignore_id=None), jit_compile=False)
    model.train_on_batch([source, TARGET[:, :-1]], TARGET[:, 1:])
    kt.pretrained.save_model(model, tmp_path / "trained", dtype="float32")
    trained = load_reference(type(reference), tmp_path / "trained").state_dict()
    for key, tensor in step(reference, source, TARGET, rate).state_dict().items():
        change, expected = trained[key] - before[key], tensor.detach() - before[key]
        assert (change - expected).abs().max() <= 1e-4 * max(expected.abs().max(), 1e-2 * rate), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("t5-gated", "T5Model"),
        ("t5-silu", "T5EncoderModel"),
        ("bart", "BartModel"),
        ("marian", "MarianModel"),
        ("whisper", "WhisperModel"),
    ],
)
def test_hidden_states_of_a_bare_model(name, architecture, tmp_path):
    reference = save_random(name, tmp_path / "in", architecture=architecture)
    model, source = kt.pretrained.load_model(tmp_path / "in"), source_of(name)
    if architecture == "T5EncoderModel":
        with torch.no_grad():
            expected = reference(input_ids=torch.tensor(source)).last_hidden_state.numpy()
        found = convert_to_numpy(model(source))
    else:
        expected = outputs(reference, source, TARGET).detach().numpy()
        found = convert_to_numpy(model([source, TARGET]))
    assert abs(found - expected).max() < 2e-4 * abs(expected).max()
    kt.pretrained.save_model(model, tmp_path / "out")
    same(read_tensors(tmp_path / "out"), read_tensors(tmp_path / "in"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "marian", "bart"])
def test_a_generator_of_the_folder_is_transformers_own(name, tmp_path):
    reference = save_random(name, tmp_path, shards="5GB")
    start, source = options_of(name)[1].get("decoder_start_token_id", 2), source_of(name)
    settings = {"decoder_start_token_id": start, "eos_token_id": 4, "pad_token_id": 4, "max_length": 17}
    settings |= {"no_repeat_ngram_size": 2, "begin_suppress_tokens": [4, 13], "suppress_tokens": [7, 29]}
    for beams in (1, 3):
        further = {"forced_bos_token_id": 11, "forced_eos_token_id": 4}
        if beams > 1:
            further = {"num_beams": beams, "length_penalty": 0.8, "early_stopping": "never"}
        (tmp_path / "generation_config.json").write_text(json.dumps({**settings, **further}))
        made = kt.pretrained.load_generator(tmp_path, max_length=17)
        result = made(source)
        with torch.no_grad():
            given = {"input_ids": torch.tensor(source), "attention_mask": torch.ones(source.shape, dtype=torch.long)}
            options = {"output_scores": True, "return_dict_in_generate": True}
            answer = load_reference(type(reference), tmp_path).generate(**given, **options)
        for row, expected in enumerate(answer.sequences.tolist()):
            size = result["lengths"][row, 0]
            is_equal = result["tokens"][row, 0, :size].tolist() == expected[:size]
            if beams == 1:
                assert is_equal, row
            else:  # there a beam ends only among the first, so the best one may be lost
                ours, theirs = result["scores"][row, 0], answer.sequences_scores[row].item()
                assert abs(ours - theirs) < 1e-4 if is_equal else ours > theirs, row


@pytest.mark.slow
def test_lengths_are_those_of_the_file(tmp_path):
    reference, source = save_random("bart", tmp_path, shards="5GB"), source_of("bart")
    ends = [token for token in range(97) if token != 11]
    settings = {"decoder_start_token_id": 2, "eos_token_id": ends, "pad_token_id": 2}
    for lengths, least, most in (
        ({"min_length": 7, "max_length": 17}, 8, 17),
        ({"min_new_tokens": 5, "max_new_tokens": 11}, 7, 12),
        ({"min_length": 17, "max_length": 17, "forced_eos_token_id": 4}, 17, 17),
    ):
        (tmp_path / "generation_config.json").write_text(json.dumps({**settings, **lengths}))
        made = kt.pretrained.load_generator(tmp_path)
        assert made.max_length == most
        result = made(source)
        mask = torch.ones(source.shape, dtype=torch.long)
        expected = load_reference(type(reference), tmp_path).generate(torch.tensor(source), attention_mask=mask)
        assert result["lengths"].tolist() == [[least]] * len(source) and expected.shape[1] == least
        assert result["tokens"][:, 0, :least].tolist() == expected.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("marian", {"bad_words_ids": [[96]], "forced_eos_token_id": 0, "num_beams": 6, "renormalize_logits": True}),
        ("t5", {"num_beams": 4}),
        ("bart", {"early_stopping": True, "forced_bos_token_id": 0, "length_penalty": 2.0, "min_length": 6,
                  "no_repeat_ngram_size": 3, "num_beams": 4}),
    ],
)  # fmt: skip
def test_settings_as_they_are_published_find_the_same_tokens(name, settings, tmp_path):
    """Of Opus-MT, whose padding starts sequences and is forbidden; of T5, and of BART's summaries."""
    start, padding, end = {"marian": (96, 96, 0), "t5": (0, 0, 1), "bart": (2, 1, 2)}[name]
    reference = save_random(name, tmp_path, shards="5GB")
    special = {"decoder_start_token_id": start, "eos_token_id": end, "pad_token_id": padding, "max_length": 17}
    (tmp_path / "generation_config.json").write_text(json.dumps({**special, **settings}))
    source = source_of(name)
    result = kt.pretrained.load_generator(tmp_path, max_length=17)(source)
    reference = load_reference(type(reference), tmp_path)
    mask = torch.ones(source.shape, dtype=torch.long)
    expected = reference.generate(torch.tensor(source), attention_mask=mask).tolist()
    for row in range(2):
        size = result["lengths"][row, 0]
        assert size > 5 and result["tokens"][row, 0, :size].tolist() == expected[row][:size]


@pytest.mark.slow
def test_a_generator_of_a_bare_model_has_its_logits(tmp_path):
    save_random("bart", tmp_path, architecture="BartModel")
    reference = load_reference(transformers.BartForConditionalGeneration, tmp_path)
    generator, source = kt.pretrained.load_generator(tmp_path, max_length=12), source_of("bart", batch=1)
    assert generator.model.output_shape == (None, None, 97)
    expected = outputs(reference, source, TARGET[:1]).detach().numpy()
    found = convert_to_numpy(generator.model([source, TARGET[:1]]))
    assert abs(found - expected).max() < 2e-4 * abs(expected).max()
    kt.pretrained.save_model(generator.model, tmp_path / "out")
    load_reference(transformers.BartForConditionalGeneration, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "t5-gated", "bart", "marian"])
def test_a_shared_table_may_have_any_of_its_names(name, tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    reference, source = save_random(name, tmp_path, shards="5GB"), source_of(name)
    tensors = read_tensors(tmp_path)
    prefix = "" if name.startswith("t5") else "model."
    tensors[f"{prefix}decoder.embed_tokens.weight"] = tensors.pop(f"{prefix}shared.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    if name == "t5":
        rewrite_config(tmp_path, architectures=["T5WithLMHeadModel"])  # as it was called
    model = kt.pretrained.load_model(tmp_path)
    expected = outputs(reference, source, TARGET).detach().numpy()
    assert abs(convert_to_numpy(model([source, TARGET])) - expected).max() < 2e-4 * abs(expected).max()
    model.save(tmp_path / "model.keras")
    kt.pretrained.save_model(keras.models.load_model(tmp_path / "model.keras"), tmp_path / "out")
    same(read_tensors(tmp_path / "out"), tensors)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_texts_go_into_the_encoder_and_come_out_of_the_decoder(tmp_path):
    """What the tokenizer puts around a text, T5's end, say, is there in sources."""
    processors = pytest.importorskip("tokenizers").processors
    tokenizer = byte_level("gpt2")
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", end)])
    size = tokenizer.get_vocab_size()
    save_random("t5", tmp_path, vocab_size=size + 7, shards="5GB", eos_token_id=end)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>", "pad_token": "<pad>"}')
    generator = kt.pretrained.load_generator(tmp_path, max_length=13)
    texts = ["banana", "a ship sails"]
    rows = [tokenizer.encode(text).ids for text in texts]
    assert all(row[-1] == end for row in rows)
    found, expected = generator(texts), generator(rows)
    np.testing.assert_array_equal(found["tokens"], expected["tokens"])
    for row, text in enumerate(found["texts"]):
        ids = [x for x in found["tokens"][row, 0, 1 : found["lengths"][row, 0]] if x < size]
        assert text[0] == tokenizer.decode(ids)


def whisper_settings(folder, **settings) -> kt.Generator:
    given = {
        "decoder_start_token_id": 7,
        "eos_token_id": 5,
        "pad_token_id": 5,
        "no_timestamps_token_id": 23,
        **settings,
    }
    (folder / "generation_config.json").write_text(json.dumps(given))
    return kt.pretrained.load_generator(folder, max_length=20)


@pytest.mark.slow
def test_whisper_is_told_what_to_write(tmp_path):
    reference = save_random("whisper", tmp_path, shards="5GB")
    languages, tasks = {"<|en|>": 31, "<|ko|>": 37}, {"transcribe": 41, "translate": 43}
    both = {"lang_to_id": languages, "task_to_id": tasks}
    suppressed = {"suppress_tokens": [7, 23, 41, 50], "begin_suppress_tokens": [5, 60], "return_timestamps": False}
    source = source_of("whisper")
    for settings, prompt in (
        ({"forced_decoder_ids": [[1, 23]]}, [7, 23]),
        ({"language": "ko", "task": "translate", **both}, [7, 37, 43, 23]),
        ({"language": "<|en|>", **both}, [7, 31, 41, 23]),
        ({}, [7, 23]),
    ):
        result = whisper_settings(tmp_path, **settings, **suppressed)(source)
        for row in range(2):
            expected = list(prompt)
            while len(expected) < 20 and expected[-1] != 5:
                with torch.no_grad():
                    logits = outputs(reference, source[row : row + 1], [expected])[0, -1]
                logits[suppressed["suppress_tokens"]] = -np.inf
                if len(expected) == len(prompt):
                    logits[suppressed["begin_suppress_tokens"]] = -np.inf
                expected.append(int(logits.argmax()))
            assert result["tokens"][row, 0, : len(expected)].tolist() == expected
    detected = whisper_settings(tmp_path, forced_decoder_ids=[[1, None], [2, 41]], **both)(source)["tokens"]
    for row in range(2):
        first = outputs(reference, source[row : row + 1], [[7]])[0, -1].detach().numpy()
        assert detected[row, 0, :4].tolist() == [7, max((31, 37), key=lambda x: first[x]), 41, 23]
    with pytest.raises(ValueError, match=r"language='<\|xx\|>'; known are"):
        whisper_settings(tmp_path, language="xx", **both)
    with pytest.raises(ValueError, match="return_timestamps=True; False is supported"):
        whisper_settings(tmp_path, return_timestamps=True)


def hearing(folder) -> tuple[keras.Model, keras.Model, kt.LogMelSpectrogram]:
    """Whisper, and the same with the features made within."""
    save_random("whisper", folder, shards="5GB")
    whisper = kt.pretrained.load_model(folder)
    sound = keras.Input((None,), name="sound")
    target = keras.Input((None,), dtype="int32", name="target")
    features = kt.LogMelSpectrogram(13, 38 * 50, frame_length=100, stride=50)
    return whisper, keras.Model([sound, target], whisper([features(sound), target])), features


SOUNDS = np.random.default_rng(0).normal(size=(2, 1500)).astype("float32")
HEARING = {"max_length": 12, "end_token": 5, "start_token": 7, "padding_id": None, "jit_compile": False}


@pytest.mark.slow
def test_whisper_hears(tmp_path):
    """A sound goes in; nothing of the features is made outside."""
    whisper, model, features = hearing(tmp_path)
    expected = kt.Generator(whisper, **HEARING)(convert_to_numpy(features(SOUNDS)))
    np.testing.assert_array_equal(kt.Generator(model, **HEARING)(SOUNDS)["tokens"], expected["tokens"])


@pytest.mark.slow
@pytest.mark.tensorflow
def test_whisper_is_exported_from_sounds_to_tokens(tmp_path):
    generator = kt.Generator(hearing(tmp_path / "in")[1], **HEARING)
    expected = generator(SOUNDS)["tokens"]
    assert len(np.unique(expected)) > 3
    kt.export.saved_model(generator, tmp_path / "served")
    kt.export.litert(generator, tmp_path / "model.tflite", batch_size=2, source_length=SOUNDS.shape[1])
    for name in ("served", "model.tflite"):
        np.testing.assert_array_equal(kt.export.load(tmp_path / name)(SOUNDS)["tokens"], expected)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["t5-gated", "bart", "marian"])
def test_texts_go_into_an_export(name, tmp_path):
    save_random(name, tmp_path / "in", shards="5GB")
    model, source = kt.pretrained.load_model(tmp_path / "in"), source_of(name)
    start = options_of(name)[1].get("decoder_start_token_id", 2)
    options = {"start_token": start, "padding_id": None, "processors": [kt.NoRepeatNGram(1)]}  # else one token repeats
    generator = kt.Generator(model, max_length=9, end_token=4, **options)
    source[1, 7:] = padding_of(name)
    expected = generator(source)["tokens"]
    assert len(np.unique(expected)) > 3
    kt.export.saved_model(generator, tmp_path / "served")
    kt.export.litert(generator, tmp_path / "model.tflite", batch_size=2, source_length=11)
    for name in ("served", "model.tflite"):
        np.testing.assert_array_equal(kt.export.load(tmp_path / name)(source)["tokens"], expected)
