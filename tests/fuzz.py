"""Damaged inputs of every kind for the command line: a small experiment on disk, and ways to spoil one of its files."""

import bz2
import contextlib
import gzip
import io
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import yaml
from expt import REAL_SPACE, document, tiles, written
from refl import table
from refl import written as table_written

from refine.app.main import main
from refine.io.images import write_image

SIZE = (24, 30)
IMAGE = np.random.default_rng(3).poisson(4.0, SIZE).astype(float)
CONFIG: dict[str, Any] = {
    "title": "fuzz",
    "images": [{"file": "image.npz", "mask": "mask.npy"}],
    "beam": {"wavelength": 1.0, "fluence": 1e28, "polarization": 0.0, "dispersion": {"percent": 0.5, "steps": 2}},
    "detector": {"distance": 60.0, "pixel_size": 0.6, "size": list(SIZE), "beam_center_px": [14.5, 11.0],
                 "rotations": {"x": 0, "y": 0, "z": 0, "twotheta": 0, "pivot": "beam"}, "oversample": 1,
                 "thickness": {"um": 300, "attenuation_um": 500, "steps": 2}, "saturation": 60000.0},
    "crystal": {"cell": [40.0, 50.0, 60.0, 80.0, 95.0, 105.0], "space_group": "P1", "cells": [6, 6, 6],
                "orientation": {"misset_deg": [12.0, -25.0, 33.0]}, "shape": "gauss",
                "mosaic": {"model": "domains", "spread_deg": 0.3, "domains": 3},
                "scan": {"phi0": 0, "osc": 1, "steps": 2}},
    "structure_factors": {"file": "f.hkl", "default": 100.0},
    "background": {"model": "constant", "value": 3.0},
    "refinement": {"free": ["cell", "orientation", "scale", "background"], "loss": "poisson", "strategy": "single",
                   "optimizer": {"name": "lm", "max_iterations": 1, "options": {"initial_damping": 0.001}},
                   "resolution": {"min": 1.5, "max": 40}},
    "output": {"directory": "out", "report": False},
    "seed": 0,
}  # fmt: skip
STILL: dict[str, Any] = {
    "images": [{"file": "still.npz", "spots": "spots.refl", "orientation": {"expt": "still.expt", "index": 0},
                "beam": {"wavelength": None}}],
    "beam": {"fluence": 1e26},
    "detector": {"file": "still.expt"},
    "crystal": {"orientation": {"expt": "still.expt"}, "cells": [20, 20, 15], "shape": "gauss",
                "mosaic": {"model": "gaussian", "spread_deg": 0.6}},
    "structure_factors": {"unknown": True},
    "background": {"model": "plane"},
    "refinement": {"free": ["orientation", "beam_center"], "loss": "robust", "holdout": 0.2, "strategy": "auto",
                   "pixels": {"shoebox": {"size": 9, "min_signal": 3}}, "optimizer": {"name": "lm"},
                   "resolution": {"min": 1.5, "max": 40}},
    "output": {"directory": "out", "report": False},
}  # fmt: skip
OF_STILLS = ("still.yaml", "still.npz", "still.expt", "spots.refl", "still.mtz")  # read by still.yaml
KNOWN = ["structure_factors={file: still.mtz}", "refinement.free=[orientation, amplitudes, scale]",
         "refinement.restraints.amplitudes={relative_sigma: 0.3}"]  # fmt: skip
