# %% [markdown]
# # 트랜스포머, 한 단계씩 직접 해 보기
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/keras-transformer/keras-transformer-layers/blob/main/notebooks/lecture.ko.ipynb)
#
# RNN의 한계에서 출발해 어텐션, 멀티헤드, 위치 인코딩, 마스크를 거쳐 한글로 쓴 수를 숫자로 옮기는 작은 트랜스포머까지, 강의의 순서대로
# 실행해 봅니다. 내려받을 데이터는 없으며 코어 두 개에서 3분쯤 걸립니다. 더 자세한 측정은
# [강의 전체를 다룬 글](https://github.com/keras-transformer/keras-transformer-layers/blob/main/docs/lecture.ko.md)에 있습니다.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("keras_transformer") is None:  # Colab에서
    wanted = ["keras-transformer-layers[tensorflow,plot]", "koreanize-matplotlib"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)

# %%
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from matplotlib import font_manager, ticker

import keras_transformer as kt

keras.utils.set_random_seed(0)
plt.rcParams["figure.dpi"] = 70
package = importlib.util.find_spec("koreanize_matplotlib")
if package is not None:  # 그림에 한글을 쓰기 위한 글꼴
    font_manager.fontManager.addfont(Path(package.submodule_search_locations[0]) / "fonts" / "NanumGothic.ttf")
    plt.rcParams["font.family"] = ["NanumGothic", "DejaVu Sans"]

# %% [markdown]
# ## 1. RNN의 한계: 기울기 소실
#
# RNN은 모든 스텝에서 같은 가중치를 반복해서 씁니다. 그래서 마지막 출력에서 첫 스텝까지 전해지는 기울기는 스텝마다 같은 행렬이 곱해진
# 값입니다. 길이가 길어질수록 어떻게 되는지 재어 봅니다. 어텐션은 마지막 위치에서 첫 위치를 한 번에 보므로 사정이 다릅니다.

# %%
LENGTHS = (5, 10, 20, 40, 80)
layers = {
    "SimpleRNN": lambda: keras.layers.SimpleRNN(32, return_sequences=True),
    "LSTM": lambda: keras.layers.LSTM(32, return_sequences=True),
    "셀프 어텐션": lambda: kt.MultiHeadSelfAttention(num_heads=4),
}
plt.figure(figsize=(6, 3.5))
for name, make in layers.items():
    sizes = []
    for length in LENGTHS:
        x = tf.Variable(np.random.default_rng(0).normal(size=(8, length, 32)).astype("float32"))
        layer = make()
        layer(x)
        with tf.GradientTape() as tape:
            last = tf.reduce_sum(layer(x)[:, -1])
        gradient = tape.gradient(last, x)[:, 0]
        sizes.append(float(tf.norm(gradient)))
    print(f"{name:10}", *[f"{size:.1e}" for size in sizes])
    plt.plot(LENGTHS, sizes, marker="o", label=name)
plt.yscale("log")
plt.gca().yaxis.set_major_formatter(ticker.LogFormatter())
plt.xlabel("길이")
plt.ylabel("첫 스텝의 기울기")
plt.legend()
plt.show()

# %% [markdown]
# ## 2. 어텐션의 세 단계
#
# 점수를 매기고(내적), 소프트맥스로 가중치를 만들고, 가중합을 구합니다. "I love you dearly"의 단어를 4차원 벡터로 손수 정해 두었으니 연필로도
# 검산할 수 있습니다. 사람을 가리키는 두 단어끼리, 동사와 부사끼리 비슷합니다.

# %%
words = ["I", "love", "you", "dearly"]
vectors = np.array([[2, 0, 1, 0], [0, 2, 0, 1], [1, 0, 2, 0], [0, 1, 0, 0.5]], "float32")

scores = vectors @ vectors.T / np.sqrt(4)
weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
result = weights @ vectors

print("점수\n", scores.round(2))
print("가중치 (각 행의 합은 1)\n", weights.round(3))
print("dearly의 새 벡터:", result[3].round(3))

# %% [markdown]
# `kt.ops.dot_product_attention`이 바로 이 식입니다. 텐서의 모양은 (배치, 위치, 헤드, 차원)입니다.

