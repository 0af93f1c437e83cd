"""Tokenizers as checkpoints have them, trained on the fly, and strings to try them on."""

import json
import random

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "The quick brown fox jumps over the lazy dog. Don't you think they'll see it's 3.14, 2024 or 123456?",
    "  indented\n\n\tcode: if (x >= 10) { return y[0]; }  // trailing   \r\n",
    "다람쥐 헌 쳇바퀴에 타고파 오늘은 2024년", "いろはにほへと 漢字とカタカナ。", "نص حكيم له سر قاطع ١٢",
    "naïve café Ǆ ẞ İstanbul Ω ﬁ ½ Å", "party 🎉 👍🏽 👩‍👩‍👧 🇰🇷", "aaaa aaa aa bbbbbb    banana bananas",
]  # fmt: skip
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' + '\n' }}"
    "{% endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n{%- endif %}"
)


def odd_strings(count: int, seed: int = 7) -> list[str]:
    """Texts that nobody writes, made of what tokenizers trip over; some have special tokens in them."""
    randomness = random.Random(seed)
    alphabets = [
        "".join(TEXTS),
        " \t\n\r\x0b\x0c\x85\xa0\u2028\u3000\u200b\u1680",
        " \n",
        "aàáâ\u0300\u0301\u0316\u0345\u0327e\u0338",
        "가각힣ᄀ\u1161\u11a8\u302e",
        "'sStTmMrRvVeElLdD ",
        "0123456789٣Ⅷ²½ ",
        "\u200d\u200c\ufe0f👩🏽🇰🇷\U0001f3f4\U000e0067",
        "ß\u1e9eİıςΣσﬁǅ\u01c5K",
        "\x00\x01\x7f\x9f\ufffd\ufeff\ue000\u00ad",
        "漢字㐀𠀀豈\uff21。、",
        "नि\u094dक्षिதமிழ்\u0e33\u0e49",
        "!#$%&()*+,-./:;<=>?@[]^_`{|}~§¶—«»",
        "▁▁ ",
        *SPECIAL,
    ]
    texts = ["", " ", "\n", "a" * 211, " " * 53, "漢" * 101, "ab " * 331, *TEXTS, *SPECIAL]
    while len(texts) < count:
        parts = []
        for _ in range(randomness.randrange(1, 7)):
            alphabet = randomness.choice(alphabets)
            if alphabet in SPECIAL:
                parts.append(randomness.choice(["", " ", "  "]) + alphabet)
            elif randomness.random() < 0.1:
                parts.append(
                    chr(randomness.choice((randomness.randrange(0xD800), randomness.randrange(0xE000, 0x110000))))
                )
            else:
                parts.append("".join(randomness.choices(alphabet, k=randomness.randrange(9))))
        texts.append("".join(parts))
    return texts


def wordpiece(special=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), **options) -> tokenizers.Tokenizer:
    """BERT's."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=311, special_tokens=list(special)))
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", tokenizer.token_to_id("[SEP]")), ("[CLS]", tokenizer.token_to_id("[CLS]"))
    )
    return tokenizer


def byte_level(kind: str = "gpt2") -> tokenizers.Tokenizer:
    """Byte-level BPE: "gpt2", "smollm" (digits apart, and bytes that are no tokens), "llama3" (its words, a start, and
    pieces that are words whole), "qwen" (composed first), "clip" (in lower case, the ends of words marked) or "falcon"
    (cut again as bytes)."""
    ends = {"end_of_word_suffix": "</w>"} if kind == "clip" else {}
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=kind == "llama3", **ends))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind in ("gpt2", "smollm"))
    tokenizer.pre_tokenizer = {
        "gpt2": plain,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]),
        "clip": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CLIP), "removed", invert=True), plain]),
        "falcon": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Punctuation("contiguous"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        ),
        "qwen": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"), plain]),
        "o200k": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(O200K), "isolated"), plain]),
    }.get(kind, pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), plain]))
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    if kind == "clip":
        one_space = normalizers.Replace(Regex(r"\s+"), " ")
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), one_space, normalizers.Lowercase()])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=499, special_tokens=SPECIAL, initial_alphabet=alphabet, **ends)
    tokenizer.train_from_iterator(TEXTS, trainer)
    if kind == "smollm":
        content = json.loads(tokenizer.to_str())
        lost = [pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(x)[0][0] for x in "\x01\x04\x7f"]
        vocabulary = content["model"]["vocab"]
        content["model"]["vocab"] = {f"[lost {id}]" if x in lost else x: id for x, id in vocabulary.items()}
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    if ends:  # every byte may end a word
        content = json.loads(tokenizer.to_str())
        for letter in alphabet:
            content["model"]["vocab"].setdefault(letter + "</w>", len(content["model"]["vocab"]))
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    if kind == "llama3":
        start = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.Sequence(
            [processors.ByteLevel(), processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", start)])]
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def sentencepiece_bpe(kind: str = "llama2") -> tokenizers.Tokenizer:
    """BPE over characters, unknown ones as bytes: "llama2", "mistral" (later ones') or "gemma"."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)]
    if kind == "gemma":
        strip = []
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    if kind == "mistral":
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [word for text in TEXTS for word in text.split(" ")]
    trainer = trainers.BpeTrainer(vocab_size=577, special_tokens=[*SPECIAL, *bytes_])
    tokenizer.train_from_iterator(words, trainer)
    content = json.loads(tokenizer.to_str())  # the bytes are pieces, not special tokens
    content["added_tokens"] = [x for x in content["added_tokens"] if x["content"] in SPECIAL]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    start = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", start)])
    return tokenizer


def unigram() -> tokenizers.Tokenizer:
    """T5's, with another normalization than its table."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=211, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", end)])
    return tokenizer


KINDS = {
    "wordpiece": wordpiece,
    "cased": lambda: wordpiece(lowercase=False),
    "gpt2": byte_level,
    "smollm": lambda: byte_level("smollm"),
    "llama3": lambda: byte_level("llama3"),
    "qwen": lambda: byte_level("qwen"),
    "o200k": lambda: byte_level("o200k"),
    "clip": lambda: byte_level("clip"),
    "falcon": lambda: byte_level("falcon"),
    "llama2": sentencepiece_bpe,
    "mistral": lambda: sentencepiece_bpe("mistral"),
    "gemma": lambda: sentencepiece_bpe("gemma"),
    "unigram": unigram,
}
ADDED = [AddedToken("<mask>", lstrip=True, special=True), AddedToken("<tool>", rstrip=True, normalized=False)]
