"""Recordings as those of the Free Spoken Digit Dataset: a tone for each digit."""

import io
import tarfile
import wave
from pathlib import Path

import numpy as np

SPEAKERS = ("ann", "bob")


def tone(digit: int, index: int) -> np.ndarray:
    """Samples of 16 bits, 8 kHz; each digit has a pitch."""
    t = np.arange(900 + 70 * digit + 11 * index) / 8000
    return (8000 * np.sin(2 * np.pi * (300 + 250 * digit) * t) + index).astype("<i2")


def write_recordings(folder: Path, indices) -> Path:
    """A file recordings.tar.gz."""
    with tarfile.open(folder / "recordings.tar.gz", "w:gz") as archive:
        for digit in range(10):
            for speaker in SPEAKERS:
                for index in indices:
                    content = io.BytesIO()
                    with wave.open(content, "wb") as file:
                        file.setnchannels(1)
                        file.setsampwidth(2)
                        file.setframerate(8000)
                        file.writeframes(tone(digit, index).tobytes())
                    entry = tarfile.TarInfo(f"recordings/{digit}_{speaker}_{index}.wav")
                    entry.size = len(content.getvalue())
                    archive.addfile(entry, io.BytesIO(content.getvalue()))
    return folder
