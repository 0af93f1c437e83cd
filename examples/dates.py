"""Dates as people write them in many languages, with their ISO 8601 form: the data of the quickstart.

The texts are what `babel.dates.format_date` writes from the CLDR patterns, but in the digits that CLDR names
as the locale's own, where Babel writes 0-9 only. All dates are Gregorian, from FIRST_DATE to LAST_DATE.

    python examples/dates.py        prints one example for each locale
"""

import datetime
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from babel import Locale
from babel.dates import DateTimeFormat, get_date_format

LOCALES = """
    ar ar_EG bn de el en es es_PA fi fr he hi hy it ja ka ko mr nl pl pt_PT ru ta th tr uk vi zh
""".split()
FORMATS = ("medium", "long", "full")
FIRST_DATE = datetime.date(1930, 1, 1)
LAST_DATE = datetime.date(2069, 12, 31)

# The digit zero of each CLDR numbering system that a locale above has as its own.
_ZEROS = {
    "latn": "0",
    "arab": "\N{ARABIC-INDIC DIGIT ZERO}",
    "beng": "\N{BENGALI DIGIT ZERO}",
    "deva": "\N{DEVANAGARI DIGIT ZERO}",
}

# What the letters of CLDR's patterns depend on; the era (G) is the same for all dates of the range.
_PART_OF = {
    "y": "year",
    "M": "month",
    "L": "month",
    "d": "day",
    "E": "weekday",
    "c": "weekday",
    "G": "constant",
}

_HASH_BASE = 0x9E3779B97F4A7C15  # any large odd number


class Example(NamedTuple):
    """One date: how a locale writes it in one of the CLDR formats, and its ISO 8601 form."""

    locale: str
    format: str
    text: str
    iso: str


class Days:
    """Consecutive dates, as arrays of their parts: `parts["month"][day]` is 0 for January."""

    def __init__(self, first: datetime.date = FIRST_DATE, last: datetime.date = LAST_DATE):
        dates = np.arange(first, last + datetime.timedelta(days=1), dtype="datetime64[D]")
        months = dates.astype("datetime64[M]")
        self.iso = np.datetime_as_string(dates)
        self.parts = {
            "year": months.astype("datetime64[Y]").astype(int) + 1970 - first.year,
            "month": months.astype(int) % 12,
            "day": (dates - months).astype(int),
            "weekday": (dates.astype(int) + 3) % 7,  # Monday is 0; 1970-01-01 was a Thursday
            "constant": np.zeros(len(dates), int),
        }
        # One date for each value of each part: enough to ask Babel once for all that a locale can write.
        self.representatives = {
            "year": [datetime.date(year, 1, 1) for year in range(first.year, last.year + 1)],
            "month": [datetime.date(2024, month, 1) for month in range(1, 13)],
            "day": [datetime.date(2024, 1, day) for day in range(1, 32)],
            "weekday": [datetime.date(2024, 1, day) for day in range(1, 8)],  # 2024-01-01 was a Monday
            "constant": [first],
        }

    def __len__(self):
        return len(self.iso)


class Writer:
    """One locale in one format: pieces of text, each of which depends on one part of the date only."""

    def __init__(self, locale: str, format: str, days: Days):
        self.locale = locale
        self.format = format
        self.days = days
        parsed = Locale.parse(locale)
        zero = ord(_ZEROS[parsed.default_numbering_system])
        digits = {ord("0") + value: zero + value for value in range(10)}
        # Babel's own form of a pattern: "%(EEEE)s, %(d)s %(MMMM)s", with "%%" for a percent sign.
        pattern = get_date_format(format, parsed).format
        self.pieces = []
        for literal, field in re.findall(r"((?:[^%]|%%)+)|%\((\w+)\)s", pattern):
            part = _PART_OF[field[0]] if field else "constant"
            texts = [
                DateTimeFormat(date, parsed)[field] if field else literal.replace("%%", "%")
                for date in days.representatives[part]
            ]
            self.pieces.append((part, [text.translate(digits) for text in texts]))

    def write(self, day: int) -> str:
        """The text of one day."""
        return "".join(texts[self.days.parts[part][day]] for part, texts in self.pieces)

    def hashes(self) -> np.ndarray:
        """A 64-bit hash of the canonical text of every day: equal texts have equal hashes.

        hash(uv) = hash(u) * base^len(v) + hash(v) modulo 2^64, so that the texts need not be built.
        """
        total = np.zeros(len(self.days), "uint64")
        for part, texts in self._canonical_pieces():
            index = self.days.parts[part]
            power = np.array([pow(_HASH_BASE, len(text), 2**64) for text in texts], "uint64")
            value = np.array([_polynomial_hash(text) for text in texts], "uint64")
            total = total * power[index] + value[index]
        return total

    def _canonical_pieces(self):
        """The pieces, such that joining them gives the canonical text: checked wherever two pieces can meet.

        Digits neither combine with their neighbours nor are spaces, so one day and one year stand for all.
        """
        pieces = [(part, [_canonical_piece(text) for text in texts]) for part, texts in self.pieces]
        parts = self.days.parts
        _, neighbours = np.unique(parts["month"] * 7 + parts["weekday"], return_index=True)
        for day in neighbours:
            joined = "".join(texts[parts[part][day]] for part, texts in pieces)
            if joined != canonical(self.write(day)):
                raise ValueError(f"{self.locale}, {self.format}: joining changes {self.write(day)!r}.")
        return pieces


