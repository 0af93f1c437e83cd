"""The dates of the quickstart are Babel's, tell one date each, and never leak from one split to another."""

import collections
import datetime
import importlib.util
import pathlib
import random
import unicodedata

import pytest

babel_dates = pytest.importorskip("babel.dates")

PATH = pathlib.Path(__file__).resolve().parents[2] / "examples" / "dates.py"
specification = importlib.util.spec_from_file_location("dates", PATH)
dates = importlib.util.module_from_spec(specification)
specification.loader.exec_module(dates)


def in_ascii_digits(text):
    return "".join(str(unicodedata.digit(letter)) if letter.isdecimal() else letter for letter in text)


def ambiguous_texts(writers, days):
    """What `ambiguous_days` finds, by writing every day out."""
    days_of = collections.defaultdict(set)
    for writer in writers:
        for day in range(len(days)):
            days_of[dates.canonical(writer.write(day))].add(day)
    return {text for text, days in days_of.items() if len(days) > 1}


@pytest.fixture(scope="module")
def splits():
    return dates.make_dates(2801, 301, 307, seed=5)


@pytest.mark.parametrize("locale", [*dates.LOCALES, "en_GB", "te"])
def test_texts_are_those_of_babel_in_the_digits_of_the_locale(locale):
    days = dates.Days()
    randomness = random.Random(11)
    for format in (*dates.FORMATS, "short"):
        writer = dates.Writer(locale, format, days)
        for day in randomness.sample(range(len(days)), 53):
            date = dates.FIRST_DATE + datetime.timedelta(days=day)
            assert days.iso[day] == date.isoformat()
            assert in_ascii_digits(writer.write(day)) == babel_dates.format_date(date, format, locale)


def test_arabic_bengali_and_marathi_have_their_own_digits():
    days = dates.Days()
    day = (datetime.date(2024, 1, 12) - dates.FIRST_DATE).days
    locales = ("ar_EG", "ar", "bn", "mr")
    written = {locale: dates.Writer(locale, "long", days).write(day) for locale in locales}
    assert written["ar_EG"] == "١٢ يناير ٢٠٢٤"
    assert written["ar"] == "12 يناير 2024"
    assert "১২" in written["bn"] and "২০২৪" in written["bn"]
    assert "१२" in written["mr"] and "२०२४" in written["mr"]


def test_ambiguous_days_are_found_exactly():
    days = dates.Days(datetime.date(1999, 11, 3), datetime.date(2001, 2, 27))
    locales = ("en", "en_GB", "es_PA", "pt_PT", "ar", "ja", "zh", "vi")
    formats = (*dates.FORMATS, "short")
    writers = [dates.Writer(locale, format, days) for locale in locales for format in formats]
    expected = ambiguous_texts(writers, days)
    assert expected
    for writer, found in zip(writers, dates.ambiguous_days(writers), strict=True):
        for day in range(len(days)):
            assert found[day] == (dates.canonical(writer.write(day)) in expected)


def test_day_and_month_that_can_be_swapped_and_years_of_two_digits_are_ambiguous():
    days = dates.Days()

    def is_ambiguous(year, month, day, locale_and_format, *others):
        writers = [dates.Writer(locale, format, days) for locale, format in (locale_and_format, *others)]
        number = (datetime.date(year, month, day) - dates.FIRST_DATE).days
        return bool(dates.ambiguous_days(writers)[0][number])

    panama, portugal = ("es_PA", "medium"), ("pt_PT", "medium")
    assert not is_ambiguous(2024, 1, 12, panama)
    assert is_ambiguous(2024, 1, 12, panama, portugal)  # 01/12/2024
    assert is_ambiguous(2024, 1, 12, panama, ("ar", "medium"))  # the same with invisible marks
    assert not is_ambiguous(2024, 1, 12, panama, ("ar_EG", "medium"))  # other digits
    assert not is_ambiguous(2024, 1, 13, panama, portugal)
    assert not is_ambiguous(2024, 12, 12, panama, portugal)
    assert is_ambiguous(1930, 5, 17, ("en", "short"))  # 5/17/30 is in 2030, too
    assert not is_ambiguous(2029, 5, 17, ("en", "short"))


def test_no_text_has_two_dates(splits):
    examples = [example for split in splits for example in split]
    iso_of = {}
    for example in examples:
        date = datetime.date.fromisoformat(example.iso)
        assert dates.FIRST_DATE <= date <= dates.LAST_DATE
        assert iso_of.setdefault(dates.canonical(example.text), example.iso) == example.iso
        assert in_ascii_digits(example.text) == babel_dates.format_date(date, example.format, example.locale)


def test_a_day_is_in_one_split_only(splits):
    train, validation, test = ({example.iso for example in split} for split in splits)
    assert not train & validation and not train & test and not validation & test


def test_locales_have_equal_shares_of_many_scripts(splits):
    assert [len(split) for split in splits] == [2801, 301, 307]
    for split in splits:
        shares = collections.Counter(example.locale for example in split)
        assert set(shares) == set(dates.LOCALES)
        assert max(shares.values()) - min(shares.values()) <= 1
    letters = {letter for example in splits[0] for letter in example.text if letter.isalpha()}
    scripts = {unicodedata.name(letter).split()[0] for letter in letters}
    assert len(dates.LOCALES) >= 24 and len(scripts) >= 14
    formats = collections.Counter((example.locale, example.format) for example in splits[0])
    assert set(formats) == {(locale, format) for locale in dates.LOCALES for format in dates.FORMATS}


def test_days_are_uniform(splits):
    years = collections.Counter(example.iso[:3] for example in splits[0])  # 14 decades
    expected = len(splits[0]) / 14
    assert len(years) == 14
    chi_squared = sum((count - expected) ** 2 / expected for count in years.values())
    assert chi_squared < 34.5  # 99.9% quantile at 13 degrees of freedom


def test_a_seed_gives_the_same_examples(splits):
    assert dates.make_dates(2801, 301, 307, seed=5) == splits
    assert dates.make_dates(2801, 301, 307, seed=6) != splits


def test_more_examples_than_days_are_refused():
    with pytest.raises(ValueError, match="ask for at most"):
        dates.make_dates(10, 10, 6000, locales=["ko"], formats=["long"])


def test_the_script_prints_every_locale(capsys):
    dates.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == dates.LOCALES
