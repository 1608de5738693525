"""Which kind of file something is, by its content."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from refine.errors import InputError
from refine.io.geometries import is_mosflm_matrix
from refine.io.hdf5_images import HDF5_MAGIC
from refine.io.reading import read_start
from refine.io.xds import is_old_xparm, is_xds_input, is_xparm

Kind = Literal["experiments", "spots", "xparm", "xds input", "matrix", "structure factors", "image"]
ACCEPTED = (
    "a DIALS .expt and .refl, XPARM.XDS, XDS.INP, a MOSFLM .mat, structure factors (.mtz, .cif, h k l F text) and an"
    " image (CBF, SMV, TIFF, HDF5, npz, npy)"
)
_LOOKED_AT = 1 << 16  # bytes
_TABLE = b"dials::af::reflection_table"
_IMAGES = (b"###CBF", HDF5_MAGIC, b"PK\x03\x04", b"\x93NUMPY", b"II*\0", b"MM\0*")
_TEXTS: dict[Kind, Callable[[bytes], bool]] = {
    "xparm": lambda start: is_xparm(start) or is_old_xparm(start),
    "xds input": is_xds_input,
    "matrix": is_mosflm_matrix,
    "structure factors": lambda start: _is_list(start) or b"_refln" in start,
}


def kind_of(path: Path) -> Kind:
    """What a file is; raises InputError where it cannot be opened, or is none of what is accepted."""
    start = read_start(path, _LOOKED_AT)
    if _TABLE in start[: len(_TABLE) + 8]:
        return "spots"
    if start.startswith(b"MTZ "):
        return "structure factors"
    if start.startswith(_IMAGES) or (start.startswith(b"{") and b"HEADER_BYTES" in start[:64]):
        return "image"
    if start.lstrip().startswith(b"{"):
        return "experiments"
    if b"\0" not in start:
        for kind, fits in _TEXTS.items():
            if fits(start):
                return kind
    if path.suffix == ".bin":
        return "image"
    raise InputError(f"{path}: is of no known kind ({len(start)} bytes, begins {start[:8]!r}); accepted: {ACCEPTED}")


def _is_list(start: bytes) -> bool:
    """Whether the first line that is no comment is h k l and numbers."""
    lines = [
        line for line in start.decode("latin-1").splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    return bool(lines) and re.match(r"\s*([-+]?\d+\s+){3}[-+.\d]", lines[0]) is not None
