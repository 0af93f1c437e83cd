"""A checkpoint's tokenizer gives the ids, the texts and the prompts that its own packages give."""

import itertools
import json

import keras
import numpy as np
import pytest

import keras_transformer as kt

pytest.importorskip("tensorflow")
pytestmark = pytest.mark.once
tokenizers = pytest.importorskip("tokenizers")

from .checkpoints import ADDED, CHAT, KINDS, SPECIAL, TEXTS, odd_strings  # noqa: E402

ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
BERT = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def write(folder, tokenizer, config=None, **files):
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}))
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


@pytest.fixture(scope="module")
def trained():
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = KINDS[kind]()
            made[kind].add_special_tokens(ADDED[:1])
            made[kind].add_tokens(ADDED[1:])
        return made[kind]

    return get


@pytest.mark.parametrize(
    ("kind", "name", "switches"),
    [
        ("wordpiece", "BertTokenizer", {"do_lower_case": False, "strip_accents": True}),
        ("cased", "DistilBertTokenizer", {"do_lower_case": True, "tokenize_chinese_chars": False}),
        ("gpt2", "GPT2TokenizerFast", {"add_prefix_space": True}),
        ("smollm", "PreTrainedTokenizerFast", {"add_prefix_space": True, "do_lower_case": True}),
        ("gpt2", "PreTrainedTokenizerFast", {"lstrip": True}),
        ("gpt2", "GPT2Tokenizer", {"rstrip": True}),
    ],
)
def test_switches_beside_the_file_count_as_in_transformers(tmp_path, kind, name, switches):
    transformers = pytest.importorskip("transformers")
    oracle, roles = KINDS[kind](), BERT if kind in ("wordpiece", "cased") else ROLES
    if "lstrip" in switches or "rstrip" in switches:
        added = {str(id): token.__getstate__() for id, token in oracle.get_added_tokens_decoder().items()}
        added[str(oracle.token_to_id("<|im_end|>"))].update(switches)
        switches = {"added_tokens_decoder": added}
    folder = write(tmp_path, oracle, {**roles, **switches, "tokenizer_class": name})
    ours, theirs = kt.pretrained.load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    texts = [*odd_strings(101), "É naïve 漢字 x", "a <|im_end|>  b <mask> c"]
    expected = theirs(texts)["input_ids"]
    assert ours.tokenize_ragged(texts).to_list() == expected
    differs = [row.ids for row in oracle.encode_batch(texts)] != expected
    assert differs == (name != "PreTrainedTokenizerFast" or "added_tokens_decoder" in switches)


