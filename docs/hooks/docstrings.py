"""Makes of our docstrings what mkdocstrings renders: griffe calls it for each, before it is parsed.

A docstring is written to be read in an editor: "Call arguments:" has items as "Args:" has, an argument list may go over
two lines, examples stand at the left margin. Only the text that is rendered changes.
"""

import ast
import re
import sys
from pathlib import Path

import griffe

sys.path.append(str(Path(__file__).parent))
from links import linked, public_names  # noqa: E402

LABEL = re.compile(
    r"^((?:[A-Z][a-z ]+ shape|Call arguments|Weights|Batches|Attributes|Returns|Raises|Warns):)(?= \S)", re.M
)
EXAMPLE = re.compile(r"^(Example(?: \([^)]*\))?):", re.M)
DOCTEST = re.compile(r"^>>> .*(?:\n(?!$).*)*", re.M)
LONG_LIST = re.compile(r"^( {4}\S[^:\n]*,)\n {8}(?=[^:\n]*(?:,$|: ))", re.M)
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.M | re.S)
PUBLIC = public_names()
PACKAGE = Path(__file__).resolve().parents[2] / "keras_transformer"
# Where options that other layers hand on to have their defaults.
OWNERS = [PACKAGE / "layers" / f"{name}.py" for name in ("residual", "heads", "attention", "gating", "projection")]


def constants_and_defaults() -> tuple[dict[str, str], dict[str, str]]:
    """What the constants of modules are, and what the options of `OWNERS` are if nothing is given."""
    constants, defaults = {}, {"name": "None", "dtype": "None", "trainable": "True"}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                constants.setdefault(node.targets[0].id, set()).add(ast.unparse(node.value))
            if isinstance(node, ast.ClassDef) and path in OWNERS:
                makers = [x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "__init__"]
                for given in (maker.args for maker in makers):
                    last = given.args[len(given.args) - len(given.defaults) :]
                    for name, value in zip(last + given.kwonlyargs, given.defaults + given.kw_defaults, strict=True):
                        if value is not None:
                            defaults.setdefault(name.arg, ast.unparse(value))
    return {name: min(values) for name, values in constants.items() if len(values) == 1}, defaults


CONSTANTS, DEFAULTS = constants_and_defaults()


class Docstrings(griffe.UnpackTypedDictExtension):
    """Rewrites the docstring of every object and links the public names in it; options that are handed on are told."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring:
            others = {name: path for name, path in PUBLIC.items() if path.rpartition(".")[2] != obj.name}
            obj.docstring.value = linked(rewritten(obj.docstring.value), others)

    def on_class(self, **kwargs) -> None:
        """A class of options keeps its attributes, which those that inherit from it are still to read."""

    def on_function(self, *, func: griffe.Function, **kwargs) -> None:
        """Called for each function: its options are added, and what stands for a default becomes the value."""
        super().on_function(func=func, **kwargs)
        if func.docstring and not func.docstring.value:
            func.docstring = None  # a list of the options without a word of what they do: the class has the words
        for parameter in func.parameters:
            if parameter.default == "..." and parameter.kind is griffe.ParameterKind.keyword_only:
                parameter.default = DEFAULTS.get(parameter.name, parameter.default)
            parameter.default = CONSTANTS.get(str(parameter.default), parameter.default)


def rewritten(text: str) -> str:
    """A docstring in the form that is rendered.

    >>> print(rewritten("Call arguments:\\n    x: (B, T).\\n\\nOutput shape: (B,)."))
    Args: Call arguments
        x: (B, T).
    <BLANKLINE>
    **Output shape:** (B,).
    >>> rewritten("Example:\\n\\n>>> 1 + 1\\n2").splitlines()
    ['**Example**', '', '```pycon', '>>> 1 + 1', '2', '```']
    >>> rewritten("Reads '<s>', not `<s>`.")
    "Reads '&lt;s>', not `<s>`."
    >>> print(rewritten("Args:\\n    kernel_initializer, bias_initializer,\\n        bias_constraint: Of it."))
    Args:
        kernel_initializer, bias_initializer, bias_constraint: Of it.
    """
    text = re.sub(r"^Call arguments:$", "Args: Call arguments", text, flags=re.M)
    text = EXAMPLE.sub(lambda found: f"**{found[1]}**", text)
    text = LABEL.sub(r"**\1**", text)
    while LONG_LIST.search(text):
        text = LONG_LIST.sub(r"\1 ", text)
    text = DOCTEST.sub(r"```pycon\n\g<0>\n```", text)
    return "".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(CODE.split(text)))