# %%
x = vectors[None, :, None, :]
same = np.asarray(kt.ops.dot_product_attention(x, x, x))[0, :, 0]
print("손으로 계산한 것과의 차이:", np.abs(same - result).max())

# %% [markdown]
# ## 3. 왜 √d로 나누는가
#
# 차원이 커지면 내적도 커지고, 소프트맥스는 한 단어에만 1을 주게 됩니다. 그러면 기울기가 사라집니다. √d로 나누면 차원이 얼마이든 점수의 크기가
# 같습니다. 무작위 벡터 16개 가운데 가장 큰 가중치의 평균입니다.

# %%
random = np.random.default_rng(0)
print("차원   그대로   √d로 나눔")
for dim in (4, 16, 64, 256, 1024):
    query, keys = random.normal(size=(200, 1, dim)), random.normal(size=(200, 16, dim))
    raw = (query * keys).sum(-1)
    largest = [float(np.asarray(keras.ops.softmax(x.astype("float32"))).max(-1).mean()) for x in (raw, raw / dim**0.5)]
    print(f"{dim:4}   {largest[0]:.2f}    {largest[1]:.2f}")

# %% [markdown]
# ## 4. 멀티헤드: 서로 다른 관점
#
# 헤드는 저마다 다른 Q, K, V를 만듭니다. 그래서 같은 문장을 보면서도 서로 다른 어텐션 가중치를 냅니다. 아직 학습하지 않은 레이어도 그렇습니다.

# %%
layer = kt.MultiHeadSelfAttention(num_heads=4)
sentence = random.normal(size=(1, 8, 32)).astype("float32") * 2
_, heads = layer(sentence, return_attention_scores=True)
figure, axes = plt.subplots(1, 4, figsize=(9, 2.5))
for head, axis in enumerate(axes):
    axis.imshow(np.asarray(heads)[0, head], vmin=0, vmax=1)
    axis.set_title(f"헤드 {head + 1}")
plt.show()
print("가중치의 모양 (배치, 헤드, 쿼리, 키):", tuple(heads.shape))

# %% [markdown]
# ## 5. 위치 인코딩
#
# 어텐션은 순서를 모릅니다. 단어를 뒤섞으면 결과도 똑같이 뒤섞일 뿐입니다. 위치를 더하면 달라집니다.

# %%
order = np.array([3, 0, 2, 1, 7, 5, 6, 4])


def moved(function):
    """뒤섞은 문장의 결과가, 결과를 뒤섞은 것과 얼마나 다른지."""
    return float(np.abs(np.asarray(function(sentence[:, order])) - np.asarray(function(sentence))[:, order]).max())


positions = kt.PositionalEncoding()
print("위치가 없을 때:", f"{moved(layer):.1e}")
print("위치를 더했을 때:", f"{moved(lambda x: layer(positions(x))):.1e}")

plt.figure(figsize=(6, 2.5))
plt.imshow(np.asarray(positions(np.zeros((1, 30, 64), "float32")))[0], aspect="auto", cmap="RdBu")
plt.xlabel("차원")
plt.ylabel("위치")
plt.colorbar()
plt.show()

# %% [markdown]
# ## 6. 미래를 가리는 마스크
#
# 디코더는 다음 단어를 맞히도록 학습합니다. 답을 미리 보면 안 되므로 뒤에 있는 단어는 가립니다. 가린 곳의 가중치는 정확히 0입니다. 그래서 마지막
# 단어를 바꾸어도 앞 단어의 결과는 달라지지 않습니다.

# %%
masked = kt.MultiHeadSelfAttention(num_heads=4, causal=True)
result, causal = masked(sentence, return_attention_scores=True)
plt.figure(figsize=(3, 3))
plt.imshow(np.asarray(causal)[0, 0], vmin=0, vmax=1)
plt.xlabel("키")
plt.ylabel("쿼리")
plt.show()
changed = sentence.copy()
changed[:, -1] = 0
difference = np.abs(np.asarray(result) - np.asarray(masked(changed)))
print("위치마다 달라진 정도:", difference.max(axis=(0, 2)).round(2))

# %% [markdown]
# ## 7. 모두 쌓으면 트랜스포머
#
# 인코더와 디코더를 쌓습니다. 과제는 한글로 쓴 수를 숫자로 옮기는 것입니다. 열 글자쯤 되는 낱말에서 "천", "백", "십"의 앞을 보아야 하고, 없는
# 자리에는 0을 써야 합니다.