def test_switches_that_cannot_be_followed_are_named(tmp_path, trained):
    llama = {**ROLES, "tokenizer_class": "LlamaTokenizer"}
    folder = write(tmp_path, trained("llama2"), {**llama, "add_prefix_space": False})
    with pytest.warns(UserWarning, match="add_prefix_space=False, .*tokenizer.json' beside it True, which is taken"):
        kt.pretrained.load_tokenizer(folder)
    write(folder, trained("llama2"), {**llama, "add_prefix_space": True})
    kt.pretrained.load_tokenizer(folder)
    write(folder, trained("llama2"), {**llama, "split_special_tokens": True})
    with pytest.raises(ValueError, match="split_special_tokens=True"):
        kt.pretrained.load_tokenizer(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_equal_those_of_the_package(tmp_path, trained, kind):
    oracle = trained(kind)
    tokenizer = kt.pretrained.load_tokenizer(write(tmp_path, oracle, BERT if kind in ("wordpiece", "cased") else ROLES))
    texts = odd_strings(503)
    expected = [row.ids for row in oracle.encode_batch(texts)]
    assert tokenizer.tokenize_ragged(texts).to_list() == expected
    assert tokenizer.vocabulary_size == oracle.get_vocab_size()
    ids = [row.ids for row in oracle.encode_batch(texts, add_special_tokens=False)]
    ids = [[id for id in row if id not in tokenizer.stop_ids()] for row in ids]
    back = [text.decode() for text in tokenizer.detokenize(ids).numpy()]
    assert back == oracle.decode_batch(ids, skip_special_tokens=True)
    chats = [[*a, tokenizer.end_id, *b, tokenizer.pad_id, *a] for a, b in itertools.pairwise(expected[:53])]
    lengths = [len(row) for row in chats]
    table = np.full((len(chats), max(lengths) + 1), 7)
    for row, chat in zip(table, chats, strict=True):
        row[: len(chat)] = chat
    whole = oracle.decode_batch(chats, skip_special_tokens=True)
    for rows in (chats, table):
        assert [text.decode() for text in tokenizer.detokenize(rows, lengths=lengths).numpy()] == whole


def test_transformers_reads_the_same_folder_so(tmp_path, trained):
    transformers = pytest.importorskip("transformers")
    chat = [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "1 < 2 & 'so'?\n"},
        {"role": "assistant", "content": "Yes.", "reasoning": "easy"},
    ]
    for kind, roles in (("wordpiece", BERT), ("llama3", ROLES), ("mistral", ROLES)):
        config = {
            **roles,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "additional_special_tokens": ["<|im_end|>", "<new>"],
        }
        folder = write(tmp_path / kind, trained(kind), config, chat_template__jinja=CHAT)
        ours = kt.pretrained.load_tokenizer(folder)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        texts = odd_strings(101) + ["a<new> b"]
        assert ours.tokenize_ragged(texts).to_list() == theirs(texts)["input_ids"]
        start = theirs.bos_token_id if kind != "wordpiece" else theirs.cls_token_id
        assert (ours.start_id, ours.pad_id, ours.mask_id) == (start, theirs.pad_token_id, theirs.mask_token_id)
        for prompt in (False, True):
            text = theirs.apply_chat_template(chat, add_generation_prompt=prompt, tokenize=False)
            assert ours.apply_chat_template(chat, add_generation_prompt=prompt, tokenize=False) == text
            ids = theirs.apply_chat_template([chat, chat[1:]], add_generation_prompt=prompt, return_dict=False)
            assert ours.apply_chat_template([chat, chat[1:]], add_generation_prompt=prompt) == ids
        assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat, return_dict=False)


TEMPLATES = [
    "{{ bos_token }}{% for m in messages %}{% if loop.first %}<{{ m.role }}>{% endif %}\n  {% if m.content is string %}"
    "{{ m.content }}{% else %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}\n{% endfor %}",
    "{% for m in messages %}{% if m.role == 'x' %}{% break %}{% endif %}{{ m | tojson }}"
    "{{ m | tojson(indent=2) }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% endfor %}{{ ns.n }}{{ tools | tojson if tools }}"
    "{{ documents | length if documents }}{{ thinking }}",
    "{{ strftime_now('%Y') }}{% for m in messages %}{{ m.get('thinking', '-') }}{{ m['reasoning_content'] }}"
    "{% endfor %}{{ dict(a=1) | tojson }}",
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_render_as_in_transformers(tmp_path, trained, template):
    transformers = pytest.importorskip("transformers")
    config = {**ROLES, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    folder = write(tmp_path, trained("gpt2"), config)
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "ünï <b>"}, {"type": "text", "text": "2"}], "name": None},
        {
            "role": "assistant",
            "content": "a",
            "thinking": "hm",
            "tool_calls": [{"function": {"arguments": {"x": 1.5}}}],
        },
    ]
    extras = {"tools": [{"name": "f", "parameters": {"type": "object"}}], "documents": [{"title": "t", "text": "d"}]}
    ours, theirs = kt.pretrained.load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for variables in ({}, {**extras, "thinking": True}):
        expected = theirs.apply_chat_template(messages, tokenize=False, **variables)
        assert ours.apply_chat_template(messages, tokenize=False, **variables) == expected


