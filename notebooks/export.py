# %% [markdown]
# # Export: the whole loop leaves Python
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/keras-transformer/keras-transformer-layers/blob/main/notebooks/export.ipynb)
#
# An export is not the model alone. It is the generator: the loop, the cache, the strategy, the tokenizer. This notebook
# trains a small one, writes it in three formats, and runs them where Keras is not. Nothing is downloaded; three minutes on
# two cores.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("keras_transformer") is None:  # on Colab
    wanted = "keras-transformer-layers[litert,onnx,plot]"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", wanted], check=True)

# %%
import logging
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_transformer as kt

keras.utils.set_random_seed(0)
plt.rcParams["figure.dpi"] = 70
logging.getLogger("tensorflow").setLevel("ERROR")  # it would tell of each file that it writes

# %% [markdown]
# ## Something to export
#
# Numbers in words become digits: "four hundred seven" is 407. Half of the numbers up to 9,999 are for training.

# %%
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
ONES += ["seventeen", "eighteen", "nineteen"]
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number):
    """A number below 10,000 in English."""
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = f" {in_words(number % size)}" if number % size else ""
            return f"{in_words(number // size)} {name}{rest}"
    if number < 20:
        return ONES[number]
    return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")


numbers = np.random.default_rng(0).permutation(10_000)
pairs = [(in_words(number), str(number)) for number in numbers]
training, test = pairs[:5000], pairs[5000:]
tokenizer = kt.text.CharacterTokenizer.train([text for both in pairs for text in both])
framed = tokenizer.copy(add_start=True, add_end=True)
print(*test[:3], sep="\n")

# %%
model = kt.models.transformer(
    tokenizer.vocabulary_size,
    tokenizer.vocabulary_size,
    num_layers=2,
    dim=64,
    num_heads=4,
    intermediate_dim=256,
    dropout=0.0,
    normalize_first=True,
)
batches = kt.training.TokenBatches(training, tokens_per_batch=4096, tokenizers=(tokenizer, framed), seed=0)
schedule = keras.optimizers.schedules.CosineDecay(2e-3, 12 * batches.steps_per_epoch)
model.compile(
    keras.optimizers.Adam(schedule), kt.training.SequenceCrossentropy(), metrics=[kt.training.TokenAccuracy()]
)
history = model.fit(batches, epochs=12, verbose=2)

# %%
generator = kt.Generator(
    model,
    max_length=6,
    start_token=tokenizer.start_id,
    end_token=tokenizer.end_id,
    source_tokenizer=tokenizer,
    target_tokenizer=tokenizer,
)
texts = [text for text, _ in test[:400]]
expected = generator(texts)["texts"]
right = np.mean([answer[0] == digits for answer, (_, digits) in zip(expected, test[:400], strict=True)])
print(f"{right:.1%} of 400 numbers that it never saw are right")

# %% [markdown]
# ## A SavedModel: strings in, strings out
#
# For servers. The tokenizer is in the graph, and no operation needs XLA, so TensorFlow Serving takes it. Before the export
# takes its place on the disk it is run and compared with Python: the report says so.

# %%
report = kt.export.saved_model(generator, "numbers", streaming=True)

# %%
print(kt.export.load("numbers")(["four hundred seven", "nine thousand twelve"])["texts"])

# %% [markdown]
# ## LiteRT: phones, browsers, small machines
#
# One file of builtin operators. Its shapes are fixed: `source_length` ids at most. `layout="step"` has the loop in its
# parts, so that whoever runs it shows each token as it comes; `quantize="int8"` stores weights in 8 bits.

# %%
reports = {}
for name, options in {"float32": {}, "float16": {"quantize": "float16"}, "int8": {"quantize": "int8"}}.items():
    path = f"numbers-{name}.tflite"
    reports[name] = kt.export.litert(
        generator, path, source_length=48, layout="step", samples=texts[:100], overwrite=True, **options
    )

# %%
plt.figure(figsize=(5, 2.5))
bars = plt.bar(list(reports), [report.size / 1e6 for report in reports.values()])
plt.bar_label(bars, [f"{report.agreement:.0%} as Python" for report in reports.values()])
plt.ylabel("MB")
plt.margins(y=0.2)
plt.show()

# %% [markdown]
# ## Another process, without Keras
#
# `keras_transformer_runtime` runs every export. It is a distribution of its own, `keras-transformer-runtime`, and needs
# NumPy and the package that runs the format: here `ai-edge-litert`. The program below cannot import Keras or TensorFlow.

# %%
PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(["keras", "tensorflow", "keras_transformer"]))  # from here on they cannot be imported
import keras_transformer_runtime

runner = keras_transformer_runtime.load("numbers-int8.tflite")
print(runner(["six thousand three"])["texts"])
print(*runner.stream(["six thousand three"]))  # ids, as they come
"""
print(subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout)

# %% [markdown]
# ## The command
#
# The same on the command line: one line goes out for each line that comes in. (`python -m keras_transformer_runtime` is the
# command `keras-transformer`.)


# %%
def command(*arguments, lines=""):
    """What the command prints."""
    call = [sys.executable, "-m", "keras_transformer_runtime", *arguments]
    return subprocess.run(call, input=lines, capture_output=True, text=True, check=True).stdout


print(command("describe", "numbers-int8.tflite"))
print(command("run", "numbers-int8.tflite", lines="two thousand forty-two\nseven hundred seventy-seven\n"))
print(command("run", "numbers-int8.tflite", "--json", "one thousand one"))

# %% [markdown]
# ## ONNX
#
# A file for each step of the loop, in a folder, and the runner around it. ONNX has no tokenizers: ids go in and come out.

# %%
kt.export.onnx(generator, "numbers-onnx", source_length=48)
answer = kt.export.load("numbers-onnx")(tokenizer(["nine thousand eighty-eight"]).numpy())
print(tokenizer.detokenize(answer["tokens"][:, 0]).numpy())

# %% [markdown]
# ## What cannot be exported says so
#
# A bundle for LiteRT-LM holds a language model; an encoder has no place in it. The error names the export that takes it.

# %%
try:
    kt.export.litertlm(generator, "numbers.litertlm")
except ValueError as error:
    print(error)

# %%
total = sum(path.stat().st_size for path in Path(".").rglob("*") if path.is_file())
print(f"{total / 1e6:.1f} MB in all, of a model of {model.count_params():,} weights")

# %% [markdown]
# Which export for what, what each takes and cannot do: docs/export.md. The command: docs/command.md.
