"""How the variables of a model are divided among devices, for Keras' model parallelism on JAX."""

import re

import keras

# Of the first of two products the columns go to different devices, of the second the rows: one sum makes them whole.
_COLUMNS = r".*/(query_key_value|query|key_value|key|inner)"
_ROWS = r".*/(output|outer)"
_STATE_OF_METRICS = (
    "total|count|weight|sum|squared_sum|residual|num_samples|accumulator|(true|false)_(positives|negatives)|"
    "total_confusion_matrix"
)
# What `enable_lora` and `quantize` add to a layer: small, and read with the whole of a matrix.
_OF_MATRICES = "lora_(kernel|embeddings)_[ab]|(kernel|embeddings|inputs|outputs_grad)_(scale|zero|amax_history)|g_idx"
_STATE_OF_TRAINING = "iteration|learning_rate|step_counter|dynamic_scale|seed_generator_state"


def layout_map(
    mesh: keras.distribution.DeviceMesh,
    *,
    batch_axis: str = "batch",
    model_axis: str = "model",
    expert_axis: str | None = None,
) -> keras.distribution.LayoutMap:
    """The layout of every variable of a Transformer, for `keras.distribution.ModelParallel`.

    Each device of the model axis holds a slice of the large matrices and computes with it ("Megatron-LM: Training
    Multi-Billion Parameter Language Models Using Model Parallelism", section 3, https://arxiv.org/abs/1909.08053). One
    sum over the devices follows each attention and each FeedForward; queries, keys and values, which are one matrix
    here, and the two halves of a gated FeedForward are also moved to where they meet.

        variable                                                    (rows, columns)
        kernels of queries, keys, values; FeedForward's inner       (-, model), their biases (model,)
        kernels of attention's output; FeedForward's outer          (model, -), their biases on each device
        embeddings and logits: the vocabulary                       (model, -) and (-, model), their biases (model,)
        experts of a MixtureOfExperts                               (expert, -, -), their biases (expert, -)
        routers, norms, attention's sinks, learned and relative positions, recurrent cells      on each device
        factors of LoRA, scales of what is quantized                on each device

    The optimizer's moments lie where their variables do. Counters, metrics and random seeds are on each device.

    A key is a regular expression that has to match the whole path of a variable. The rules are for the layers of this
    package and the models of `kt.models`; an embedding's name has to have "embedding" in it. A variable that no rule
    matches raises an error, where Keras would put a copy on each device without a word. For layers of your own add
    rules; of several that match, the last one added holds:

        layouts = kt.training.layout_map(mesh)
        layouts[".*/gate/kernel"] = (None, "model")    # columns on different devices
        layouts["classes/.*"] = ()                     # a copy on each device

    Results are those of one device, also where heads do not divide evenly among the devices; then more is moved. A
    dimension of a variable that does not, such as a vocabulary of 13 on 4 devices, raises JAX's error, which tells the
    shape and the layout, when the variable is made: make it a multiple (ids that never occur do no harm), or add a
    rule that puts a copy on each device.

    Args:
        mesh: The devices. Either axis may have size 1.
        expert_axis: The name of an axis that divides the experts of a `MixtureOfExperts`. Default: `model_axis`. Their
            number has to be a multiple of its size. Without a `capacity_factor`, a device computes with copies of the
            other devices' experts, made layer by layer; with one, each computes those it has.
        batch_axis, model_axis: The names of its axes that divide the batch and the variables. Give `batch_axis` to
            `ModelParallel(batch_dim_name=...)`, too, which takes the first axis of the mesh if it is not told.

    Returns:
        A `keras.distribution.LayoutMap`.

    Raises:
        ValueError: If the backend is not JAX, where Keras would train on one device without a word; or the mesh has
            not the two axes. From the result: if a variable is made that no rule matches, or that does not divide
            evenly.

    Example (on JAX; as many devices as there are, in one row):

    >>> import keras, keras_transformer as kt
    >>> if keras.backend.backend() == "jax":
    ...     devices = keras.distribution.list_devices()
    ...     mesh = keras.distribution.DeviceMesh((1, len(devices)), ["batch", "model"], devices)
    ...     layouts = kt.training.layout_map(mesh)
    ...     distribution = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    ...     assert layouts["encoder_0/feed_forward/inner/kernel"].axes == (None, "model")
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            "layout_map is for the JAX backend: keras.distribution divides nothing on the backend "
            f"'{keras.backend.backend()}'. Set KERAS_BACKEND=jax before Keras is imported, or use "
            "tf.distribute.MirroredStrategy on TensorFlow."
        )
    if not isinstance(mesh, keras.distribution.DeviceMesh):
        raise ValueError(f"layout_map takes a keras.distribution.DeviceMesh, got {mesh!r}.")
    expert_axis = model_axis if expert_axis is None else expert_axis
    missing = [axis for axis in (batch_axis, model_axis, expert_axis) if axis not in mesh.axis_names]
    if missing or batch_axis == model_axis:
        raise ValueError(
            "layout_map takes a mesh with an axis for the batch and another for the model, got "
            f"batch_axis={batch_axis!r}, model_axis={model_axis!r} and expert_axis={expert_axis!r} for a mesh with the "
            f"axes {list(mesh.axis_names)}. An axis may have size 1: keras.distribution.DeviceMesh((1, 8), "
            "['batch', 'model'])."
        )
    layouts = _LayoutMap(mesh)
    for pattern, axes in {
        r"[^/]+": (),  # made outside of any layer, by an optimizer
        rf".*/({_STATE_OF_METRICS}|{_STATE_OF_TRAINING})": (),
        r"adafactor[^/]*/.*": (),  # moments of rows and of columns; other optimizers' moments follow their variables
        rf"{_COLUMNS}/kernel": (None, model_axis),
        rf"{_COLUMNS}/bias": (model_axis,),
        rf"{_ROWS}/kernel": (model_axis, None),
        rf"{_ROWS}/bias": (),
        r".*/experts_(inner|outer)/kernel": (expert_axis, None, None),
        r".*/experts_(inner|outer)/bias": (expert_axis, None),
        r".*/router(_bias)?": (),
        r".*/sinks": (),
        r"(.*/)?[^/]*decoder[^/]*/score": (
            model_axis,
            None,
        ),  # of additive attention: its rows are the columns of query and key
        r"(.*/)?[^/]*embedding[^/]*/embeddings": (model_axis, None),
        r"(.*/)?[^/]*embedding[^/]*/output_bias": (model_axis,),
        r"(.*/)?[^/]*position[^/]*/embeddings": (),
        r"(.*/)?[^/]*class_token[^/]*/embeddings": (),
        r"(.*/)?logits/kernel": (None, model_axis),
        r"(.*/)?logits/bias": (model_axis,),
        r".*/(scale|gamma|beta)": (),
        rf".*/({_OF_MATRICES})": (),
        r".*_cell/(kernel|recurrent_kernel|bias)": (),  # divided, they would exchange something at every time step
        r"(.*/)?(bridge_\d+_\d+|classes)/(kernel|bias)": (),
    }.items():
        layouts[pattern] = axes
    return layouts


class _LayoutMap(keras.distribution.LayoutMap):
    """A layout map in which the last rule that matches holds, and in which one has to."""

    def __getitem__(self, path):
        for pattern in reversed(list(self)):
            if re.fullmatch(pattern, path):
                return super().__getitem__(pattern)
        if path.endswith("/output"):  # what Keras calls the output of a layer, whose layout the compiler chooses
            return None
        raise ValueError(
            f"No rule of the layout map matches the variable '{path}', so there would be a copy of it on each device. "
            f"Add a rule before the model is made: layouts['{re.escape(path)}'] = (), for those copies, or with the "
            f"name of an axis of {self.device_mesh} for each dimension that is to be divided, and None for the others. "
            "A key is a regular expression that has to match the whole path; '.*/' stands for the layers around."
        )
