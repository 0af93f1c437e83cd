"""A small language model learns an instruction by LoRA: "Translate into German: ...".

SmolLM2-135M-Instruct knows hardly any German. Low-rank changes to its projections ("LoRA",
https://arxiv.org/abs/2106.09685), under 2 % of its weights, are trained on some pairs of the Multi30k data set, in the
form of its chat template: only the answer is learned, not the question. Then they are merged into the weights, and the
result is an ordinary checkpoint, which `transformers` loads, too.

    python examples/tune_language_model.py --checkpoint SmolLM2-135M-Instruct --data multi30k
    python examples/tune_language_model.py --checkpoint model.gguf --dtype mixed_bfloat16 --save tuned

`--checkpoint` is a folder, a GGUF file, or a name on a hub; without `--data` the sentences are downloaded. A training
that is killed goes on where it was (`--checkpoints`). Perplexities are those of a token of the answer, on the first
sentences of the data set's validation part. Figures go to examples/results/tune_language_model.json.
"""

import argparse
import gzip
import os
import sys
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow's default only where it sees AVX512-VNNI

import keras
import numpy as np
from rich.console import Console

import keras_transformer as kt

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from report import save_results

SOURCE = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/{name}.gz"
BATCH, LENGTH, RANK, RATE = 8, 80, 8, 1e-3
NOT_LEARNED = -1  # the label of what is no part of an answer
LAYERS = ("query_key_value", "output", "inner", "outer")  # that LoRA changes


def read_pairs(folder: Path | None, part: str, count: int) -> list[tuple[str, str]]:
    """The first sentences of a part, English and German."""
    columns = []
    for language in ("en", "de"):
        name = f"{part}.{language}"
        if folder is None:
            path = Path("data/multi30k") / f"{name}.gz"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                beside = path.with_name(f"{path.name}.part")
                urllib.request.urlretrieve(SOURCE.format(name=name), beside)
                beside.replace(path)
        else:
            path = next((x for x in (folder / name, folder / f"{name}.gz") if x.is_file()), None)
            if path is None:
                raise SystemExit(f"There is no {name} in {folder}. Leave out --data to download it.")
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            columns.append([line.strip() for line, _ in zip(file, range(count), strict=False)])
    return list(zip(*columns, strict=True))


def prompt_of(tokenizer, sentence: str) -> list[int]:
    """The ids of an instruction, up to where the answer begins."""
    messages = [{"role": "user", "content": f"Translate into German: {sentence}"}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True)


def make_rows(tokenizer, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (N, LENGTH) and their labels, the next tokens, where they are the answer's."""
    tokens = np.full((len(pairs), LENGTH), tokenizer.end_id, "int32")
    labels = np.full((len(pairs), LENGTH), NOT_LEARNED, "int32")
    answers = tokenizer.tokenize_ragged([answer for _, answer in pairs])
    for row, ((sentence, _), answer) in enumerate(zip(pairs, answers, strict=True)):
        prompt = prompt_of(tokenizer, sentence)
        ids = [*prompt, *(int(id) for id in answer), tokenizer.end_id][: LENGTH + 1]
        tokens[row, : len(ids) - 1] = ids[:-1]
        labels[row, len(prompt) - 1 : len(ids) - 1] = ids[len(prompt) :]
    return tokens, labels


def main() -> None:
    """Load, tune, compare, merge, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="folder, .gguf file, or name on a hub"
    )
    parser.add_argument("--data", type=Path, help="folder with {train,val}.{en,de}, or those with .gz")
    parser.add_argument("--pairs", type=int, default=1600, help="of sentences to learn from")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--rate", type=float, default=RATE, help="of learning, at most")
    parser.add_argument("--dtype", help="policy of the model, such as mixed_bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, help="folder to go on from, if the training is cut off")
    parser.add_argument("--save", type=Path, help="folder for the tuned checkpoint")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "tune_language_model.json")
    options = parser.parse_args()
    console = Console()
    keras.utils.set_random_seed(options.seed)
    kt.training.keep_freed_memory()

    model = kt.pretrained.load_model(options.checkpoint, dtype=options.dtype)
    tokenizer = kt.pretrained.load_tokenizer(options.checkpoint, vocabulary_size=model.output_shape[-1])
    learned = read_pairs(options.data, "train", options.pairs)
    held_out = read_pairs(options.data, "val", max(8, options.pairs // 16))
    x, y = make_rows(tokenizer, learned)
    validation = make_rows(tokenizer, held_out)

    before = sum(int(np.prod(variable.shape)) for variable in model.weights)
    kt.training.enable_lora(model, options.rank, layers=LAYERS)
    trained = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    steps = options.epochs * -(-len(x) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=options.rate, warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.Adam(rate, global_clipnorm=1.0),
        kt.training.SequenceCrossentropy(ignore_id=NOT_LEARNED),
        metrics=[kt.training.Perplexity(ignore_id=NOT_LEARNED)],
    )
    console.print(f"{trained:,} weights are trained, {trained / before:.1%} of the model's", highlight=False)
    first = model.evaluate(*validation, batch_size=BATCH, verbose=0, return_dict=True)["perplexity"]
    callbacks, epoch = [], 0
    if options.checkpoints:
        callbacks.append(kt.training.Checkpoints(options.checkpoints))
        epoch = callbacks[0].resume(model).epoch
    begin = time.perf_counter()
    model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=options.epochs,
        initial_epoch=epoch,
        shuffle=False,
        callbacks=callbacks,
        verbose=2,
    )
    minutes = (time.perf_counter() - begin) / 60
    last = model.evaluate(*validation, batch_size=BATCH, verbose=0, return_dict=True)["perplexity"]
    kt.training.merge_lora(model)
    console.print(f"perplexity of an answer's token: {first:.1f} before, {last:.2f} after {minutes:.1f} minutes")

    generator = kt.Generator(model, max_length=LENGTH, end_token=tokenizer.end_id, target_tokenizer=tokenizer)
    samples = []
    for sentence, answer in held_out[:3]:
        ids = [prompt_of(tokenizer, sentence)]
        result = generator(ids)["tokens"][0, 0, len(ids[0]) :]
        (text,) = tokenizer.detokenize(result[None]).numpy()
        samples.append([sentence, text.decode(), answer])
        console.print(f"{sentence}\n  model:     {samples[-1][1]}\n  reference: {answer}", highlight=False)
    if options.save:
        kt.pretrained.save_model(model, options.save)
        console.print(f"{options.save} is a checkpoint, but for the files of a tokenizer", highlight=False)
    figures = {
        "perplexity_before": first,
        "perplexity_after": last,
        "minutes": minutes,
        "pairs": len(x),
        "epochs": options.epochs,
        "trained_weights": trained,
        "trained_share": trained / before,
        "samples": samples,
        "seed": options.seed,
    }
    save_results(options.output, "examples/tune_language_model.py", figures)


if __name__ == "__main__":
    main()
