"""A bundle says under LiteRT-LM's own engine, and by our own loop, what Python says."""

import importlib
import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.export.bundle import is_placeholder
from keras_transformer.export.bundle_tokenizers import bundled
from keras_transformer_runtime import engine

from .conftest import roughen

pytest.importorskip("litert_lm_builder")
module = importlib.import_module("keras_transformer.export.litertlm")  # whose function has its name
pytestmark = pytest.mark.tensorflow

START, END, OTHER_END, LENGTH = 2, 3, 77, 41
TEMPLATE = (
    "{% for message in messages %}{{ '[' + message['role'] + ']' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[model]' }}{% endif %}"
)
TEXTS = ["the cat sat on the mat.", "the dog sat; a cat and a dog!", "naïve  two spaces", "a<sep>b"]


def bytes_tokenizer(**options):
    return kt.text.ByteTokenizer(**{"add_start": True, **options})


def language_model(*blocks, encoding=None):
    """Of bytes, with weights that make it write more than one byte."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = kt.TokenEmbedding(260, 24)(tokens)
    for layer in filter(None, (encoding, *blocks)):
        x = layer(x)
    return roughen(keras.Model(tokens, keras.layers.Dense(260)(x)))


def block(**options):
    return kt.DecoderLayer(4, 13, head_dim=6, **options)


def generator_of(model, **options):
    tokenizer = options.pop("tokenizer", bytes_tokenizer())
    settings = {"max_length": LENGTH, "start_token": START, "end_token": [END, OTHER_END], "jit_compile": False}
    return kt.Generator(model, target_tokenizer=tokenizer, **{**settings, **options})


@pytest.fixture(scope="module")
def rings():
    """Layers with windows of different lengths, grouped queries, and one that sees all."""
    rotary = kt.RotaryPosition
    blocks = block(window=5, position=rotary(), num_kv_heads=2), block(position=rotary()), block(window=3)
    return language_model(*blocks)


@pytest.fixture(scope="module")
def bundle(rings, tmp_path_factory):
    """A bundle of it that draws, which was proven when it was written, with its generator."""
    pytest.importorskip("litert_lm")
    generator = generator_of(rings, strategy=kt.Sampling(temperature=0.8, top_k=9, seed=5))
    path = tmp_path_factory.mktemp("bundle") / "rings.litertlm"
    report = kt.export.litertlm(generator, path, prefill_lengths=(3, 8), chat_template=TEMPLATE)
    assert report.agreement == 1.0
    return path, generator


PROMPTS = [[START, *range(20, 20 + count)] for count in (0, 1, 3, 8, 29, 40)]


def assert_equal(path, generator, **options):
    """Our own loop gives what the generator gives, behind prompts of all lengths up to that of a sequence."""
    runner = kt.export.load(path)
    seen = set()
    for prompt in PROMPTS:
        expected, actual = generator([prompt], **options), runner([prompt], **options)
        assert actual["tokens"].tolist() == expected["tokens"].tolist(), len(prompt)
        assert actual["lengths"].tolist() == expected["lengths"].tolist()
        np.testing.assert_allclose(actual["scores"], expected["scores"], rtol=1e-4, atol=1e-4)
        assert actual["texts"] == [[str(text) for text in row] for row in expected["texts"]]
        seen |= set(expected["tokens"].ravel().tolist())
    assert len(seen - set(range(20, 60))) > 5


def test_the_own_loop_draws_what_python_draws(bundle):
    path, generator = bundle
    assert_equal(path, generator, seed=7)


def test_streams(bundle):
    path, generator = bundle
    runner = kt.export.load(path)
    assert runner.can_stream
    streams = {seed: runner.stream(["the cat"], seed=seed) for seed in (7, 8)}
    found = {seed: [] for seed in streams}
    for _ in range(LENGTH):  # two at once, each with caches of its own
        for seed, stream in streams.items():
            found[seed] += [int(token[0]) for token in itertools.islice(stream, 1)]
    for seed in streams:
        whole = generator(["the cat"], seed=seed)
        assert found[seed] == whole["tokens"][0, 0, 8 : whole["lengths"][0, 0]].tolist() != []
    with pytest.raises(ValueError, match="one row at a time, got 2"):
        runner.stream(["a", "b"])


def test_several_rows_and_none(bundle):
    path, generator = bundle
    runner = kt.export.load(path)
    rows = runner(["the cat", "a"], seed=7)
    for row, text in enumerate(["the cat", "a"]):
        assert rows["tokens"][row].tolist() == generator([text], seed=7)["tokens"][0].tolist()
    assert runner([])["tokens"].shape == (0, 1, LENGTH)


def test_what_the_runtime_is_told(bundle):
    from google.protobuf import text_format
    from litert_lm_builder import unpack
    from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

    path, _ = bundle
    folder = path.parent / "unpacked"
    unpack(str(path), str(folder))
    metadata = text_format.Parse((folder / "LlmMetadataProto.pbtext").read_text(), LlmMetadata())
    assert list(metadata.start_token.token_ids.ids) == [START]
    assert [list(x.token_ids.ids) for x in metadata.stop_tokens] == [[END], [OTHER_END]]
    assert metadata.max_num_tokens == LENGTH
    parameters = metadata.sampler_params
    assert (parameters.k, parameters.p, parameters.seed) == (9, 1.0, 5)
    assert parameters.temperature == pytest.approx(0.8)
    assert metadata.jinja_prompt_template.endswith(TEMPLATE)


ENGINE = """
import json, sys
import litert_lm

