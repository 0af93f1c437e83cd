"""Public functions and constructors are annotated whole, as mypy and people read them.

Three things are left out, since no type says what they are: tensors and arrays, whose shapes the docstring has (so too
what is returned where they are taken); what Keras takes as a name, a configuration or an object; and what has the
methods that the docstring asks for. Methods that a base has already, ours or Keras', are read there.
"""

import inspect
import types

import keras_transformer as kt
import keras_transformer_runtime

TENSORS = set(
    """bias cotangent coverage given hidden ids inputs key key_mask key_positions key_segments lengths
    log_probabilities mask memory new_tokens offset outputs positions prompt_lengths prompts query query_positions
    query_segments real relative_positions rows samples scale scores seed sequence sinks sources states strings texts
    tokens value values vector weights x y_pred y_true""".split()
)
OF_KERAS = {"activation", "dtype", "epoch", "logs", "name"}  # and initializers, regularizers, constraints
WITH_METHODS = {"tokenizer", "source_tokenizer", "target_tokenizer", "decode"}


def public(module, name="kt"):
    """Functions by name: those of a module, what makes its classes, and the methods that are the classes' own."""
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    for key in getattr(module, "__all__", [key for key in own if not key.startswith("_")]):
        value = getattr(module, key)
        if isinstance(value, types.ModuleType):
            yield from public(value, f"{name}.{key}")
        elif inspect.isfunction(value):
            yield f"{name}.{key}", value
        elif inspect.isclass(value):
            for base in value.__mro__:
                if base.__module__.startswith("keras_transformer"):
                    yield from methods(base)


def methods(owner: type):
    for key, method in vars(owner).items():
        method = getattr(method, "__func__", method)
        is_new = not any(hasattr(base, key) for base in owner.__mro__[1:])
        if inspect.isfunction(method) and (key == "__init__" or (is_new and not key.startswith("_"))):
            yield f"{owner.__module__}.{owner.__qualname__}.{key}", method


def is_exempt(name: str) -> bool:
    return name in TENSORS | OF_KERAS | WITH_METHODS or name.endswith(("_initializer", "_regularizer", "_constraint"))


def missing(function) -> list[str]:
    """The parameters without an annotation that should have one, and "return" if the result has none."""
    signature = inspect.signature(function)
    given = [x for x in signature.parameters.values() if x.kind not in (x.VAR_KEYWORD, x.VAR_POSITIONAL)]
    bare = [x.name for x in given if x.annotation is x.empty and x.name not in ("self", "cls")]
    is_silent = signature.return_annotation is signature.empty and function.__name__ != "__init__"
    return [x for x in bare if not is_exempt(x)] + ["return"] * (is_silent and not TENSORS & {x.name for x in given})


FUNCTIONS = dict([*public(kt), *public(keras_transformer_runtime, "runtime")])


def test_there_is_much_to_look_at_and_an_omission_is_seen():
    assert len(FUNCTIONS) > 150
    assert missing(lambda ids, count, *, activation: 1) == ["count"]
    assert missing(lambda count: 1) == ["count", "return"]


def test_public_functions_are_annotated():
    found = {name: missing(function) for name, function in FUNCTIONS.items()}
    assert {name: bare for name, bare in found.items() if bare} == {}