# what a run is told of each damaged file, by its name
SETTINGS = {
    "config.yaml": [],
    "image.npz": [],
    "mask.npy": [],
    "f.hkl": [],
    "f.hkl.gz": ["structure_factors.file=f.hkl.gz"],
    "f.mtz": ["structure_factors.file=f.mtz"],
    "f.cif": ["structure_factors.file=f.cif"],
    "image.cbf": ["images.0.file=image.cbf"],
    "image.cbf.bz2": ["images.0.file=image.cbf.bz2"],
    "image.img": ["images.0.file=image.img"],
    "image.h5": ["images.0.file=image.h5"],
    "image.tif": ["images.0.file=image.tif"],
    "A.mat": ["crystal.orientation={matrix: A.mat}", "crystal.cell=null"],
    **{name: [] for name in OF_STILLS},
    "still.mtz": KNOWN,
    "lines.txt": ["beam={wavelength: 1.0, fluence: 1e28, spectrum: lines.txt}"],
    "indexed.expt": [
        "detector={file: indexed.expt}",
        "beam={fluence: 1e28}",
        "crystal={orientation: {expt: indexed.expt}, cells: [6, 6, 6]}",
        "images=[{file: stack.npz}]",
    ],
}
MATRIX = "0.02 0 0\n0 0.025 0\n0 0 0.02\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n50 40 50 90 90 90\n0 0 0\n"
JUNK: list[Any] = [
    None, True, "", " ", "nan", -1, 0, 1e308, -1e308, 1e-308, 10**30, 2**63, [], {}, [[]], {"a": {"b": 1}},
    "\U0001f642", "\u202e", "x" * 5000, "../../../../etc/passwd", "/dev/null", "/dev/zero", ".", [0] * 500,
    float("nan"), float("inf"), [1e9, 1e9], [10**7, 10**7], [1, 2, 3], "P 61 2 2", "auto", "none", "cuda", 99999, 0.5,
]  # fmt: skip
OTHERS = (
    b"", b"\0" * 4096, b"\x89HDF\r\n\x1a\n", b"###CBF: VERSION 1.5\r\n", b"{\nHEADER_BYTES=999999999;\n",
    b"MTZ \xff\xff\xff\x7f", b"II*\0\xff\xff\xff\xff", b"\x93NUMPY\x01\x00\xff\xff", gzip.compress(b"0" * 10_000_000),
    "\ufeff\u4f60\u597d: [1".encode(), b"{[" * 50_000,
)  # fmt: skip


def lay_out(folder: Path) -> None:
    """The experiment, in every format."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    for suffix in (".npz", ".cbf", ".img", ".h5"):
        write_image(folder / f"image{suffix}", IMAGE)
    np.save(folder / "mask.npy", np.ones(SIZE, np.uint8))
    (folder / "image.cbf.bz2").write_bytes(bz2.compress((folder / "image.cbf").read_bytes()))
    (folder / "image.tif").write_bytes(tiff(IMAGE.astype("<u2")))
    _structure_factors(folder)
    (folder / "A.mat").write_text(MATRIX)
    (folder / "lines.txt").write_text("0.99 1\n1.01 2\n")
    written(folder / "indexed.expt", document(tiles(1, 2)))
    stack = (2, *document(tiles(1, 2))["detector"][0]["panels"][0]["image_size"][::-1])
    _still(folder)
    np.savez(folder / "stack.npz", image=np.random.default_rng(4).poisson(4.0, stack))


def words(folder: Path, name: str) -> list[str]:
    """The command line of a run that reads a file."""
    config = folder / ("still.yaml" if name in OF_STILLS else "config.yaml")
    return ["run", str(config), "-o", str(folder / "out"), *SETTINGS[name]]


def _still(folder: Path) -> None:
    """A simulated still of a small cell, the DIALS files that describe it, and its amplitudes."""
    rows = 0.4 * REAL_SPACE
    axes = {f"real_space_{name}": list(row) for name, row in zip("abc", rows, strict=True)}
    written(folder / "still.expt", document(crystal=[{**document()["crystal"][0], **axes}]))
    shutil.copy(folder / "f.mtz", folder / "still.mtz")
    told = {key: value for key, value in STILL.items() if key not in ("refinement", "images", "structure_factors")}
    told |= {"structure_factors": {"default": 100.0}, "background": {"model": "constant", "value": 3.0}}
    (folder / "told.yaml").write_text(yaml.safe_dump(told))
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["simulate", str(folder / "told.yaml"), "-o", str(folder / "still.npz"), "--noise"]) == 0
    (folder / "told.yaml").unlink()
    table_written(folder / "spots.refl", table())
    (folder / "still.yaml").write_text(yaml.safe_dump(STILL, sort_keys=False))


def tiff(image: np.ndarray) -> bytes:
    """An uncompressed little-endian TIFF of one strip."""
    height, width = image.shape
    entries = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, height),
               (279, image.nbytes)]  # fmt: skip
    tags = b"".join(np.array([tag, 4, 1, 0, value, 0], "<u2")[[0, 1, 2, 3, 4, 5]].tobytes() for tag, value in entries)
    return b"II*\0\x08\0\0\0" + np.uint16(len(entries)).tobytes() + tags + b"\0" * 4 + image.tobytes()


def _structure_factors(folder: Path) -> None:
    hkl = [(h, k, m) for h in range(-9, 10) for k in range(-9, 10) for m in range(-4, 5)]
    text = "".join(f"{h} {k} {m} {50 + (7 * h + 3 * k + m) % 90}\n" for h, k, m in hkl)
    (folder / "f.hkl").write_text(text)
    (folder / "f.hkl.gz").write_bytes(gzip.compress(text.encode()))
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 1")
    mtz.set_cell_for_all(gemmi.UnitCell(40, 50, 60, 80, 95, 105))
    mtz.add_dataset("d")
    mtz.add_column("F", "F")
    half = [(h, k, m) for h, k, m in hkl if (m, k, h) > (0, 0, 0)]
    mtz.set_data(np.array([[h, k, m, 60 + h] for h, k, m in half], np.float32))
    mtz.write_to_file(str(folder / "f.mtz"))
    loop = "".join(f"{h} {k} {m} {60 + h}.5\n" for h, k, m in half)
    head = "data_r1sf\n_cell.length_a 40\n_cell.length_b 50\n_cell.length_c 60\n_cell.angle_alpha 80\n"
    head += "_cell.angle_beta 95\n_cell.angle_gamma 105\n_symmetry.space_group_name_H-M 'P 1'\nloop_\n"
    names = "_refln.index_h\n_refln.index_k\n_refln.index_l\n_refln.F_meas_au\n"
    (folder / "f.cif").write_text(head + names + loop)


def spoil(name: str, content: bytes, draw: random.Random) -> bytes:
    """Some damage to a file; a configuration's keys and values too."""
    if name.endswith(".yaml") and draw.random() < 0.7:
        return _other_tree(content, draw)
    return draw.choice(DAMAGES)(content, draw)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3, 20, 200))):
        bit = draw.randrange(8 * len(changed))
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _flipped_head(content: bytes, draw: random.Random) -> bytes:
    return _flipped(content[:600], draw) + content[600:]


