"""Figures on pages, and where they are from."""

import re


def numbers_in(value):
    """All numbers of a JSON value, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def strange_numbers(text: str, figures: list[float]) -> list[str]:
    """The numbers in tables, but for heads and first columns, that are none of the figures, nor in percent, rounded."""
    rows = [line.split("|")[2:-1] for line in text.splitlines() if line.startswith("|")]
    heads = [i for i, below in enumerate(rows[1:]) if set("".join(below)) <= set("-: ")]
    cells = " ".join(cell for i, row in enumerate(rows) if i not in heads for cell in row)
    written = re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?!\w)", cells, re.ASCII)
    return [number for number in written if not is_rounded(number.replace(",", ""), figures)]


def is_rounded(number: str, figures: list[float]) -> bool:
    mantissa, _, exponent = number.partition("e")
    half = 0.5001 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return any(abs(scale * figure - float(number)) <= half for figure in figures for scale in (1, 100))


def decimals_in(text: str, tables: bool = False) -> list[str]:
    """The numbers with a point in prose, and in tables if told, but for those in code, links and names of papers."""
    text = text if tables else re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"```.*?```|`[^`]*`|\d{4}\.\d{5}|\]\([^)]*\)", "", text, flags=re.DOTALL)
    return re.findall(r"(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?(?!\d|\.\d)", text)
