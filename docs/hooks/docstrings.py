"""Makes of our docstrings what mkdocstrings renders: griffe calls it for each, before it is parsed.

A docstring is written to be read in an editor: "Call arguments:" has items as "Args:" has, an argument list may go over
two lines, examples stand at the left margin. Only the text that is rendered changes.
"""

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
PUBLIC = public_names()


class Docstrings(griffe.Extension):
    """Rewrites the docstring of every object, and links the public names in it."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring:
            others = {name: path for name, path in PUBLIC.items() if path.rpartition(".")[2] != obj.name}
            obj.docstring.value = linked(rewritten(obj.docstring.value), others)


def rewritten(text: str) -> str:
    """A docstring in the form that is rendered.

    >>> print(rewritten("Call arguments:\\n    x: (B, T).\\n\\nOutput shape: (B,)."))
    Args: Call arguments
        x: (B, T).
    <BLANKLINE>
    **Output shape:** (B,).
    >>> rewritten("Example:\\n\\n>>> 1 + 1\\n2").splitlines()
    ['**Example**', '', '```pycon', '>>> 1 + 1', '2', '```']
    >>> print(rewritten("Args:\\n    kernel_initializer, bias_initializer,\\n        bias_constraint: Of it."))
    Args:
        kernel_initializer, bias_initializer, bias_constraint: Of it.
    """
    text = re.sub(r"^Call arguments:$", "Args: Call arguments", text, flags=re.M)
    text = EXAMPLE.sub(lambda found: f"**{found[1]}**", text)
    text = LABEL.sub(r"**\1**", text)
    while LONG_LIST.search(text):
        text = LONG_LIST.sub(r"\1 ", text)
    return DOCTEST.sub(r"```pycon\n\g<0>\n```", text)
