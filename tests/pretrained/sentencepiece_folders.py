"""Folders with SentencePiece models as checkpoints have them, trained on the fly."""

import io
import json

import sentencepiece

from .checkpoints import TEXTS

IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
UNIGRAM = {"model_type": "unigram", "vocab_size": 190}
GEMMA = {"add_dummy_prefix": False, "user_defined_symbols": ["<tool>", "\n\n"], "pad_id": 0, "eos_id": 1, "bos_id": 2}
T5 = {**UNIGRAM, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
MODELS = {
    "llama": ("tokenizer.model", IDENTITY),
    "gemma": ("tokenizer.model", {**IDENTITY, **GEMMA, "unk_id": 3}),
    "t5": ("spiece.model", T5),
    "umt5": ("spiece.model", {**T5, "byte_fallback": True, "vocab_size": 461}),
    "xlm-roberta": ("sentencepiece.bpe.model", UNIGRAM),
}


def train(path, texts=TEXTS, **options):
    """A small SentencePiece model in a file, and the package's own tokenizer."""
    model = io.BytesIO()
    options = {"model_type": "bpe", "vocab_size": 509, "character_coverage": 0.99, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, minloglevel=2, hard_vocab_limit=False, **options
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        name = name.replace("__", ".")
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def sentencepiece_folder(folder, model_type):
    name, options = MODELS[model_type]
    write(folder, config__json={"model_type": model_type})
    return train(folder / name, **options)


def marian_folder(folder, apart):
    """Marian's files, of one vocabulary or two; the ids of them."""
    source = train(folder / "source.spm", TEXTS[:4], **UNIGRAM)
    target = train(folder / "target.spm", TEXTS[3:], **{**UNIGRAM, "vocab_size": 150})
    pieces = [[model.id_to_piece(id) for id in range(3, model.vocab_size())] for model in (source, target)]
    files = [[*own, ">>fra<<", ">>d e<<"] for own in pieces] if apart else [[*pieces[1][::2], *pieces[0], ">>fra<<"]]
    files = [dict.fromkeys(["</s>", "<unk>", "<pad>", *names]) for names in files]
    files = [{name: id for id, name in enumerate(names)} for names in files]
    write(folder, config__json={"model_type": "marian"}, tokenizer_config__json={"separate_vocabs": apart})
    write(folder, vocab__json=files[0], **({"target_vocab__json": files[1]} if apart else {}))
    return files


def charsmap(path) -> bytes:
    """The table by which a model normalizes characters."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes()).normalizer_spec.precompiled_charsmap
