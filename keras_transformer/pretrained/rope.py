"""Rotary positions as configuration files describe them: frequencies, and what sine and cosine are multiplied with.

Older files have `rope_theta` and `rope_scaling`, newer ones `rope_parameters`, with both in it, perhaps for each type
of layers. Frequencies are computed in float32, as they were when the model was trained.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_transformer._keras import is_trial
from keras_transformer.layers import RotaryPosition
from keras_transformer.layers.checks import check_positive, describe
from keras_transformer.pretrained.config import Settings


@keras.saving.register_keras_serializable("keras_transformer")
class LimitedRotaryPosition(RotaryPosition):
    """A `RotaryPosition` whose frequencies are those of sequences of up to `max_length` tokens.

    Longer ones would want other frequencies, for all their tokens (LongRoPE, https://arxiv.org/abs/2402.13753, and
    "dynamic" scaling), and with them other keys than those in a cache. So they are refused or, where the length is not
    known, NaN.

    Args:
        max_length: The longest sequence.
        kwargs: As of `RotaryPosition`.

    Raises:
        ValueError: If a sequence is longer.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> from keras_transformer.pretrained.rope import LimitedRotaryPosition
    >>> layer = kt.MultiHeadSelfAttention(2, causal=True, position=LimitedRotaryPosition(max_length=3))
    >>> tuple(layer(np.ones((1, 3, 8))).shape)
    (1, 3, 8)
    """

    def __init__(self, *args, max_length: int, **kwargs):
        super().__init__(*args, **kwargs)
        check_positive(self, max_length=max_length)
        self.max_length = max_length

    def rotate(self, states, positions):
        length = states.shape[2]
        if isinstance(length, int) and length > self.max_length and not is_trial():
            raise ValueError(
                f"{describe(self)} takes sequences of up to {self.max_length} tokens, got one of {length}. For longer "
                "ones the checkpoint has other frequencies, which a cache of keys does not allow."
            )
        beyond = ops.reshape(positions >= self.max_length, (-1, 1, ops.shape(positions)[1], 1))
        return ops.where(beyond, ops.cast(math.nan, states.dtype), super().rotate(states, positions))

    def get_config(self):
        return {**super().get_config(), "max_length": self.max_length}


def rotary(**options) -> RotaryPosition:
    """The position that `read_rotary` described, for one layer."""
    return LimitedRotaryPosition(**options) if "max_length" in options else RotaryPosition(**options)


def read_rotary(
    settings: Settings,
    head_dim: int,
    *,
    theta: float = 10000.0,
    fraction: float = 1.0,
    layer_type: str | None = None,
    otherwise: dict | None = None,
    first_length: int | None = None,
) -> dict:
    """The arguments of `rotary`, for a type of layers.

    Args:
        settings: Of the model.
        head_dim: Width K of a head.
        theta: The largest wavelength, over 2 pi, where the file has none.
        fraction: Which part of a head is turned where the file does not tell.
        layer_type: The type of the layers, where they differ.
        otherwise: The kind and its numbers where the file has none.
        first_length: Number of positions of the first training, for "longrope", where the file does not tell. None:
            `max_position_embeddings`.

    Raises:
        ValueError: If the kind of scaling is not known.
    """
    given = _parameters(settings, layer_type, otherwise or {})
    theta = given.get("rope_theta", settings.get("rope_theta", theta))
    fraction = given.get("partial_rotary_factor", settings.get("partial_rotary_factor", fraction))
    kind = given.get("rope_type", given.get("type", "default"))
    given.skip("type")  # some files have both
    kind = "longrope" if kind == "su" or "short_factor" in given else kind  # as it was called at first
    width = int(head_dim * fraction)
    if kind == "default" and width == head_dim:
        return {"max_wavelength": float(theta)}
    exponents = np.arange(0, width, 2, dtype="float32") / np.float32(width)
    wavelengths = np.float32(theta) ** exponents
    frequencies, magnitude, limit = np.float32(1) / wavelengths, 1.0, None
    if kind == "linear":
        frequencies = frequencies / np.float32(given["factor"])
    elif kind == "llama3":
        frequencies = _llama3(frequencies, given, _first_length(settings, given))
    elif kind == "yarn":
        frequencies, magnitude = _yarn(wavelengths, float(theta), width, given, settings)
    elif kind == "longrope":
        frequencies, magnitude, limit = _longrope(wavelengths, given, settings, first_length)
    elif kind == "dynamic":
        given.skip("factor")  # of sequences beyond the limit
        limit = settings["max_position_embeddings"]
    elif kind != "default":
        raise ValueError(
            f"{settings.where} has rotary positions of rope_type={kind!r}; default, linear, llama3, yarn, dynamic and "
            "longrope are supported."
        )
    options = {"frequencies": frequencies.tolist(), "magnitude": magnitude}
    return options if limit is None else {**options, "max_length": limit}


def _parameters(settings: Settings, layer_type: str | None, otherwise: dict) -> Settings:
    """The dict that describes the positions of a type of layers."""
    old, new = settings.get("rope_scaling"), settings.get("rope_parameters")
    given = old or new or Settings(otherwise, settings.where)
    if layer_type is not None and layer_type in given:
        given = given.get(layer_type)
    return given or Settings({}, settings.where)


def _first_length(settings: Settings, given: Settings, otherwise: int | None = None) -> int:
    """The number of positions of the first training."""
    length = given.get("original_max_position_embeddings", otherwise)
    length = settings.get("original_max_position_embeddings", length)
    return settings["max_position_embeddings"] if length is None else length


def _llama3(frequencies, given: Settings, length: int):
    """Low frequencies divided by a factor, high ones left alone, those between interpolated (Llama 3.1)."""
    factor, low, high = (np.float32(given[x]) for x in ("factor", "low_freq_factor", "high_freq_factor"))
    wavelengths = np.float32(2 * math.pi) / frequencies
    smooth = (np.float32(length) / wavelengths - low) / (high - low)
    between = (1 - smooth) * frequencies / factor + smooth * frequencies
    scaled = np.where(wavelengths > length / low, frequencies / factor, between)
    return np.where(wavelengths < length / high, frequencies, scaled).astype("float32")


def _yarn(wavelengths, theta: float, width: int, given: Settings, settings: Settings):
    """Frequencies and magnitude of YaRN (https://arxiv.org/abs/2309.00071): each pair of coordinates by how often it
    turns within the length of the first training."""
    length = _first_length(settings, given)
    factor = given.get("factor")
    factor = settings["max_position_embeddings"] / length if factor is None else factor

    def magnitude(scale, by=1.0):
        return 0.1 * by * math.log(scale) + 1.0 if scale > 1 else 1.0

    attention_factor, mscale, all_dim = (given.get(x) for x in ("attention_factor", "mscale", "mscale_all_dim"))
    if attention_factor is None:
        if mscale and all_dim:
            attention_factor = magnitude(factor, mscale) / magnitude(factor, all_dim)
        else:
            attention_factor = magnitude(factor)

    def pair(rotations):
        return width * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(given.get("beta_fast") or 32), pair(given.get("beta_slow") or 1)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    high += 0.001 if low == high else 0
    places = np.arange(width // 2, dtype="float32")
    slow = np.clip((places - np.float32(low)) / np.float32(high - low), 0, 1)
    frequencies = slow / (np.float32(factor) * wavelengths) + (1 - slow) / wavelengths
    return frequencies.astype("float32"), float(attention_factor)


def _longrope(wavelengths, given: Settings, settings: Settings, first_length: int | None):
    """Frequencies, magnitude and limit of LongRoPE as far as the first training went."""
    length = _first_length(settings, given, first_length)
    factor, magnitude = given.get("factor"), given.get("attention_factor")
    factor = settings["max_position_embeddings"] / length if factor is None else factor
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(factor) / math.log(length)) if factor > 1 else 1.0
    given.skip("long_factor")
    short = np.asarray(given["short_factor"], "float32")
    if short.shape != wavelengths.shape:
        raise ValueError(
            f"{settings.where} has {short.size} numbers in short_factor; the positions take {wavelengths.size}."
        )
    return np.float32(1) / (short * wavelengths), float(magnitude), length