path, turns = sys.argv[1], json.loads(sys.argv[2])
greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
with litert_lm.Engine(path, backend=litert_lm.Backend.CPU(), cache_dir=":nocache") as engine:
    with engine.create_session(apply_prompt_template=False, sampler_config=greedy, max_output_tokens=4) as session:
        answers = []
        for turn in turns:
            session.run_prefill([turn])
            answers += session.run_decode().texts
print(json.dumps(answers))
"""


def test_a_second_turn_reads_behind_the_first(bundle, rings):
    """What was said, asked and answered, is one sequence. The token that a turn ends with is read in the next."""
    path, _ = bundle
    turns = ["ab cde", "fghij", "k"]
    process = subprocess.run(
        [sys.executable, "-c", ENGINE, str(path), json.dumps(turns)], capture_output=True, text=True, check=True
    )
    answers = json.loads(process.stdout.splitlines()[-1])
    generator, tokenizer = generator_of(rings), bytes_tokenizer(add_start=False)
    row = [START]
    for turn, answer in zip(turns, answers, strict=True):
        row += [int(id) for id in tokenizer([turn])[0]]
        result = generator([row], max_length=len(row) + 4)
        new = result["tokens"][0, 0, len(row) : result["lengths"][0, 0]].tolist()
        assert tokenizer.detokenize([new]).numpy()[0].decode(errors="replace") == answer
        row += new


CONVERSATION = """
import json, sys
import litert_lm

greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
with litert_lm.Engine(sys.argv[1], backend=litert_lm.Backend.CPU(), cache_dir=":nocache") as engine:
    with engine.create_conversation(sampler_config=greedy) as conversation:
        answer = conversation.send_message({"role": "user", "content": "Hi"}, max_output_tokens=4)
        print(json.dumps(answer["content"][0]["text"]))