def canonical(text: str) -> str:
    """What is left of a text for telling dates apart.

    NFKC as in the tokenizer, no invisible format characters (such as the marks of direction in Arabic), each
    run of spaces as one.
    """
    return _canonical_piece(text).strip()


def _canonical_piece(text):
    text = unicodedata.normalize("NFKC", text)
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return re.sub(r"\s+", " ", text)


def _polynomial_hash(text):
    total = 0
    for character in text:
        total = (total * _HASH_BASE + ord(character) + 1) % 2**64
    return total


def ambiguous_days(writers: Sequence[Writer]) -> list[np.ndarray]:
    """For each writer, the days that it writes as some writer, itself included, also writes another day.

    Exact over all days: days that share a hash are found first, and then their texts are compared.

    Returns: For each writer a boolean array over its days.
    """
    hashes = np.stack([writer.hashes() for writer in writers])  # (W, N)
    flat = hashes.reshape(-1)
    order = np.argsort(flat, kind="stable")
    days = order % hashes.shape[1]
    same_hash = flat[order[1:]] == flat[order[:-1]]
    # Groups of equal hashes that hold more than one day.
    group = np.concatenate([[0], np.cumsum(~same_hash)])
    mixed = np.unique(group[1:][same_hash & (days[1:] != days[:-1])])
    suspects = order[np.isin(group, mixed)]
    days_of = {}
    for suspect in suspects:
        writer, day = divmod(int(suspect), hashes.shape[1])
        days_of.setdefault(canonical(writers[writer].write(day)), []).append((writer, day))
    result = np.zeros(hashes.shape, bool)
    for places in days_of.values():
        if len({day for _, day in places}) > 1:
            for place in places:
                result[place] = True
    return list(result)


def make_dates(
    train_size: int = 100_000,
    validation_size: int = 2_000,
    test_size: int = 2_000,
    *,
    seed: int = 0,
    locales: Iterable[str] = LOCALES,
    formats: Iterable[str] = FORMATS,
) -> tuple[list[Example], list[Example], list[Example]]:
    """Training, validation and test examples.

    A tenth of the days of the range is kept for validation and a tenth for test: such a day occurs in no
    other split, whatever the locale and format. In each split every locale has an equal share (give or take
    one), its days are drawn uniformly without replacement, and the format is drawn from those in which the
    text is not ambiguous.

    A text is ambiguous if any of the locales and formats writes another date of the range so. Among the
    default locales that concerns the numeric medium format of es_PA (month/day/year) against those of ar and
    pt_PT (day/month/year), for days up to the 12th. It empties no format of a locale, and every locale keeps
    all days in its other formats.

    Args:
        train_size, validation_size, test_size: Number of examples of each split, of all locales together.
        seed: Of all draws; the same seed gives the same examples.
        locales: Babel's names of locales.
        formats: CLDR formats: "short", "medium", "long", "full".

    Raises:
        ValueError: If a split has fewer days that a locale can write than that locale's share.
    """
    days = Days()
    locales, formats = list(locales), list(formats)
    writers = [Writer(locale, format, days) for locale in locales for format in formats]
    clear = ~np.stack(ambiguous_days(writers)).reshape(len(locales), len(formats), len(days))

    randomness = np.random.default_rng(seed)
    shuffled = randomness.permutation(len(days))
    tenth = len(days) // 10
    validation, test, train = np.split(shuffled, [tenth, 2 * tenth])
    splits = []
    for size, pool in ((train_size, train), (validation_size, validation), (test_size, test)):
        examples = []
        for number, locale in enumerate(locales):
            share = size // len(locales) + (number < size % len(locales))
            possible = pool[clear[number][:, pool].any(axis=0)]
            if share > len(possible):
                raise ValueError(
                    f"A split of {size} examples takes {share} days of {locale}, and has only "
                    f"{len(possible)}; ask for at most {len(possible) * len(locales)} examples."
                )
            chosen = randomness.choice(possible, share, replace=False)
            # The largest of uniform draws, those of ambiguous formats put below all others.
            draws = randomness.random((len(formats), share)) + clear[number][:, chosen]
            for day, form in zip(chosen, draws.argmax(axis=0), strict=True):
                writer = writers[number * len(formats) + form]
                examples.append(Example(locale, writer.format, writer.write(day), str(days.iso[day])))
        splits.append([examples[index] for index in randomness.permutation(len(examples))])
    return tuple(splits)


def main():
    """Print one example for each locale."""
    _, _, examples = make_dates(0, 0, 10 * len(LOCALES))
    first = {example.locale: example for example in reversed(examples)}
    for locale in LOCALES:
        print(f"{locale:6} {first[locale].format:7} {first[locale].iso}  {first[locale].text}")


if __name__ == "__main__":
    main()