def test_templates_cannot_leave_the_sandbox(tmp_path, trained):
    bad = {
        "{{ messages.__class__.__mro__ }}": "no such conversation",
        "{{ raise_exception('only users') }}": "only users",
        "{% for m in messages %}": "damaged",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}": "not allowed|damaged",
        "{{ messages.append(1) }}": "no such conversation",
        "{{ cycler.__init__.__globals__.os }}": "no such conversation",
    }
    tokenizer = kt.pretrained.load_tokenizer(write(tmp_path, trained("gpt2"), ROLES))
    with pytest.raises(ValueError, match="this checkpoint has none"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}])
    for template, message in bad.items():
        with pytest.raises(ValueError, match=message):
            print(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": "a"}], chat_template=template, tokenize=False
                )
            )
    for messages in ([], "a", {"role": "user"}, ["a"]):
        with pytest.raises(ValueError, match="a conversation is a list of dicts"):
            tokenizer.apply_chat_template(messages, chat_template=CHAT)


def test_several_templates_by_name(tmp_path, trained):
    folder = write(tmp_path, trained("gpt2"), ROLES, chat_template__jinja="plain")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    tokenizer = kt.pretrained.load_tokenizer(folder)
    messages, options = [{"role": "user", "content": "a"}], {"tokenize": False}
    assert tokenizer.apply_chat_template(messages, **options) == "plain"
    assert tokenizer.apply_chat_template(messages, tools=[], **options) == "tools"
    assert tokenizer.apply_chat_template(messages, chat_template="tool_use", **options) == "tools"


def test_what_stands_around_a_text_is_the_templates_unless_told_otherwise(tmp_path, trained):
    oracle = trained("gpt2")
    folder = write(tmp_path, oracle, ROLES)
    plain = kt.pretrained.load_tokenizer(folder)
    ids = oracle.encode("a fox").ids
    assert plain(["a fox"]).numpy().tolist() == [ids] and not plain.add_start
    framed = plain.copy(add_start=True, add_end=True)
    assert framed(["a fox"]).numpy().tolist() == [[2, *ids, 3]]
    assert framed.copy(max_length=3)(["a fox", ""]).numpy().tolist() == [[2, ids[0], 3], [2, 3, 0]]
    assert framed.copy(special_tokens=["fox"])(["fox"]).numpy().tolist() == [[2, plain.vocabulary_size, 3]]
    two = oracle.from_str(oracle.to_str())
    two.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> <|im_start|> $A </s> <|im_end|>", "$A $B", [(x, oracle.token_to_id(x)) for x in SPECIAL[2:]]
    )
    two.enable_truncation(3)
    two.enable_padding(length=7, pad_id=0, pad_token="<pad>")
    both = kt.pretrained.load_tokenizer(write(tmp_path, two, ROLES))
    assert both(["a fox", "a"]).numpy().tolist() == [[2, 4, *ids, 3, 5], [2, 4, ids[0], 3, 5, *[0] * (len(ids) - 1)]]
    assert both.copy(max_length=5)(["a fox"]).numpy().tolist() == [[2, 4, ids[0], 3, 5]]
    assert both.copy(add_end=False).tokenize_ragged(["a"]).to_list() == [[2, 4, ids[0]]]
    assert both.detokenize(both(["a fox"])).numpy().tolist() == [b"a fox"]


def test_it_is_saved_with_models_and_in_files(tmp_path, trained):
    folder = write(tmp_path, trained("mistral"), ROLES, chat_template__jinja=CHAT)
    tokenizer = kt.pretrained.load_tokenizer(folder, add_end=True)
    tokenizer.save(tmp_path / "own.json")
    copies = [
        kt.text.Tokenizer.load(tmp_path / "own.json"),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(tokenizer)),
    ]
    chat = [{"role": "user", "content": "a"}]
    for copy in copies:
        assert copy(TEXTS).numpy().tolist() == tokenizer(TEXTS).numpy().tolist()
        assert copy.apply_chat_template(chat) == tokenizer.apply_chat_template(chat)
        assert copy.get_config() == {**tokenizer.get_config(), "name": copy.name}


