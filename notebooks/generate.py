# %% [markdown]
# # Generate: one model, many ways to write
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/keras-transformer/keras-transformer-layers/blob/main/notebooks/generate.ipynb)
#
# A language model says how probable each next token is. How a text comes of that is another matter: this notebook trains
# a small model, and then lets it write in every way. Nothing is downloaded: it reads the manual that every Python carries.
# Three minutes on two cores.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("keras_transformer") is None:  # on Colab
    wanted = "keras-transformer-layers[tensorflow,plot]"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", wanted], check=True)

# %%
import re
import time
from pydoc_data import topics

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_transformer as kt

keras.utils.set_random_seed(0)
plt.rcParams["figure.dpi"] = 70

# %% [markdown]
# ## A model that has read the manual
#
# Characters in, the next character out. The text is cut into windows of 96, and no text below is longer: what stands
# further apart it has never seen together.

# %%
text = re.sub(r"\s+", " ", " ".join(topics.topics[name] for name in sorted(topics.topics)))
text = "".join(character for character in text if character.isascii())
tokenizer = kt.text.CharacterTokenizer.train([text])
ids = tokenizer([text]).numpy()[0]
windows = ids[: len(ids) // 97 * 97].reshape(-1, 97)
print(f"{len(text):,} characters, {tokenizer.vocabulary_size} different ids, {len(windows):,} windows")
print(text[5000:5200])

# %%
sizes = {"num_layers": 2, "dim": 128, "num_heads": 4, "intermediate_dim": 384, "dropout": 0.0}
model = kt.models.language_model(
    tokenizer.vocabulary_size, **sizes, position=kt.RotaryPosition(), normalize_first=True, norm="rms"
)
model.compile(keras.optimizers.Adam(3e-3), kt.training.SequenceCrossentropy(), metrics=[kt.training.Perplexity()])
history = model.fit(windows[:, :-1], windows[:, 1:], batch_size=32, epochs=4, verbose=2)

# %% [markdown]
# ## The most probable character, again and again
#
# `Generator` takes the model as it is. Texts go in and come out, as it has a tokenizer. `Greedy()`, the default, takes the
# most probable id at every step, and soon turns in circles.


# %%
def writer(strategy=None, length=96, **options):
    """A generator of texts."""
    return kt.Generator(
        model, max_length=length, end_token=None, strategy=strategy, target_tokenizer=tokenizer, **options
    )


prompt = "The class "
greedy = writer()
print(greedy([prompt])["texts"][0][0])

# %% [markdown]
# ## The cache
#
# Without one, every step would compute the whole text anew. The tokens are the same; the time is not. Nobody wrote code for
# the cache: each layer keeps what it needs, and the generator has compared both ways when it was made.

# %%
slow = writer(cache=False)
for name, generator in (("with the cache", greedy), ("without", slow)):
    generator([prompt])  # compiles
    begin = time.perf_counter()
    answer = generator([prompt])["tokens"]
    print(f"{name:15} {1000 * (time.perf_counter() - begin):6.0f} ms")
print("the same tokens:", (answer == greedy([prompt])["tokens"]).all())

# %% [markdown]
# ## What may not be said
#
# Processors change the probabilities before a token is chosen. `NoRepeatNGram(8)` forbids eight characters that have stood
# there before; a function of one's own does whatever it does: here it forbids the letter e.

# %%
print(writer(processors=[kt.NoRepeatNGram(8)])([prompt])["texts"][0][0])
print()
print(writer(processors=[kt.ForbiddenTokens([tokenizer.token_to_id("e")])])([prompt])["texts"][0][0])

# %% [markdown]
# ## Drawing lots
#
# `Sampling` draws from the probabilities. A low temperature sharpens them, a high one flattens them: from what is always
# the same to what makes no sense. The picture shows the ten most probable characters behind "The c" at each.

# %%
logits = np.asarray(model(tokenizer(["The c"])))[0, -1]
best = np.argsort(-logits)[:10]
plt.figure(figsize=(6, 3))
for offset, temperature in ((-0.25, 0.5), (0, 1.0), (0.25, 2.0)):
    exponentials = np.exp((logits - logits.max()) / temperature)
    plt.bar(np.arange(10) + offset, (exponentials / exponentials.sum())[best], 0.25, label=f"temperature {temperature}")
plt.xticks(range(10), [repr(tokenizer.id_to_token(int(i))) for i in best])
plt.ylabel("probability")
plt.legend()
plt.show()

# %%
for temperature in (0.3, 0.8, 1.5):
    drawn = writer(kt.Sampling(temperature=temperature, seed=1))
    print(f"{temperature}: {drawn([prompt])['texts'][0][0]}")

# %% [markdown]
# ## A seed is of one call
#
# The same seed gives the same text, on every backend and in every export. `num_return` draws several at once. `top_p=0.9`
# leaves out the improbable tenth.

# %%
drawn = writer(kt.Sampling(temperature=0.8, top_p=0.9, num_return=3), length=80)
for seed in (7, 8, 7):
    print(f"seed {seed}")
    for sample in drawn([prompt], seed=seed)["texts"][0]:
        print("   ", sample)

# %% [markdown]
# ## As it comes
#
# `stream` hands out what each row has more, one step after another.

# %%
for (piece,) in writer(kt.Sampling(temperature=0.6, seed=3)).stream([prompt]):
    print(piece, end="", flush=True)
print()

# %% [markdown]
# ## Several ways at once
#
# Beam search keeps the best beginnings, here eight, and finds texts that are more probable than the greedy one. `score` is
# what the full model says of them, in one run: the sums are the same.

# %%
beams = writer(kt.BeamSearch(8, num_return=2), length=60)
found, first = beams([prompt]), writer(length=60)([prompt])
print(f"greedy {first['scores'][0, 0]:8.3f}  {first['texts'][0][0]}")
for score, beam in zip(found["scores"][0], found["texts"][0], strict=True):
    print(f"beams  {score:8.3f}  {beam}")
again = beams.score(found["tokens"], prompt_lengths=len(prompt))
print("by the full model", again.round(3)[0])

# %% [markdown]
# ## A small model runs ahead
#
# With `Speculative` a draft proposes some tokens, and the model judges them all in one step. What comes out is exactly what
# the model alone would have written; only the number of its steps is smaller.

# %%
draft = kt.models.language_model(tokenizer.vocabulary_size, **{**sizes, "num_layers": 1, "dim": 64})
draft.compile(keras.optimizers.Adam(3e-3), kt.training.SequenceCrossentropy())
draft.fit(windows[:, :-1], windows[:, 1:], batch_size=32, epochs=1, verbose=2)
speculative = writer(kt.Speculative(draft))
print("the same text:", speculative([prompt])["texts"] == greedy([prompt])["texts"])

# %% [markdown]
# ## What cannot be decoded says so
#
# A layer that looks ahead cannot write token by token. A generator does not give wrong answers then; it names the layer.

# %%
tokens = keras.Input((None,), dtype="int32")
x = kt.TokenEmbedding(tokenizer.vocabulary_size, 16)(tokens)
x = keras.layers.Conv1D(16, 3, padding="same", name="looks_ahead")(x)
try:
    logits = keras.layers.Dense(tokenizer.vocabulary_size)(x)
    kt.Generator(keras.Model(tokens, logits), max_length=20, end_token=None)
except ValueError as error:
    print(error)

# %% [markdown]
# Next: [export.ipynb](export.ipynb), how the whole loop leaves Python.
