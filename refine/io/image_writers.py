"""The image formats written: each function puts one (slow, fast) array into an open binary stream."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError

CBF_BINARY_START = b"\x0c\x1a\x04\xd5"
Header = Mapping[str, str | float]

_LARGEST_COUNT = 2**31 - 1
# SMV key -> miniCBF name, factor from mm to m, form
_CBF_NAMES = {
    "PIXEL_SIZE": ("Pixel_size", 1e-3, "{0} m x {0} m"),
    "DISTANCE": ("Detector_distance", 1e-3, "{} m"),
    "WAVELENGTH": ("Wavelength", None, "{} A"),
    "PHI": ("Start_angle", None, "{} deg."),
    "OSC_RANGE": ("Angle_increment", None, "{} deg."),
}


def md5(raw: bytes) -> str:
    """The Content-MD5 of a CBF binary section."""
    return base64.b64encode(hashlib.md5(raw, usedforsecurity=False).digest()).decode("ascii")


def _write_npz(stream: BinaryIO, image: NDArray[Any], header: Header) -> None:
    np.savez_compressed(stream, image=image.astype(np.float64))


def _write_npy(stream: BinaryIO, image: NDArray[Any], header: Header) -> None:
    np.save(stream, image.astype(np.float64))


def _write_raw(stream: BinaryIO, image: NDArray[Any], header: Header) -> None:
    stream.write(image.astype("<f4").tobytes())


def _write_smv(stream: BinaryIO, image: NDArray[Any], header: Header) -> None:
    fixed = {"DIM": 2, "BYTE_ORDER": "little_endian", "TYPE": "unsigned_short"}
    entries = {**fixed, "SIZE1": image.shape[1], "SIZE2": image.shape[0], **header}
    lines = "".join(f"{key}={_header_value(key, value)};\n" for key, value in entries.items())
    size = 512
    while len(text := f"{{\nHEADER_BYTES={size};\n{lines}}}\n") > size:
        size += 512
    stream.write(text.ljust(size).encode("ascii") + _rounded(image, 0, 65535).astype("<u2").tobytes())


def _write_cbf(stream: BinaryIO, image: NDArray[Any], header: Header) -> None:
    from fabio.compression import compByteOffset

    raw = compByteOffset(_rounded(image, -_LARGEST_COUNT, _LARGEST_COUNT).astype(np.int32))
    comments = "".join(f"# {line}\r\n" for line in _cbf_comments(header))
    text = (
        f'###CBF: VERSION 1.5\r\n\r\ndata_image\r\n\r\n_array_data.header_convention "GENERIC_MINI"\r\n'
        f"_array_data.header_contents\r\n;\r\n{comments};\r\n\r\n_array_data.data\r\n;\r\n"
        "--CIF-BINARY-FORMAT-SECTION--\r\nContent-Type: application/octet-stream;\r\n"
        '     conversions="x-CBF_BYTE_OFFSET"\r\nContent-Transfer-Encoding: BINARY\r\n'
        f"X-Binary-Size: {len(raw)}\r\nX-Binary-ID: 1\r\n"
        'X-Binary-Element-Type: "signed 32-bit integer"\r\nX-Binary-Element-Byte-Order: LITTLE_ENDIAN\r\n'
        f"Content-MD5: {md5(raw)}\r\nX-Binary-Number-of-Elements: {image.size}\r\n"
        f"X-Binary-Size-Fastest-Dimension: {image.shape[1]}\r\nX-Binary-Size-Second-Dimension: {image.shape[0]}\r\n"
        "X-Binary-Size-Padding: 0\r\n\r\n"
    )
    stream.write(text.encode("ascii") + CBF_BINARY_START + raw)
    stream.write(b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n\r\n")


def _cbf_comments(header: Header) -> list[str]:
    """The header as miniCBF comment lines; what DIALS insists on has a default."""
    lines = {
        "Detector:": "simulated",
        "Exposure_period": "1.0 s",
        "Count_cutoff": f"{_LARGEST_COUNT} counts",
        "Start_angle": "0.0 deg.",
        "Angle_increment": "0.0 deg.",
    }
    for key, value in header.items():
        name, scale, form = _CBF_NAMES.get(key, (key, None, "{}"))
        lines[name] = form.format(_header_value(key, value if scale is None else float(value) * scale))
    return [f"{name} {value}" for name, value in lines.items()]


def _write_hdf5(stream: BinaryIO, image: NDArray[Any], header: Header) -> None:
    import h5py

    with h5py.File(stream, "w") as file:
        data = file.create_dataset("entry/data/data", data=image.astype(np.float32), compression="gzip")
        data.attrs.update(header)
        file["image"] = h5py.SoftLink("/entry/data/data")


WRITERS: dict[str, Callable[[BinaryIO, NDArray[Any], Header], None]] = {
    ".npz": _write_npz,
    ".npy": _write_npy,
    ".bin": _write_raw,
    ".cbf": _write_cbf,
    ".img": _write_smv,
    ".h5": _write_hdf5,
}


def _rounded(image: NDArray[Any], low: int, high: int) -> NDArray[Any]:
    if not np.all(np.isfinite(image)):
        raise InputError("holds NaN or infinite pixels, which .cbf and .img cannot store; write .npz")
    return np.asarray(np.clip(np.rint(image), low, high))


def _header_value(key: str, value: str | float) -> str:
    text = value if isinstance(value, str) else repr(value.item() if isinstance(value, np.generic) else value)
    if not text.isascii() or set(";{}\r\n") & set(key + text):
        raise InputError(
            f"header {key}: {text!r} cannot be stored; accepted is plain ASCII without ; {{ }} or line ends"
        )
    return text