# %%
DIGITS = " 일이삼사오육칠팔구"


def in_korean(number):
    """한글로 쓴 수."""
    if number >= 10_000:
        high, low = divmod(number, 10_000)
        return f"{'' if high == 1 else in_korean(high)}만{in_korean(low)}"
    found = ""
    for size, name in ((1000, "천"), (100, "백"), (10, "십"), (1, "")):
        digit = number // size % 10
        if digit:
            found += ("" if digit == 1 and name else DIGITS[digit]) + name
    return found


numbers = np.random.default_rng(1).choice(np.arange(1, 1_000_000), 21_000, replace=False)
pairs = [(in_korean(int(number)), str(number)) for number in numbers]
training, test = pairs[:20_000], pairs[20_000:]
print(*test[:5], sep="\n")

# %%
tokenizer = kt.text.CharacterTokenizer.train([text for both in training for text in both])
framed = tokenizer.copy(add_start=True, add_end=True)

source = keras.Input((None,), dtype="int32", name="source")
target = keras.Input((None,), dtype="int32", name="target")
embedding = kt.TokenEmbedding(tokenizer.vocabulary_size, 64, scale=True)
memory = kt.PositionalEncoding()(embedding(source))
for _ in range(2):
    memory = kt.EncoderLayer(num_heads=4, intermediate_dim=256)(memory)
y = kt.PositionalEncoding()(embedding(target))
for _ in range(2):
    y = kt.DecoderLayer(num_heads=4, intermediate_dim=256)(y, memory)  # 셀프 어텐션, 그다음 크로스 어텐션
model = keras.Model([source, target], embedding(y, reverse=True))

model.compile(keras.optimizers.Adam(2e-3), kt.training.SequenceCrossentropy(), metrics=[kt.training.TokenAccuracy()])
batches = kt.training.TokenBatches(training, tokens_per_batch=2048, tokenizers=(tokenizer, framed), seed=0)
history = model.fit(batches, epochs=6, verbose=2).history

# %% [markdown]
# ## 8. 한 글자씩 쓰기
#
# `Generator`는 쓴 것을 다시 읽으며 한 글자씩 이어 씁니다. 아래의 수는 학습할 때 한 번도 보지 못한 것입니다.

# %%
generator = kt.Generator(
    model,
    max_length=9,
    start_token=tokenizer.start_id,
    end_token=tokenizer.end_id,
    source_tokenizer=tokenizer,
    target_tokenizer=tokenizer,
)
answers = [texts[0] for texts in generator([text for text, _ in test])["texts"]]
for (text, number), answer in list(zip(test, answers, strict=True))[:6]:
    print(f"{text} -> {answer}", "" if answer == number else f"(정답 {number})")
right = np.mean([answer == number for answer, (_, number) in zip(answers, test, strict=True)])
print(f"처음 보는 수 {len(test):,}개 가운데 {right:.1%}를 한 글자도 틀리지 않고 맞혔습니다.")

# %%
for (piece,) in generator.stream(["구십만오백삼"]):
    print(repr(piece), end=" ")
print()

# %% [markdown]
# ## 9. 어디를 보고 썼는가
#
# 마지막 디코더 레이어의 크로스 어텐션입니다. 각 행은 써야 할 숫자이고, 밝은 곳이 그 숫자를 쓸 때 본 글자입니다.

# %%
text, number = "이십삼만사천오백육십칠", "234567"
given = [tokenizer([text]).numpy(), framed([number]).numpy()[:, :-1]]
maps = kt.attention_weights(model, given)
path = [name for name in maps if name.endswith("cross_attention")][-1]
plt.figure(figsize=(5, 3.5))
plt.imshow(maps[path][0].mean(axis=0))
plt.xticks(range(len(text)), text)
plt.yticks(range(len(number) + 1), [*number, "끝"])
plt.xlabel("본 글자")
plt.ylabel("쓸 숫자")
plt.show()

# %% [markdown]
# 다음으로는 [generate.ipynb](generate.ipynb)에서 여러 가지 생성 방법을, [export.ipynb](export.ipynb)에서 내보내는 방법을 볼 수 있습니다.
