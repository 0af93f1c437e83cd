"""The characters that byte-level vocabularies are spelt with."""

import functools
import types
from collections.abc import Mapping


@functools.cache
def byte_alphabet() -> Mapping[str, int]:
    """The 256 characters that byte-level vocabularies are spelt with, to the bytes that they stand for."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    found = {chr(x): x for x in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}
    return types.MappingProxyType(found)
