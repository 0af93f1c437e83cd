# %% [markdown]
# # Compose a Transformer, and train it
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/keras-transformer/keras-transformer-layers/blob/main/notebooks/compose_and_train.ipynb)
#
# A model is composed from layers with the Keras functional API, and trained with `fit`. Here it learns to read dates:
# `March 5, 1984` becomes `1984-03-05`. Nothing is downloaded; two minutes on two cores.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("keras_transformer") is None:  # on Colab
    wanted = "keras-transformer-layers[tensorflow,plot]"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", wanted], check=True)

# %%
import datetime

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_transformer as kt

keras.utils.set_random_seed(0)
plt.rcParams["figure.dpi"] = 70

# %% [markdown]
# ## Texts become ids
#
# A tokenizer makes rows of ids of texts. Id 0 is padding: rows of different lengths stand in one array. The tokenizer of
# the target frames each text with a start and an end.

# %%
random = np.random.default_rng(0)


def pair():
    """A date as somebody writes it, and as ISO 8601 has it."""
    day = datetime.date(1930, 1, 1) + datetime.timedelta(int(random.integers(50_000)))
    forms = (f"{day:%B} {day.day}, {day.year}", f"{day.day} {day:%b} {day.year}", f"{day.day}.{day.month}.{day.year}")
    return forms[random.integers(len(forms))], day.isoformat()


pairs = [pair() for _ in range(20_000)]
validation, training = pairs[:500], pairs[500:]
tokenizer = kt.text.CharacterTokenizer.train([text for both in training for text in both])
target_tokenizer = tokenizer.copy(add_start=True, add_end=True)

for source, target in pairs[:4]:
    print(f"{source:20} -> {target}")
print(tokenizer(["3 Jan 2000", "1.2.1984"]).numpy())

# %% [markdown]
# ## Ids become vectors, and carry a mask
#
# `TokenEmbedding` looks up a vector for each id, (B, T) becomes (B, T, D), and says which of them are real. Every layer
# behind it reads that mask: nobody has to hand it on.

# %%
embedding = kt.TokenEmbedding(tokenizer.vocabulary_size, 64, scale=True)
ids = tokenizer(["3 Jan 2000", "1.2.1984"])
x = embedding(ids)
print(x.shape)
print(embedding.compute_mask(ids).numpy().astype(int))

# %% [markdown]
# ## Order is added
#
# Attention sees a set of vectors. Where each stands has to be told, by waves of many lengths for instance: each row below
# is what is added at that position.

# %%
positions = kt.PositionalEncoding()(np.zeros((1, 40, 64), "float32"))[0]
plt.figure(figsize=(7, 3))
plt.imshow(positions, aspect="auto", cmap="RdBu")
plt.xlabel("dimension")
plt.ylabel("position")
plt.colorbar()
plt.show()

# %% [markdown]
# ## Layers are stacked
#
# An encoder layer lets each position look at all others; a decoder layer looks at the positions before it, and at the
# memory, which is what the encoder made. That is the whole model. The last line is the embedding in reverse, from a vector
# to a logit for each id.


# %%
def build(dim=64, **options):
    """An encoder-decoder."""
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    embedding = kt.TokenEmbedding(tokenizer.vocabulary_size, dim, scale=True)

    memory = kt.PositionalEncoding()(embedding(source))
    for _ in range(2):
        memory = kt.EncoderLayer(num_heads=4, intermediate_dim=4 * dim, **options)(memory)

    y = kt.PositionalEncoding()(embedding(target))
    for _ in range(2):
        y = kt.DecoderLayer(num_heads=4, intermediate_dim=4 * dim, **options)(y, memory)
    return keras.Model([source, target], embedding(y, reverse=True))


model = build()
print(f"{model.count_params():,} weights")
print("logits", model([ids, ids]).shape)

# %% [markdown]
# ## Training is `fit`
#
# `TokenBatches` puts texts of similar length together, up to a budget of tokens. The loss counts real tokens only.


# %%
def batches(pairs, **options):
    """Batches of pairs of texts, by a budget of 2,048 tokens."""
    return kt.training.TokenBatches(
        pairs, tokens_per_batch=2048, tokenizers=(tokenizer, target_tokenizer), seed=0, **options
    )


def train(model, epochs):
    """Train, and return the history."""
    model.compile(
        keras.optimizers.Adam(2e-3),
        kt.training.SequenceCrossentropy(),
        metrics=[kt.training.TokenAccuracy()],
    )
    held_out = batches(validation, shuffle=False)
    return model.fit(batches(training), validation_data=held_out, epochs=epochs, verbose=2).history


history = train(model, epochs=4)

# %%
plt.figure(figsize=(5, 3))
for name in ("loss", "val_loss"):
    plt.plot(range(1, 5), history[name], marker="o", label=name)
plt.yscale("log")
plt.xlabel("epoch")
plt.legend()
plt.show()

# %% [markdown]
# ## It writes
#
# A `Generator` runs the same model token by token, with a cache. No date below was in the training data.

# %%
options = {"max_length": 12, "start_token": tokenizer.start_id, "end_token": tokenizer.end_id}
tokenizers = {"source_tokenizer": tokenizer, "target_tokenizer": tokenizer}
generator = kt.Generator(model, **options, **tokenizers)
sources = [source for source, _ in validation]
answers = [texts[0] for texts in generator(sources)["texts"]]
for source, answer in list(zip(sources, answers, strict=True))[:5]:
    print(f"{source:20} -> {answer}")
right = np.mean([answer == target for answer, (_, target) in zip(answers, validation, strict=True)])
print(f"{right:.1%} of {len(validation)} dates are right to the character")

# %% [markdown]
# ## Where it looks
#
# `attention_weights` gives what every attention layer looked at. In the last decoder layer each row is a character that is
# written: it looks for the month's name when it writes the month.

# %%
shown, iso = "March 5, 1984", "1984-03-05"
source, target = tokenizer([shown]).numpy(), target_tokenizer([iso]).numpy()[:, :-1]
weights = kt.attention_weights(model, [source, target])
path = [name for name in weights if name.endswith("cross_attention")][-1]
plt.figure(figsize=(6, 4))
plt.imshow(weights[path][0].mean(axis=0), cmap="viridis")
plt.xticks(range(len(shown)), shown)
plt.yticks(range(len(iso)), iso)
plt.xlabel("attended to")
plt.ylabel("written next")
plt.title(path)
plt.show()

# %% [markdown]
# ## Another model is another object
#
# What distinguishes one Transformer from the next is handed to the layers: here norms of another kind before each part,
# and a gated feed-forward network, as in newer models. Nothing else changes.

# %%
modern = build(normalize_first=True, norm="rms", gated=True, activation="silu")
print(f"{modern.count_params():,} weights")
later = train(modern, epochs=2)
print("loss on held-out dates, first and second epoch:")
print("  as in the paper", [round(x, 3) for x in history["val_loss"][:2]])
print("  modern         ", [round(x, 3) for x in later["val_loss"]])

# %% [markdown]
# Next: [generate.ipynb](generate.ipynb), how texts are searched for, and [export.ipynb](export.ipynb), how the whole loop
# leaves Python.
