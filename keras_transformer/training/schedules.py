"""Learning-rate schedules that Transformers are trained with and Keras does not have."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_transformer")
class InverseSquareRootSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to a peak, then decay with the inverse square root of the step ("Noam").

        learning_rate(step) = peak * min(step / warmup_steps, sqrt(warmup_steps / step))

    Give the peak itself, or the model's width: the formula of "Attention Is All You Need", section 5.3,

        learning_rate(step) = scale * dim^-0.5 * min(step^-0.5, step * warmup_steps^-1.5)

    is the same curve with peak = (dim * warmup_steps)^-0.5, times `scale`. Steps are the optimizer's
    `iterations`, so the very first update has step 0 and the learning rate 0.

    Args:
        peak_learning_rate: The learning rate at step `warmup_steps`, the highest of all.
        dim: Width of the model, in place of `peak_learning_rate`.
        warmup_steps: Number of steps with a growing learning rate.
        scale: Factor on all learning rates; 1 in the paper.

    Raises: ValueError if both or neither of `peak_learning_rate` and `dim` are given, or a value is not
    positive.

    Example:

    >>> import keras
    >>> from keras_transformer.training import InverseSquareRootSchedule
    >>> schedule = InverseSquareRootSchedule(dim=512, warmup_steps=4000)
    >>> [round(float(schedule(step)), 6) for step in (0, 2000, 4000, 16000)]
    [0.0, 0.000349, 0.000699, 0.000349]
    >>> optimizer = keras.optimizers.Adam(schedule, beta_1=0.9, beta_2=0.98, epsilon=1e-9)
    """

    def __init__(
        self,
        peak_learning_rate: float | None = None,
        *,
        dim: int | None = None,
        warmup_steps: int = 4000,
        scale: float = 1.0,
    ):
        super().__init__()
        if (peak_learning_rate is None) == (dim is None):
            raise ValueError(
                "InverseSquareRootSchedule takes either `peak_learning_rate` or `dim`. "
                f"Received: peak_learning_rate={peak_learning_rate}, dim={dim}"
            )
        self.peak_learning_rate = peak_learning_rate
        self.dim = dim
        self.warmup_steps = warmup_steps
        self.scale = scale
        for name, value in self.get_config().items():
            if value is not None and not value > 0:
                raise ValueError(f"InverseSquareRootSchedule takes a positive `{name}`. Received: {value}")

    def __call__(self, step):
        peak = self.peak_learning_rate
        if peak is None:
            peak = (self.dim * self.warmup_steps) ** -0.5
        progress = ops.cast(step, "float32") / self.warmup_steps
        # The decay is only reached from step 1 on; `maximum` keeps it finite at step 0.
        decay = ops.rsqrt(ops.maximum(progress, 1 / self.warmup_steps))
        return self.scale * peak * ops.minimum(progress, decay)

    def get_config(self):
        return {
            "peak_learning_rate": self.peak_learning_rate,
            "dim": self.dim,
            "warmup_steps": self.warmup_steps,
            "scale": self.scale,
        }