def _overwritten(content: bytes, draw: random.Random) -> bytes:
    start, length = draw.randrange(len(content)), draw.choice((1, 4, 8, 64, 1000))
    filler = draw.choice((b"\0", b"\xff", b"\x7f", b"9", b"-", b"\n", b"\xf0\x9f\x99\x82"))
    return content[:start] + (filler * length)[:length] + content[start + length :]


def _doubled(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content))
    return content[:start] + content[: draw.randrange(len(content))] + content[start:]


def _other_numbers(content: bytes, draw: random.Random) -> bytes:
    """Numbers in text, headers included, that are huge, negative, not numbers."""
    spots = list(re.finditer(rb"\d+(\.\d+)?", content[:20000]))
    if not spots:
        return _flipped(content, draw)
    for spot in draw.sample(spots, min(len(spots), draw.choice((1, 1, 3)))):
        value = draw.choice((b"-1", b"0", b"99999999999", b"1e308", b"nan", b"inf", b"4294967295", b"2147483648", b"x"))
        content = content[: spot.start()] + value + content[spot.end() :]
    return content


def _something_else(content: bytes, draw: random.Random) -> bytes:
    """Another format's beginning, before the content or instead of it."""
    return draw.choice((*OTHERS, *(magic + content for magic in (b"PK\x03\x04", b"\x1f\x8b", b"BZh9"))))


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut, _flipped, _flipped_head, _overwritten, _doubled, _other_numbers, _other_numbers, _something_else,
)  # fmt: skip


def _other_tree(content: bytes, draw: random.Random) -> bytes:
    """The configuration with other values, without a key, with a foreign key, or with tags that build objects."""
    tree = yaml.safe_load(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        holder, key = draw.choice(list(_places(tree)))
        kind = draw.randrange(4)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw.choice(("x", "\U0001f642", "celll", "", "free"))] = draw.choice(JUNK)
        else:
            holder[key] = draw.choice(JUNK)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    if draw.random() < 0.1:
        text += "seed: !!python/object/apply:os.system ['touch built_by_yaml']\n"
    return text.encode("utf-8", "surrogatepass")


def _places(tree: Any) -> Any:
    """Every (holder, key) of a tree."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)