def test_ids_that_do_not_fit_the_model_are_named(tmp_path, trained):
    oracle = trained("gpt2")
    size = oracle.get_vocab_size()
    folder = write(tmp_path, oracle, {**ROLES, "image_token": "<tool>"})
    with pytest.raises(
        ValueError, match=rf"the model has {size - 2} ids.*1 tokens have others: '<mask>' is {size - 2}"
    ):
        kt.pretrained.load_tokenizer(folder, vocabulary_size=size - 2)
    fits = kt.pretrained.load_tokenizer(folder, vocabulary_size=size - 1)  # the picture has no row in a text model
    assert max(fits.tokenize_ragged(["<tool>"]).to_list()[0]) < size - 1
    large = kt.pretrained.load_tokenizer(folder, vocabulary_size=size + 3)
    assert large.vocabulary_size == size + 3
    ids = [[*oracle.encode("a fox").ids, size + 1, size + 7, -1]]
    assert large.detokenize(ids).numpy().tolist() == [b"a fox"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tokenizer_config.json", {"eos_token": ["</s>"]}),
        ("tokenizer_config.json", {"eos_token": {"content": 7}}),
        ("tokenizer_config.json", {"eos_token": {"content": "</s>", "lstrip": "yes"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": [{"content": "</s>"}]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "</s>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"2": None}}),
        ("tokenizer_config.json", {"extra_special_tokens": [7]}),
        ("tokenizer_config.json", {"chat_template": {"default": "x"}}),
        ("tokenizer_config.json", {"chat_template": [{"name": "default"}]}),
        ("special_tokens_map.json", {"additional_special_tokens": "<tool>"}),
        ("added_tokens.json", {"<tool>": "7"}),
        ("config.json", {"model_type": ["gpt2"]}),
        ("config.json", {"max_position_embeddings": "512"}),
    ],
)
def test_settings_of_the_wrong_kind_are_named(tmp_path, trained, name, values):
    folder = write(tmp_path, trained("gpt2"), {})
    (folder / name).write_text(json.dumps(values))
    (setting,) = values
    with pytest.raises(ValueError, match=rf"{name}' has .*{setting}"):
        kt.pretrained.load_tokenizer(folder)


def test_folders_that_hold_no_tokenizer_are_refused(tmp_path, trained):
    with pytest.raises(ValueError, match="There is no folder '.*nowhere'"):
        kt.pretrained.load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "vocab.bin").write_text("")
    with pytest.raises(ValueError, match="holds no spiece.model, but"):
        kt.pretrained.load_tokenizer(tmp_path, file="spiece.model")
    with pytest.raises(
        ValueError, match=r"holds no tokenizer.json, no SentencePiece model and no vocabulary, but \['vocab.bin'\]"
    ):
        kt.pretrained.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer.json that tokenizers"):
        kt.pretrained.load_tokenizer(tmp_path)
    listed = {"added_tokens_decoder": {"7": {"content": "<s>", "special": True}}}
    with pytest.raises(ValueError, match="gives the token '<s>' the id 2, tokenizer_config.json the id 7"):
        kt.pretrained.load_tokenizer(write(tmp_path, trained("gpt2"), listed))
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(ValueError, match="tokenizer_config.json' is no JSON"):
        kt.pretrained.load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="add_end=True, but the checkpoint has no such token"):
        kt.text.PretrainedTokenizer(trained("gpt2").to_str(), add_end=True)
    with pytest.raises(ValueError, match="takes strings of shape"):
        kt.text.PretrainedTokenizer(trained("gpt2").to_str())(np.zeros(3))
