"""The layers once more, in float64 NumPy: written from the papers' formulas, for reading rather than for speed.

Each function takes the layer's weights as a dict {name below the layer: array}, see `weights_of`, and the layer's own
options under their own names.
"""

import math

import numpy as np

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "tanh_gelu": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


def weights_of(layer) -> dict[str, np.ndarray]:
    """The weights of a layer in float64, by their path below it."""
    return {w.path.removeprefix(layer.path + "/"): np.asarray(w.numpy(), "float64") for w in layer.weights}


def below(weights, name):
    """The weights of the sub-layer of that name."""
    return {path.removeprefix(name + "/"): w for path, w in weights.items() if path.startswith(name + "/")}


def dense(w, x):
    return x @ w["kernel"] + w.get("bias", 0)


def rms_norm(w, x, epsilon, offset=0.0):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * (offset + w["scale"])


def layer_norm(w, x, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * w.get("gamma", 1) + w.get("beta", 0)


def normalized(w, x, norm, epsilon):
    """By a norm that is named, or by one like the layer that is given."""
    if norm == "layer" or type(norm).__name__ == "LayerNormalization":
        return layer_norm(w, x, getattr(norm, "epsilon", epsilon))
    return rms_norm(w, x, getattr(norm, "epsilon", epsilon), getattr(norm, "offset", 0.0))


def sinusoids(positions, dim, max_wavelength=10000.0):
    d = np.arange(dim)
    angles = positions[..., None] / max_wavelength ** (2 * (d // 2) / dim)
    return np.where(d % 2, np.cos(angles), np.sin(angles))


def rotary(x, position):
    """(T, K): pair i of each row t turned by t / w^(2 i / K), or by t times its frequency; the other columns stay."""
    width = x.shape[-1]
    frequencies = position.frequencies or [position.max_wavelength ** (-2 * i / width) for i in range(width // 2)]
    turned = np.array(x)
    for t in range(len(x)):
        for i, frequency in enumerate(frequencies):
            a, b = (2 * i, 2 * i + 1) if position.interleaved else (i, i + len(frequencies))
            cos, sin = (position.magnitude * f(t * frequency) for f in (np.cos, np.sin))
            turned[t, a] = x[t, a] * cos - x[t, b] * sin
            turned[t, b] = x[t, a] * sin + x[t, b] * cos
    return turned


def t5_bucket(relative, causal, num_buckets, max_distance):
    offset = 0
    if not causal:
        num_buckets //= 2
        offset = num_buckets if relative > 0 else 0
    distance = max(-relative, 0) if causal else abs(relative)
    exact = num_buckets // 2
    if distance < exact:
        return offset + distance
    growth = math.log(distance / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    return offset + min(exact + int(growth + 1e-12), num_buckets - 1)


def alibi_bias(position, t, s, *, head, num_heads, causal):
    """For a number of heads that is a power of two."""
    return -(2 ** (-8 * (head + 1) / num_heads)) * abs(t - s)


def t5_bias(position, t, s, *, head, num_heads, causal):
    return position.embeddings.numpy()[t5_bucket(s - t, causal, position.num_buckets, position.max_distance), head]


# What a position does to queries and keys (T, K) of a head, and what it adds to the score of token t with token s.
TURNS = {"RotaryPosition": rotary}
BIASES = {
    "AlibiPosition": alibi_bias,
    "RelativePosition": t5_bias,
}


def allowed_pairs(batch, length, keys, *, causal=False, window=None, mask=None, segments=None, attention_mask=None):
    """(B, T, S), bool. `mask` is the keys' padding mask, `segments` those of the queries and of the keys."""
    query, key = np.arange(length)[:, None], np.arange(keys)[None]
    allowed = np.ones((batch, length, keys), bool)
    if causal:
        allowed &= key <= query
    if window is not None:
        allowed &= abs(query - key) < window
    if mask is not None:
        allowed &= mask[:, None, :]
    if segments is not None:
        allowed &= segments[0][:, :, None] == segments[1][:, None, :]
    return allowed if attention_mask is None else allowed & attention_mask


def attention(
    w,
    x,
    memory=None,
    *,
    num_heads,
    head_dim=None,
    num_kv_heads=None,
    qk_norm=False,
    qk_norm_over="head",
    qkv_bias=None,
    scale=None,
    sinks=False,
    soft_cap=None,
    position=None,
    causal=False,
    window=None,
    mask=None,
    segments=None,
    attention_mask=None,
    use_bias=True,
):
    """Self-attention, or cross-attention if there is a `memory`: the output (B, T, D) and the scores (B, H, T, S).

    `mask` is that of the keys.
    """
    head_dim = head_dim or x.shape[-1] // num_heads
    groups = num_kv_heads or num_heads
    assert use_bias == ("output/bias" in w)
    assert (use_bias if qkv_bias is None else qkv_bias) == any(name.endswith(("y/bias", "value/bias")) for name in w)

    def norm_of(name, states):
        return normalized(below(w, name), states, "rms" if qk_norm is True else qk_norm, 1e-6) if qk_norm else states

    if memory is None:
        query, key, value = np.split(
            dense(below(w, "query_key_value"), x), [num_heads * head_dim, (num_heads + groups) * head_dim], axis=-1
        )
    else:
        query = dense(below(w, "query"), x)
        key, value = np.split(dense(below(w, "key_value"), memory), 2, axis=-1)
    if qk_norm_over == "heads":
        query, key = norm_of("query_norm", query), norm_of("key_norm", key)
    batch, length, keys = x.shape[0], x.shape[1], key.shape[1]
    allowed = allowed_pairs(
        batch, length, keys, causal=causal, window=window, mask=mask, segments=segments, attention_mask=attention_mask
    )
    kind = type(position).__name__
    assert position is None or kind in {**TURNS, **BIASES}, f"the oracle knows no {kind}: put it into TURNS or BIASES"
    heads = np.zeros((batch, length, num_heads * head_dim))
    weights = np.zeros((batch, num_heads, length, keys))
    for b in range(batch):
        for h in range(num_heads):
            g = h * groups // num_heads
            own = slice(h * head_dim, (h + 1) * head_dim)
            shared = slice(g * head_dim, (g + 1) * head_dim)
            q, k, v = query[b, :, own], key[b, :, shared], value[b, :, shared]
            if qk_norm_over == "head":
                q, k = norm_of("query_norm", q), norm_of("key_norm", k)
            if kind in TURNS:
                q, k = (TURNS[kind](states, position) for states in (q, k))
            score = q @ k.T * (head_dim**-0.5 if scale is None else scale)
            if soft_cap is not None:
                score = soft_cap * np.tanh(score / soft_cap)
            for t, s in np.ndindex(score.shape):
                if kind in BIASES:
                    score[t, s] += BIASES[kind](position, t, s, head=h, num_heads=num_heads, causal=causal)
            for t in range(length):
                if allowed[b, t].any():
                    exponential = np.exp(score[t] - score[t].max()) * allowed[b, t]
                    sink = np.exp(w["sinks"][h] - score[t].max()) if sinks else 0
                    weights[b, h, t] = exponential / (exponential.sum() + sink)
            heads[b, :, own] = weights[b, h] @ v
    return dense(below(w, "output"), heads), weights


def mixture(w, x, *, top_k=2, normalize=True, **options):
    """Token by token, expert by expert."""
    y = np.zeros_like(x, dtype="float64")
    for place in np.ndindex(x.shape[:-1]):
        logits = x[place] @ w["router"] + w.get("router_bias", 0)
        chosen = np.argsort(-logits)[:top_k]
        p = np.exp(logits)
        p = p / (p[chosen] if normalize else p).sum()
        for e in chosen:
            of_expert = {
                f"{part}/{name.split('/')[1]}": w[name][e]
                for part in ("inner", "outer")
                for name in w
                if name.startswith(f"experts_{part}/")
            }
            y[place] += p[e] * feed_forward(of_expert, x[place], **options)
    return y


def feed_forward(w, x, *, activation="relu", gated=False, gate_limit=np.inf, gate_offset=0.0):
    hidden = dense(below(w, "inner"), x)
    if gated:
        hidden, gate = np.split(hidden, 2, axis=-1)
        hidden, gate = np.minimum(hidden, gate_limit), np.clip(gate, -gate_limit, gate_limit)
        hidden = ACTIVATIONS[activation](hidden) * (gate + gate_offset)
    else:
        hidden = ACTIVATIONS[activation](hidden)
    return dense(below(w, "outer"), hidden)


def block(
    w,
    x,
    memory=None,
    *,
    causal,
    mask=None,
    memory_mask=None,
    segment_ids=None,
    memory_segment_ids=None,
    attention_mask=None,
    memory_attention_mask=None,
    activation="relu",
    gated=False,
    normalize_first=False,
    norm_placement=None,
    parallel_norms=None,
    norm="layer",
    norm_epsilon=1e-5,
    position=None,
    window=None,
    sinks=False,
    **options,
):
    """An encoder layer, or with `causal` a decoder layer: output, then the scores of each attention."""

    def attend(x):
        return attention(
            below(w, "self_attention"),
            x,
            causal=causal,
            mask=mask,
            segments=None if segment_ids is None else (segment_ids, segment_ids),
            attention_mask=attention_mask,
            position=position,
            window=window,
            sinks=sinks,
            **options,
        )

    def attend_to_memory(x):
        return attention(
            below(w, "cross_attention"),
            x,
            memory,
            mask=memory_mask,
            segments=None if segment_ids is None else (segment_ids, memory_segment_ids),
            attention_mask=memory_attention_mask,
            **options,
        )

    def transform(x):
        return feed_forward(below(w, "feed_forward"), x, activation=activation, gated=gated), None

    def norm_of(name, x):
        return normalized(below(w, name), x, norm, norm_epsilon)

    if parallel_norms:
        attended, scores = attend(norm_of("self_attention_norm", x))
        other = "self_attention_norm" if parallel_norms == 1 else "feed_forward_norm"
        return x + attended + transform(norm_of(other, x))[0], scores

    all_scores = []
    sublayers = {"self_attention": attend, "cross_attention": attend_to_memory, "feed_forward": transform}
    for name, sublayer in sublayers.items():
        if name == "cross_attention" and memory is None:
            continue
        if norm_placement == "before" or normalize_first:
            update, scores = sublayer(norm_of(f"{name}_norm", x))
            x = x + update
        elif norm_placement == "both":
            update, scores = sublayer(norm_of(f"{name}_norm", x))
            x = x + norm_of(f"{name}_output_norm", update)
        elif norm_placement == "branch":
            update, scores = sublayer(x)
            x = x + norm_of(f"{name}_norm", update)
        else:
            update, scores = sublayer(x)
            x = norm_of(f"{name}_norm", x + update)
        all_scores.append(scores)
    return x, *all_scores[:-1]
