"""GGUF files, made of a random model as the converter makes them."""

import contextlib
import json

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .cases import CASES
from .checkpoints import CHAT, KINDS, odd_strings
from .helpers import outputs, read_tensors, save_random

gguf = pytest.importorskip("gguf")
pytest.importorskip("sentencepiece")
tokenizers = pytest.importorskip("tokenizers")
from .sentencepiece_folders import sentencepiece_folder  # noqa: E402

IDS = np.random.default_rng(7).integers(0, 97, (2, 11))


@contextlib.contextmanager
def writing(path, architecture: str = "llama"):
    """What a file is written by, once all is added to it."""
    writer = gguf.GGUFWriter(path, architecture)
    yield writer
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert(folder, path, architecture: str, **further) -> None:
    """The file of a folder: rows of queries and keys of a llama in pairs of neighbours."""
    kind, options = CASES[folder.name]
    heads, kv_heads = options["num_attention_heads"], options["num_key_value_heads"]
    with writing(path, architecture) as writer:
        writer.add_block_count(options["num_hidden_layers"])
        writer.add_embedding_length(options["hidden_size"])
        writer.add_feed_forward_length(options["intermediate_size"])
        writer.add_head_count(heads)
        writer.add_head_count_kv(kv_heads)
        writer.add_layer_norm_rms_eps(options.get("rms_norm_eps", 1e-6))
        writer.add_context_length(2048)
        writer.add_vocab_size(97)
        if "head_dim" in options:
            writer.add_key_length(options["head_dim"])
            writer.add_value_length(options["head_dim"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        for name, value in further.items():
            writer.add_float32(f"{architecture}.{name}", value)
        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        names = gguf.get_tensor_name_map(kinds[architecture], options["num_hidden_layers"])
        for name, tensor in read_tensors(folder).items():
            values = tensor.float().numpy()
            if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
                count = heads if "q_proj" in name else kv_heads
                pairs = values.reshape(count, 2, len(values) // count // 2, *values.shape[1:])
                values = pairs.swapaxes(1, 2).reshape(values.shape)
            if name.endswith("norm.weight") and architecture == "gemma3":
                values = values + 1
            name = names.get_name(name, (".weight", ".bias"))
            writer.add_tensor(name, np.ascontiguousarray(values))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "architecture"), [("llama", "llama"), ("qwen3-tied", "qwen3")])
def test_a_file_is_the_checkpoint_it_was_made_of(name, architecture, tmp_path):
    reference = save_random(name, tmp_path / name)
    convert(tmp_path / name, tmp_path / "x.gguf", architecture)
    model = kt.pretrained.load_model(tmp_path / "x.gguf")
    expected = outputs(reference, IDS)
    assert abs(keras.ops.convert_to_numpy(model(IDS)) - expected).max() < 2e-4 * abs(expected).max()
    kt.pretrained.save_model(model, tmp_path / "out")
    before, after = read_tensors(tmp_path / name), read_tensors(tmp_path / "out")
    assert before.keys() == after.keys() and all((before[key] == after[key]).all() for key in before)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [type(reference).__name__]


def test_what_is_not_known_of_a_file(tmp_path):
    save_random("qwen3-tied", tmp_path / "qwen3-tied")
    convert(tmp_path / "qwen3-tied", tmp_path / "x.gguf", "qwen3", wobble=0.25)
    with pytest.raises(ValueError, match=r"wobble=0.25"):
        kt.pretrained.load_model(tmp_path / "x.gguf")
    with writing(tmp_path / "y.gguf", "dragon"):
        pass
    with pytest.raises(ValueError, match="architecture 'dragon'; known in GGUF files are"):
        kt.pretrained.load_model(tmp_path / "y.gguf")
    (tmp_path / "z.gguf").write_bytes(b"what is this")
    with pytest.raises(ValueError, match="no GGUF file"):
        kt.pretrained.load_model(tmp_path / "z.gguf")


def write_tokenizer(path, oracle, words, **options):
    """A file with a tokenizer and nothing else."""
    content = json.loads(oracle.to_str())
    size = 1 + max(content["model"]["vocab"].values())
    tokens = [oracle.id_to_token(id) or f"[PAD{id}]" for id in range(size)]
    special = {token["id"] for token in content["added_tokens"]}
    with writing(path) as writer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(words)
        writer.add_token_list(tokens)
        writer.add_token_types(
            [gguf.TokenType.CONTROL if id in special else gguf.TokenType.NORMAL for id in range(size)]
        )
        writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
        writer.add_bos_token_id(oracle.token_to_id("<s>"))
        writer.add_eos_token_id(oracle.token_to_id("</s>"))
        writer.add_chat_template(CHAT)
        for name, value in options.items():
            getattr(writer, name)(value)


@pytest.mark.parametrize(
    ("kind", "words"), [("gpt2", "gpt-2"), ("smollm", "smollm"), ("llama3", "llama-bpe"), ("qwen", "qwen2")]
)
def test_the_tokenizer_of_a_file(kind, words, tmp_path):
    oracle, texts = KINDS[kind](), odd_strings(503)
    write_tokenizer(tmp_path / "x.gguf", oracle, words)
    tokenizer = kt.pretrained.load_tokenizer(tmp_path / "x.gguf")
    expected = [row.ids for row in oracle.encode_batch(texts)]
    found = [[int(id) for id in row] for row in tokenizer.tokenize_ragged(texts)]
    assert found == expected
    written = "<|im_start|>user\nHi<|im_end|>\n"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == written
    assert (tokenizer.start_id, tokenizer.end_id) == (oracle.token_to_id("<s>"), oracle.token_to_id("</s>"))


@pytest.mark.parametrize("model_type", ["llama", "gemma"])
def test_the_sentencepiece_model_of_a_file(model_type, tmp_path):
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_folder(tmp_path, model_type)
    pieces = sentencepiece_model_pb2.ModelProto.FromString((tmp_path / "tokenizer.model").read_bytes()).pieces
    with writing(tmp_path / "x.gguf") as writer:
        writer.add_tokenizer_model("llama")
        writer.add_token_list([piece.piece for piece in pieces])
        writer.add_token_scores([piece.score for piece in pieces])
        writer.add_token_types([piece.type for piece in pieces])
        writer.add_bos_token_id(model.bos_id())
        writer.add_eos_token_id(model.eos_id())
        writer.add_unk_token_id(model.unk_id())
        writer.add_add_space_prefix(model_type == "llama")
    texts = odd_strings(307)
    expected = kt.pretrained.load_tokenizer(tmp_path).tokenize_ragged(texts).to_list()
    assert kt.pretrained.load_tokenizer(tmp_path / "x.gguf").tokenize_ragged(texts).to_list() == expected


def test_tokenizers_that_are_not_known(tmp_path):
    write_tokenizer(tmp_path / "x.gguf", KINDS["gpt2"](), "tekken")
    with pytest.raises(ValueError, match="words of the kind 'tekken'; known in GGUF files are"):
        kt.pretrained.load_tokenizer(tmp_path / "x.gguf")
    with writing(tmp_path / "y.gguf"):
        pass
    with pytest.raises(ValueError, match="holds no tokenizer"):
        kt.pretrained.load_tokenizer(tmp_path / "y.gguf")


def test_metadata_of_the_wrong_kind(tmp_path):
    with writing(tmp_path / "x.gguf") as writer:
        writer.add_string("llama.attention.head_count", "4")
    with pytest.raises(ValueError, match="attention.head_count='4'; a whole number above 0 is expected"):
        kt.pretrained.load_model(tmp_path / "x.gguf")
    for changes, message in (
        ({"bos_token_id": 2}, "has 2 tokens; there are none of these ids: {'bos_token': 2}"),
        ({"token_types": [1, 1, 1]}, "has 2 tokens and 3 numbers in tokenizer.ggml.token_type"),
        ({"tokenizer_pre": "gpt-2"}, "no setting 'ggml.merges'"),
    ):
        with writing(tmp_path / "x.gguf") as writer:
            writer.add_tokenizer_model("gpt2")
            writer.add_token_list(["a", "b"])
            for name, value in changes.items():
                getattr(writer, f"add_{name}")(value)
        with pytest.raises(ValueError, match=message):
            kt.pretrained.load_tokenizer(tmp_path / "x.gguf")
