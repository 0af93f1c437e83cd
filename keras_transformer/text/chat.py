"""Conversations as one text: the templates of checkpoints, in Jinja's language, rendered as transformers does.

A template comes from strangers and is a program. It runs in Jinja's sandbox, and sees strings, numbers, lists and dicts
only.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from keras_transformer_runtime.packages import needed

_REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one field; templates read one of the first two


def render(template: str, messages: Sequence[Mapping], owner: str, **variables) -> str:
    """The text of a conversation; ValueError if there is none, or if the template refuses it."""
    jinja2 = needed("jinja2", f"{owner}.apply_chat_template")

    if isinstance(messages, str | Mapping) or not messages or not all(isinstance(x, Mapping) for x in messages):
        raise ValueError(
            f"{owner}: a conversation is a list of dicts such as {{'role': 'user', 'content': 'Hello'}}. "
            f"Received: {messages!r}"
        )
    try:
        return _compiled(template).render(messages=[_message(x) for x in messages], **_plain(variables))
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"{owner}: the chat template is damaged, line {error.lineno}: {error}") from error
    except (jinja2.TemplateError, TypeError) as error:
        raise ValueError(f"{owner}: the chat template takes no such conversation: {error}") from error


def _message(message: Mapping) -> dict:
    """A message as templates read it: without what is None, and with its reasoning under the names that are in use."""
    message = {key: _plain(value) for key, value in message.items() if value is not None}
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _plain(value: Any) -> Any:
    """A value made of what JSON has; anything else, which may have methods, becomes its type's name."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    kinds: tuple[Any, ...] = (str, int, float)
    for kind in kinds:
        if isinstance(value, kind):
            return kind.__new__(kind, value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return f"<{type(value).__name__}>"


@functools.lru_cache(maxsize=32)
def _compiled(template: str):
    jinja2 = needed("jinja2", "A chat template")
    from jinja2 import utils
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %}: marks what the assistant says, and changes nothing."""

        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Namespace(utils.Namespace):
        """Without the attributes by which a template would get at Python."""

        def __setitem__(self, name, value):
            if str(name).startswith("_"):
                raise jinja2.exceptions.SecurityError(f"an attribute {name!r} of a namespace is not allowed")
            super().__setitem__(name, value)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):  # Jinja's own escapes HTML
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(
        raise_exception=raise_exception,
        strftime_now=lambda form: datetime.now().strftime(form),
        namespace=Namespace,
    )
    return environment.from_string(template)