"""


def test_a_conversation_by_the_template(bundle, rings):
    path, _ = bundle
    process = subprocess.run(
        [sys.executable, "-c", CONVERSATION, str(path)], capture_output=True, text=True, check=True
    )
    row = [START, *bytes_tokenizer(add_start=False)(["[user]Hi\n[model]"]).numpy()[0].tolist()]
    result = generator_of(rings)([row], max_length=len(row) + 4)
    new = result["tokens"][0, 0, len(row) : result["lengths"][0, 0]].tolist()
    expected = bytes_tokenizer().detokenize([new]).numpy()[0].decode(errors="replace")
    assert json.loads(process.stdout.splitlines()[-1]) == expected


@pytest.mark.parametrize(
    "template, message",
    [
        pytest.param("{{ messages[0].content.upper() }}", "cannot apply", marks=pytest.mark.slow),
        ("{{ bos_token }}x", "makes 'x' of a"),
    ],
)
def test_a_template_that_the_runtime_reads_otherwise(template, message, rings, tmp_path):
    pytest.importorskip("litert_lm")
    tokenizer = bytes_tokenizer()
    tokenizer.named_tokens = {"bos_token": "<s>"}
    options = {"prefill_lengths": [1], "samples": ["abc"], "chat_template": template}
    with pytest.raises(kt.export.ExportMismatchError, match=message):
        kt.export.litertlm(generator_of(rings, tokenizer=tokenizer), tmp_path / "x.litertlm", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "blocks, encoding",
    [
        ([{"window": 7}, {}], kt.PositionalEncoding()),
        pytest.param([{"position": "alibi", "window": 7}, {"position": "alibi"}], None, marks=pytest.mark.slow),
        pytest.param([{"position": "relative"}], None, marks=pytest.mark.slow),
        pytest.param([{}, {}], "learned", marks=pytest.mark.slow),
    ],
)
def test_positions_of_all_kinds(blocks, encoding, tmp_path):
    pytest.importorskip("litert_lm")
    positions = {"alibi": kt.AlibiPosition, "relative": lambda: kt.RelativePosition(8, 16)}
    blocks = [{**x, "position": positions[x["position"]]()} if "position" in x else x for x in blocks]
    encoding = kt.LearnedPositionalEncoding(LENGTH) if encoding == "learned" else encoding
    generator = generator_of(language_model(*(block(**options) for options in blocks), encoding=encoding))
    report = kt.export.litertlm(generator, tmp_path / "x.litertlm", prefill_lengths=[4])
    assert report.agreement == 1.0 and set(report.signatures) == {"prefill_1", "prefill_4", "decode", "select"}
    assert_equal(tmp_path / "x.litertlm", generator)


@pytest.mark.slow
def test_a_layer_called_twice_from_several_threads(tmp_path):
    """Each call has a cache of its own, and so has each sequence; an empty text is the start token alone."""
    layer = block(window=5, position=kt.RotaryPosition())
    generator = generator_of(language_model(layer, layer), strategy=kt.Sampling(seed=1, top_k=20))
    kt.export.litertlm(generator, tmp_path / "x.litertlm", prefill_lengths=[4], verify=False)
    runner = kt.export.load(tmp_path / "x.litertlm")
    cases = [(text, seed) for text in ("", "a", "hello", "x" * (LENGTH - 1)) for seed in (1, 2)]
    expected = [generator([text], seed=seed)["tokens"].tolist() for text, seed in cases]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda case: runner([case[0]], seed=case[1])["tokens"].tolist(), cases * 3))
    assert found == expected * 3


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["float16", "int8", "int4"])
def test_small_weights(quantize, rings, tmp_path):
    pytest.importorskip("litert_lm")
    whole = kt.export.litertlm(generator_of(rings), tmp_path / "whole.litertlm", verify=False, prefill_lengths=[1])
    report = kt.export.litertlm(
        generator_of(rings), tmp_path / "small.litertlm", quantize=quantize, prefill_lengths=[1]
    )
    assert report.size < whole.size
    runner, generator = kt.export.load(tmp_path / "small.litertlm"), generator_of(rings)
    actual, expected = (f(["the cat"])["scores"] for f in (runner, generator))  # sums over whole sequences
    np.testing.assert_allclose(actual, expected, rtol={"float16": 0.01, "int8": 0.1, "int4": 0.5}[quantize])


# What is refused


def test_an_encoder_decoder_is_sent_to_litert(encoder_decoder, tmp_path):
    with pytest.raises(ValueError, match=r"decoder-only model.*kt\.export\.litert takes it as it is"):
        kt.export.litertlm(encoder_decoder, tmp_path / "x.litertlm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"strategy": kt.BeamSearch(2)}, "takes the most probable token, or draws one"),
        ({"strategy": kt.Sampling(min_p=0.1)}, "takes the most probable token, or draws one"),
        ({"processors": [kt.decoding.processors.RepetitionPenalty(1.3)]}, "does not know of"),
        ({"cache": False}, "was made with cache=False"),
        ({"tokenizer": None}, "has a tokenizer of keras_transformer.text, got None"),
    ],
)
def test_what_the_runtime_cannot_do(options, message, rings, tmp_path):
    with pytest.raises(ValueError, match=message):
        kt.export.litertlm(generator_of(rings, **options), tmp_path / "x.litertlm")
    assert not list(tmp_path.iterdir())


def test_a_recurrence_has_no_place(tmp_path):
    model = language_model(kt.RecurrentDecoderLayer(8, "gru"))
    with pytest.raises(ValueError, match=r"keys and values of earlier tokens, and nothing else"):
        kt.export.litertlm(generator_of(model), tmp_path / "x.litertlm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "lengths, message", [([0], "from 1 to max_length"), ([LENGTH + 1], "from 1 to"), (8.0, "from 1"), ([13], "prime")]
)
def test_prefill_lengths(lengths, message, rings, tmp_path):
    with pytest.raises(ValueError, match=message):
        kt.export.litertlm(generator_of(rings), tmp_path / "x.litertlm", prefill_lengths=lengths)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("x.bin", {}, r"by its name, 'model\.litertlm' say, got .*x\.bin"),
        ("x.litertlm", {"samples": "abc"}, "a list of texts, none of them empty, got 'abc'"),
        ("x.litertlm", {"samples": ["a", ""]}, "a list of texts, none of them empty"),
        ("x.litertlm", {"samples": []}, "a list of texts"),
        ("x.litertlm", {"quantize": "int2"}, "quantize as one of"),
        ("x.litertlm", {"tokenizer": bytes_tokenizer(max_length=9)}, "cuts texts off behind 9 ids"),
    ],
)
def test_arguments(name, options, message, rings, tmp_path):
    with pytest.raises(ValueError, match=message):
        kt.export.litertlm(generator_of(rings), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_any_seed_goes_in(rings):
    from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

    for seed, written in ((-1, -1), (2**32 - 1, -1), (7, 7)):
        generator = generator_of(rings, strategy=kt.Sampling(seed=seed))
        metadata = LlmMetadata.FromString(module._metadata(generator, bytes_tokenizer(), None))
        assert metadata.sampler_params.seed == written


def test_primes_are_placeholders():
    expected = [n for n in range(11, 200) if all(n % k for k in range(2, n))]
    assert [n for n in range(1, 200) if is_placeholder(n)] == expected


def test_another_tokenizer_in_the_bundle_is_noticed(rings, tmp_path, monkeypatch):
    """One that reads the same texts as other ids: every byte as the next one."""
    pytest.importorskip("litert_lm")

    def shifted(tokenizer):
        section = bundled(tokenizer)
        definition = json.loads(section.content)
        words = definition["model"]["vocab"]
        definition["model"]["vocab"] = {word: id if id < 4 else 4 + (id - 3) % 256 for word, id in words.items()}
        return section._replace(content=json.dumps(definition).encode())

    monkeypatch.setattr(module, "bundled", shifted)
    with pytest.raises(kt.export.ExportMismatchError, match="reads .* as the ids"):
        kt.export.litertlm(generator_of(rings), tmp_path / "x.litertlm", prefill_lengths=[1], samples=["abc"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_model_in_the_bundle_is_noticed(rings, tmp_path, monkeypatch):
    pytest.importorskip("litert_lm")
    convert, kernel = module.convert, rings.layers[-1].kernel

    def changed(*arguments):
        before = keras.ops.convert_to_numpy(kernel)
        kernel.assign(-before)
        try:
            return convert(*arguments)
        finally:
            kernel.assign(before)

    monkeypatch.setattr(module, "convert", changed)
    with pytest.raises(kt.export.ExportMismatchError, match="goes on after"):
        kt.export.litertlm(generator_of(rings), tmp_path / "x.litertlm", prefill_lengths=[1], samples=["abc"])
    assert not list(tmp_path.iterdir())


def test_what_the_engine_adds_is_no_agreement():
    """Where nothing was expected, too."""

    class Engine:
        def detokenize(self, ids):
            return "".join(chr(id) for id in ids)

    assert engine._agreement(Engine(), [97, 98], "ab") == {"wanted": "ab", "is_equal": True, "agreed": 2}
    assert engine._agreement(Engine(), [97, 98], "ac") == {"wanted": "ab", "is_equal": False, "agreed": 1}
    assert engine._agreement(Engine(), [97], "ab") == {"wanted": "a", "is_equal": False, "agreed": 1}
    assert engine._agreement(Engine(), [], "a") == {"wanted": "", "is_equal": False, "agreed": 0}


def test_a_damaged_bundle_is_noticed(bundle, tmp_path):
    path, _ = bundle
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.litertlm").write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        kt.export.load(tmp_path / "x.litertlm")
    (tmp_path / "y.litertlm").write_bytes(content[:1000])
    with pytest.raises(ValueError, match=r"not written by kt\.export\.litert or kt\.export\.litertlm"):
        kt.export.load(tmp_path / "y.litertlm")


# Tokenizers


def tokenizers_of_all_kinds():
    characters = "".join(sorted(set("".join(TEXTS))))
    yield kt.text.ByteTokenizer()
    yield kt.text.ByteTokenizer(special_tokens=["<sep>"])
    yield kt.text.CharacterTokenizer(characters)
    yield kt.text.CharacterTokenizer(characters, special_tokens=["<sep>"])
    yield kt.text.WordPieceTokenizer.train(TEXTS, 60)
    yield kt.text.WordPieceTokenizer.train(TEXTS, 60, fold_case=True, special_tokens=["<sep>"])


ODD = [
    *TEXTS,
    "Zażółć gęślą jaźń 한국어 ünï — \U0001f600",
    "new\nline\tand\r\nmore",
    " lead",
    "trail ",
    "a <sep> c<sep>",
    "中文字符 mixed中x",
    "don't re-enter 3.14 $5 <s> </s> <pad> <unk>",
    "ABC Ünder",
]


@pytest.mark.parametrize("number", range(6))
def test_a_tokenizer_of_the_package_as_a_file_of_tokenizers(number):
    """The ids of odd texts, and the texts of these ids, by the `tokenizers` package, which the runtime has, too."""
    library = pytest.importorskip("tokenizers")
    tokenizer = list(tokenizers_of_all_kinds())[number]
    other = library.Tokenizer.from_str(bundled(tokenizer).content.decode())
    for text in ODD:
        ids = tokenizer.tokenize_ragged([text])[0].numpy().tolist()
        assert other.encode(text, add_special_tokens=False).ids == ids, text
        assert other.decode(ids) == tokenizer.detokenize([ids]).numpy()[0].decode(errors="replace"), text


def test_a_sentencepiece_model_with_special_tokens():
    sentencepiece = pytest.importorskip("sentencepiece")
    tokenizer = kt.text.SentencePieceTokenizer.train(TEXTS, 32, special_tokens=["<sep>"])
    plain = kt.text.SentencePieceTokenizer(tokenizer.model)
    assert bundled(plain) == (".model", tokenizer.model)
    other = sentencepiece.SentencePieceProcessor(model_proto=bundled(tokenizer).content)
    assert other.id_to_piece(32) == "<sep>" and other.vocab_size() == 33
    for text in ("the cat <sep>", "<sep>"):
        assert 32 in other.encode(text) and 32 in tokenizer([text]).numpy()


def test_what_no_bundle_holds():
    tokenizer = kt.text.Tokenizer()
    with pytest.raises(ValueError, match=r"holds a SentencePiece model or a tokenizer\.json, and Tokenizer is neither"):
        bundled(tokenizer)


def test_a_template_of_several_is_the_default():
    class Several:
        chat_template = {"default": "a", "tool_use": "b"}

    assert module._template(Several()) == "a"
    assert module._template(kt.text.ByteTokenizer()) is None
