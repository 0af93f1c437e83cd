"""From a sound to what Whisper reads: the logarithm of the power in bands of frequency, frame by frame."""

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.checks import check_above_zero, check_positive, describe
from keras_transformer.layers.quantized import Small

FLOOR, RANGE = 1e-10, 8.0  # the least power, and how far below the largest of a sound powers count, in tenfold steps
BREAK, PER_MEL = 1000.0, 200.0 / 3.0  # hertz up to which mels grow linearly, and by how much
STEP = np.log(6.4) / 27.0  # of a mel above, in the logarithm


@keras.saving.register_keras_serializable("keras_transformer")
class LogMelSpectrogram(Small):
    """The log-mel spectrogram of a sound, as Whisper has it ("Robust Speech Recognition via Large-Scale Weak
    Supervision", https://arxiv.org/abs/2212.04356, section 2.2).

    For frame t, with the Hann window w and mel filters M (area 1, "Slaney"), x being reflected at both ends:

        P[t, f] = |sum over n of w[n] x[t stride + n - F / 2] exp(-2 pi i n f / F)|^2
        S = log10(max(P M, 1e-10)),  y = (max(S, max(S) - 8) + 4) / 4

    The largest S is each sound's own. With `mask_zero`, samples of exactly 0 at the end of a sound are padding: x is
    followed by silence, as it is where it is filled up to `length`; frames whose middle, t stride, lies behind the last
    sample are marked by the padding mask, and y is 0 there. So a batch of sounds of several lengths gives what each
    gives alone.

    `keras.layers.MelSpectrogram` has other mels and other filters, and takes the largest of the batch. There is no fast
    Fourier transform in it: the sum is a convolution, which each backend and each runtime has.

    Args:
        num_mel_bins: Number of bands; 128 in Whisper large-v3, 80 in all others.
        length: Number of samples to which a sound is cut, or filled with silence; None leaves it as it is.
        sampling_rate: Samples a second. The sound has to have it: nothing is resampled.
        frame_length: F, in samples.
        stride: From frame to frame, in samples.
        mask_zero: Whether samples of 0 at the end are padding, and the output has a mask.

    Input shape: (B, samples), float, from -1 to 1: 16-bit integers are to be divided by 32768 before, since a model
    with a float input takes them as they are. Output shape: (B, samples / stride, num_mel_bins), rounded down, or up
    with `mask_zero`.

    Raises:
        ValueError: If an argument is not positive, `frame_length` is odd, `length` is not above its half, nor is the
            sound without `length` and `mask_zero` (NaN, where a compiled function does not know how long it is), or
            the input is not of rank 2, or is integers.

    Example: from a sound to text, `whisper` being what `kt.pretrained.load_model` returned,

        sound = keras.Input((None,), name="sound")
        target = keras.Input((None,), dtype="int32", name="target")
        features = kt.LogMelSpectrogram()(sound)
        generator = kt.Generator(keras.Model([sound, target], whisper([features, target])), ...)

    >>> import numpy as np, keras_transformer as kt
    >>> tuple(kt.LogMelSpectrogram(length=1600)(np.zeros((2, 999))).shape)
    (2, 10, 80)
    """

    def __init__(
        self,
        num_mel_bins: int = 80,
        length: int | None = 480_000,
        *,
        sampling_rate: int = 16_000,
        frame_length: int = 400,
        stride: int = 160,
        mask_zero: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(self, num_mel_bins=num_mel_bins, frame_length=frame_length, stride=stride)
        check_above_zero(self, sampling_rate=sampling_rate)
        if length is not None:
            check_positive(self, length=length)
            if length <= frame_length // 2:
                raise ValueError(
                    f"{describe(self)} reflects frame_length / 2 = {frame_length // 2} samples at each end: it takes "
                    f"a length above that, got {length}."
                )
        if frame_length % 2:
            raise ValueError(f"{describe(self)} takes an even frame_length, got {frame_length}.")
        self.num_mel_bins = num_mel_bins
        self.length = length
        self.sampling_rate = sampling_rate
        self.frame_length = frame_length
        self.stride = stride
        self.mask_zero = mask_zero
        self.supports_masking = mask_zero
        self.autocast = False  # samples lose too much in half precision

    def build(self, inputs_shape):
        self._waves = waves(self.frame_length)
        self._filters = mel_filters(self.num_mel_bins, self.frame_length // 2 + 1, self.sampling_rate)

    def call(self, inputs):
        self._check(inputs)
        x, half = self._cut(inputs), self.frame_length // 2
        samples = self.length or ops.shape(x)[1]
        frames = self._count(samples)
        silent = ops.pad(x, [[0, 0], [0, half]])
        start = ops.flip(silent[:, 1 : half + 1], axis=1)
        x = ops.concatenate([start, silent if self.mask_zero else x], axis=1)
        if not self.mask_zero:  # of a short sound, which gives NaN below, it reaches into the start
            x = ops.concatenate([x, ops.flip(x[:, -half - 1 : -1], axis=1)], axis=1)
        x = ops.expand_dims(x, -1)
        spectrum = ops.conv(x, ops.convert_to_tensor(self._waves), strides=self.stride, data_format="channels_last")
        spectrum = ops.square(spectrum[:, :frames])  # there is one more, in the middle of the end
        power = spectrum[..., : half + 1] + spectrum[..., half + 1 :]
        mels = ops.log10(ops.maximum(ops.matmul(power, ops.convert_to_tensor(self._filters)), FLOOR))
        real = ops.expand_dims(self._real(inputs), -1) if self.mask_zero else None
        if real is not None:
            mels = ops.where(real, mels, np.float32(np.log10(FLOOR)))
        mels = (ops.maximum(mels, ops.max(mels, axis=(1, 2), keepdims=True) - RANGE) + 4.0) / 4.0
        if self._reflects and not isinstance(samples, int):
            mels = ops.where(samples > half, mels, float("nan"))
        return ops.cast(mels if real is None else ops.where(real, mels, 0.0), self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        return self._real(inputs) if self.mask_zero else None

    @property
    def _reflects(self) -> bool:
        """Whether the end of a sound is reflected wherever it is."""
        return self.length is None and not self.mask_zero

    def _check(self, inputs) -> None:
        """Raise ValueError unless the input is sounds in float, long enough to be reflected."""
        shape, half = tuple(inputs.shape), self.frame_length // 2
        if len(shape) != 2:
            raise ValueError(f"{describe(self)} takes sounds of shape (batch, samples), got {shape}.")
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if "float" not in dtype:
            raise ValueError(
                f"{describe(self)} takes sounds in float, from -1 to 1, got {dtype}. Divide integers by their range: "
                "sound.astype('float32') / 32768 of int16."
            )
        if self._reflects and shape[1] is not None and shape[1] <= half:
            raise ValueError(
                f"{describe(self)} reflects frame_length / 2 = {half} samples at each end: it takes sounds of more "
                f"samples than that, got {shape}. Fill them up with silence, by length=, or use mask_zero=True."
            )

    def _cut(self, inputs):
        """Samples in float32, cut or filled up to the length."""
        x = ops.cast(inputs, "float32")
        return x if self.length is None else ops.pad(x, [[0, 0], [0, self.length]])[:, : self.length]

    def _count(self, samples):
        """The number of frames: the last one's stride is whole, or, with a mask, begun."""
        return (samples + self.stride - 1 if self.mask_zero else samples) // self.stride

    def _real(self, inputs):
        """Which frames have their middle before the end of what is not 0: (B, frames)."""
        sounds = ops.cast(ops.not_equal(self._cut(inputs), 0.0), "int32")
        left = ops.flip(ops.cumsum(ops.flip(sounds, axis=1), axis=1), axis=1)  # from each sample to the end
        return ops.greater(left[:, :: self.stride], 0)

    def compute_output_spec(self, inputs):
        self._check(inputs)
        length = self.length or inputs.shape[1]
        frames = None if length is None else self._count(length)
        return keras.KerasTensor((inputs.shape[0], frames, self.num_mel_bins), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_mel_bins": self.num_mel_bins,
            "length": self.length,
            "sampling_rate": self.sampling_rate,
            "frame_length": self.frame_length,
            "stride": self.stride,
            "mask_zero": self.mask_zero,
        }


def waves(frame_length: int) -> np.ndarray:
    """Cosines, then sines, of all frequencies under a Hann window, (F, 1, 2 (F / 2 + 1)): a kernel of a convolution."""
    n = np.arange(frame_length)
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * n / frame_length)
    turns = np.outer(n, np.arange(frame_length // 2 + 1)) % frame_length  # exact, where angles would be rounded
    angles = 2.0 * np.pi * turns / frame_length
    kernel = window[:, None] * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return kernel[:, None].astype("float32")


def mel_filters(num_mel_bins: int, num_frequencies: int, sampling_rate: float) -> np.ndarray:
    """Triangles over the frequencies from 0 to half the sampling rate, (frequencies, mel bins), each of area 1.

    Their corners are at equal distances in mels: linear in hertz up to 1000, logarithmic above.
    """
    highest = sampling_rate / 2.0
    linear = highest / PER_MEL
    top = linear if highest < BREAK else BREAK / PER_MEL + np.log(highest / BREAK) / STEP
    mels = np.linspace(0.0, top, num_mel_bins + 2)
    above = BREAK * np.exp(STEP * np.maximum(mels - BREAK / PER_MEL, 0.0))
    corners = np.where(mels < BREAK / PER_MEL, PER_MEL * mels, above)
    frequencies = np.linspace(0.0, highest, num_frequencies)[:, None]
    rising = (frequencies - corners[:-2]) / np.diff(corners)[:-1]
    falling = (corners[2:] - frequencies) / np.diff(corners)[1:]
    areas = 2.0 / (corners[2:] - corners[:-2])
    return (np.maximum(0.0, np.minimum(rising, falling)) * areas).astype("float32")
