"""Spectra and source lists."""

from pathlib import Path

import numpy as np
import pytest

from refine.errors import InputError
from refine.io.beams import read_source_list, read_spectrum


def written(directory: Path, text: str) -> Path:
    path = directory / "beam.txt"
    path.write_text(text)
    return path


def test_spectrum(tmp_path: Path) -> None:
    wavelengths, weights = read_spectrum(written(tmp_path, "# Å weight\n1.00 2\n\n1.01, 3  # the peak\n"))
    assert wavelengths.tolist() == [1.0, 1.01]
    assert weights.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1.0 2\n1.0", "line 2: '1.0'"),
        ("1.0 2 3", "line 1"),
        ("0 1", "line 1: 0 1"),
        ("1.0 -1", "accepted: a wavelength in Å above 0"),
        ("1.0 nan", "line 1"),
        ("a b", "line 1: 'a b'"),
        ("", "0 lines of numbers"),
        ("1.0 0", "all weights are 0"),
    ],
)
def test_spectrum_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"beam\.txt") as caught:
        read_spectrum(written(tmp_path, text))
    assert said in str(caught.value)


def test_source_list_and_its_defaults(tmp_path: Path) -> None:
    text = "-10 0 0\n-10 0 0.1 3\n-10 0.1 0; 2; 1.1e-10\n"
    directions, weights, wavelengths = read_source_list(written(tmp_path, text), 0.9)
    assert np.allclose(np.linalg.norm(directions, axis=1), 1)
    assert directions[0].tolist() == [-1, 0, 0]
    assert weights.tolist() == [1, 3, 2]
    assert np.allclose(wavelengths, [0.9, 0.9, 1.1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 2", "line 1"),
        ("0 0 0", "not all 0"),
        ("1 0 0 -1", "weight"),
        ("1 0 0 1 0", "in m"),
        ("1 0 0 1 1e-10 5", "line 1"),
    ],
)
def test_source_list_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"beam\.txt") as caught:
        read_source_list(written(tmp_path, text), 1.0)
    assert said in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt"):
        read_spectrum(tmp_path / "none.txt")
