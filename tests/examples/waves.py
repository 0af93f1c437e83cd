"""Waves of a day and noise, as a file of the form of ETTh1.csv."""

import csv
import datetime
import gzip
from pathlib import Path

import numpy as np

HOURS, NAMES = 14_500, ("HUFL", "MUFL", "OT")  # a few more than the 20 months that are read


def write_waves(folder: Path) -> np.ndarray:
    """Write ETTh1.csv.gz of three channels, and return their values (hours, 3)."""
    random, hours = np.random.default_rng(0), np.arange(HOURS)
    values = np.stack([9.0 + k + k * np.sin(hours * 2 * np.pi / 24 + k) for k in range(1, 4)], axis=1)
    values = (values + random.normal(size=values.shape)).round(6)
    begin = datetime.datetime(2016, 7, 1)
    with gzip.open(folder / "ETTh1.csv.gz", "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("date", *NAMES))
        writer.writerows((begin + datetime.timedelta(hours=i), *row) for i, row in enumerate(values.tolist()))
    return values
