"""Detector images and masks: arrays are (slow, fast), or stacks (panels, slow, fast) where a shape of three is asked
for; values as stored in the file (ADU or photons).

The content decides the format, the suffix only where the content has no signature (raw float32 `.bin`).
"""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.atomic import write_bytes
from refine.io.hdf5_images import HDF5_MAGIC, frame_number, read_frame
from refine.io.image_headers import smv_header
from refine.io.image_writers import CBF_BINARY_START, WRITERS, md5
from refine.io.reading import guarded, read_content, read_head, require_bounded

Shape = tuple[int, ...]

_ACCEPTED = (
    ".npz, .npy, .bin (raw float32), .cbf, .img (SMV), .tif or .h5/.nxs; .cbf, .img and .tif also as .gz or .bz2"
)
_CBF_SECTION = re.compile(rb"--CIF-BINARY-FORMAT-SECTION--\r?\n")
_CBF_TYPES = {f"{sign} {bits}-bit integer": f"{sign[0].replace('s', 'i')}{bits // 8}"
              for sign in ("signed", "unsigned") for bits in (8, 16, 32, 64)}  # fmt: skip
_SMV_TYPES = {
    "unsigned char": "u1", "signed char": "i1", "unsigned short": "u2", "short": "i2", "signed short": "i2",
    "unsigned long": "u4", "long": "i4", "signed long": "i4", "float": "f4", "float IEEE": "f4", "double": "f8",
}  # fmt: skip
_STACKED = (".npz", ".npy", ".bin", ".h5")


@dataclass(frozen=True)
class RawImage:
    """One image as read.

    values: float64, as stored; float images may hold NaN.
    valid:  bool of the same shape, False where the detector itself marks a pixel as gap, bad or saturated.
    note:   one line on what was recognised.
    """

    values: NDArray[np.float64]
    valid: NDArray[np.bool_]
    note: str


class _Pixels(NamedTuple):
    array: NDArray[Any]
    format: str
    masked: NDArray[np.bool_] | None = None


def read_image(path: str | Path, shape: Shape | None = None, frame: int | None = None) -> RawImage:
    """Read one detector image.

    `shape` is (slow, fast) in pixels, (panels, slow, fast) for a stack of panels, or None for an image whose file says
    its size; raw `.bin` files need it. A stack is npz (key 'image', or the only array of three dimensions), npy, raw or
    HDF5. `frame` counts from 1 and chooses one of a file of many (HDF5, npz, npy); None takes the only one there is.
    In integer images -1 and -2 (unless lower values show that the counts are signed), the type's lowest value,
    and the all-ones value of unsigned types of 16 bits and more are not valid; nor are the pixels of an HDF5 file's
    mask, and those above the saturation value of HDF5 or the Count_cutoff of miniCBF. Raises InputError.
    """
    pixels = _load(Path(path), shape, ("image",), frame)
    valid = _validity(pixels.array)
    if pixels.masked is not None:
        valid &= ~pixels.masked.reshape(valid.shape)
    note = f"{pixels.format}, {_sized(valid.shape)} {pixels.array.dtype}, {np.sum(~valid)} pixels marked bad"
    return RawImage(pixels.array.astype(np.float64), valid, note)


def read_mask(path: str | Path, shape: Shape | None = None) -> NDArray[np.bool_]:
    """Read a mask in any image format (npz key 'mask' or 'image'): bool, nonzero = use. NaN = do not use.

    `shape` as in `read_image`. Raises InputError.
    """
    array = _load(Path(path), shape, ("mask", "image")).array
    return np.asarray(np.nan_to_num(array) != 0)


def write_image(path: str | Path, image: NDArray[Any], header: Mapping[str, str | float] | None = None) -> None:
    """Write `image`, (slow, fast) or (panels, slow, fast) photons, atomically; the suffix chooses the format.

    .npz (key 'image') and .npy hold float64, .bin raw little-endian float32, .h5 float32 at /entry/data/data (also
    'image'). .cbf cannot store fractions in its byte-offset compression: values are rounded to int32. .img (SMV) holds
    unsigned 16 bit: rounded and clipped to 0..65535. `header` (PIXEL_SIZE mm, DISTANCE mm, WAVELENGTH Å, PHI and
    OSC_RANGE degrees, ...) goes into .cbf, .img and .h5; .cbf translates these five to miniCBF's names and units, and
    DIALS imports it where `header` has all of the first three and Beam_xy ("(fast, slow) pixels"), and the file name
    has a number. Raises InputError.
    """
    writer = WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise InputError(f"{path}: unknown image suffix '{Path(path).suffix}'; accepted are {', '.join(WRITERS)}")
    suffix, dims = Path(path).suffix.lower(), 3 if np.ndim(image) == 3 else 2
    if dims == 3 and suffix not in _STACKED:
        raise InputError(f"{path}: {suffix} cannot hold {len(image)} panels; accepted are {', '.join(_STACKED)}")
    array = _as_image(path, np.asarray(image), dims)
    buffer = io.BytesIO()
    try:
        writer(buffer, array, header or {})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    write_bytes(path, buffer.getvalue())


def _load(path: Path, shape: Shape | None, keys: tuple[str, ...], frame: int | None = None) -> _Pixels:
    dims = 2 if shape is None else len(shape)
    if read_head(path).startswith(HDF5_MAGIC):
        found = read_frame(path, dims, frame)
        pixels = _Pixels(found.array, f"HDF5 dataset {found.name}", found.masked)
    else:
        pixels = _chosen(path, _read_any(path, shape, keys), dims, frame)
    array = _as_image(path, pixels.array, dims)
    if shape is not None and array.shape != tuple(shape):
        place = "detector.size" if len(shape) == 2 else "the detector"
        raise InputError(
            f"image {path} is {_sized(array.shape)}, {place} says {_by(shape)}; correct {place} or give another file"
        )
    return pixels._replace(array=array)


def _by(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _sized(shape: Shape) -> str:
    return f"{_by(shape)} ({'slow x fast' if len(shape) == 2 else 'panels x slow x fast'})"


def _chosen(path: Path, pixels: _Pixels, dims: int, frame: int | None) -> _Pixels:
    """The frame that was asked for, of a stack of frames."""
    if not isinstance(pixels.array, np.ndarray):
        raise InputError(f"{path}: holds no image")
    if frame is None:
        return pixels
    stack = pixels.array.reshape(-1, *pixels.array.shape[-dims:]) if pixels.array.ndim >= dims else pixels.array[None]
    return pixels._replace(array=stack[frame_number(path, len(stack), frame)])


def _read_any(path: Path, shape: Shape | None, keys: tuple[str, ...]) -> _Pixels:
    dims = 2 if shape is None else len(shape)
    content = path.read_bytes() if path.suffix.lower() == ".bin" else read_content(path)
    if path.suffix.lower() == ".bin":
        return _read_raw(path, content, shape)
    if content.startswith(b"PK\x03\x04"):
        return _read_npz(path, content, keys, dims)
    if content.startswith(b"{") and b"HEADER_BYTES" in content[:64]:
        return _read_smv(path, content)
    for magic, reader in _READERS.items():
        if content.startswith(magic):
            return reader(path, content)
    raise InputError(
        f"{path}: not a known image ({len(content)} bytes, begins {content[:8]!r}); accepted are {_ACCEPTED}"
    )


def _as_image(path: str | Path, array: NDArray[Any], dims: int) -> NDArray[Any]:
    if array.dtype.kind not in "buif":
        raise InputError(f"{path}: holds {array.dtype} values; accepted are integers or real numbers")
    if array.ndim > dims and array.size and int(np.prod(array.shape[:-dims])) == 1:
        array = array.reshape(array.shape[-dims:])
    if array.ndim not in (2, dims) or array.size == 0:
        raise InputError(
            f"{path}: holds an array of shape {array.shape}; accepted is one image of (slow, fast) pixels: "
            "of a stack, give images.0.frame"
        )
    return array


def _validity(array: NDArray[Any]) -> NDArray[np.bool_]:
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        return np.asarray(array != np.iinfo(array.dtype).max)
    if array.dtype.kind != "i":
        return np.ones(array.shape, dtype=bool)
    valid = array != np.iinfo(array.dtype).min
    # Detectors that count noise in signed ADU store -1 and -2 as ordinary values, beside lower ones.
    signed = bool(np.any(valid & (array < -2)))
    return np.asarray(valid if signed else valid & (array >= 0))


def _read_raw(path: Path, content: bytes, shape: Shape | None) -> _Pixels:
    if shape is None:
        raise InputError(f"{path}: a raw float32 file has no header; give its size as detector.size: [slow, fast]")
    count = int(np.prod(shape))
    if len(content) != 4 * count:
        raise InputError(
            f"{path}: holds {len(content)} bytes = {len(content) / 4:g} float32 values, detector.size says "
            f"{_by(shape)} = {count}; correct detector.size or give another file"
        )
    return _Pixels(np.frombuffer(content, "<f4").reshape(shape), "raw float32")


def _read_npz(path: Path, content: bytes, keys: tuple[str, ...], dims: int) -> _Pixels:
    with guarded(path, "an npz archive"), np.load(io.BytesIO(content), allow_pickle=False) as archive:
        key = next((key for key in keys if key in archive), None)
        if key is None and dims == 3:
            require_bounded(sum(member.file_size for member in archive.zip.infolist()))
            stacks = [name for name in archive if archive[name].ndim == dims]
            key = stacks[0] if len(stacks) == 1 else None
        if key is None:
            found = ", ".join(map(repr, archive.keys())) or "none"
            raise InputError(
                f"{path}: has no key '{keys[0]}' (found: {found}); save it as numpy.savez(file, {keys[0]}=...)"
            )
        require_bounded(archive.zip.getinfo(f"{key}.npy").file_size)
        return _Pixels(archive[key], f"npz key '{key}'")


def _read_npy(path: Path, content: bytes) -> _Pixels:
    with guarded(path, "a npy array"):
        return _Pixels(np.load(io.BytesIO(content), allow_pickle=False), "npy")


def _read_smv(path: Path, content: bytes) -> _Pixels:
    with guarded(path, "an SMV image"):
        header = smv_header(content)
        name = header.get("Data_type", header.get("TYPE", "unsigned_short")).replace("_", " ").removesuffix(" int")
        if name not in _SMV_TYPES:
            raise InputError(f"{path}: SMV pixels of type '{name}'; accepted are {', '.join(_SMV_TYPES)}")
        order = ">" if "big" in header.get("BYTE_ORDER", "little_endian") else "<"
        size = (int(header["SIZE2"]), int(header["SIZE1"]))
        count = _pixel_count(size)
        start = int(header["HEADER_BYTES"])
        return _Pixels(np.frombuffer(content, order + _SMV_TYPES[name], count, start).reshape(size), "SMV")


def _read_cbf(path: Path, content: bytes) -> _Pixels:
    with guarded(path, "a CBF image"):
        sections = len(_CBF_SECTION.findall(content))
        if sections > 1:
            raise InputError(
                f"{path}: holds {sections} images (full imgCBF); accepted is a CBF of one: save it as a stack (panels, "
                "slow, fast), .npz"
            )
        start = content.index(CBF_BINARY_START)
        header = content[:start].decode("latin-1")
        names = ("X-Binary-Size-Second-Dimension", "X-Binary-Size-Fastest-Dimension")
        size = (int(_field(header, names[0])), int(_field(header, names[1])))
        raw = content[start + 4 : start + 4 + int(_field(header, "X-Binary-Size"))]
        _check_cbf(path, header, raw)
        dtype = _CBF_TYPES[_field(header, "X-Binary-Element-Type")]
        array = _byte_offset(raw, _pixel_count(size)).astype(dtype).reshape(size)
        cutoff = re.search(r"# *Count_cutoff\s+(\d{1,18})\b", header)
        return _Pixels(array, "CBF", None if cutoff is None else array > int(cutoff[1]))


def _check_cbf(path: Path, header: str, raw: bytes) -> None:
    compression = _field(header, "conversions")
    if compression != "x-CBF_BYTE_OFFSET":
        raise InputError(f"{path}: CBF compression {compression}; accepted is x-CBF_BYTE_OFFSET: convert the image")
    if len(raw) != int(_field(header, "X-Binary-Size")):
        raise ValueError(f"{len(raw)} bytes of pixels, header says {_field(header, 'X-Binary-Size')}")
    if "Content-MD5" in header and md5(raw) != _field(header, "Content-MD5"):
        raise ValueError("the pixels do not have the checksum the header gives")


def _byte_offset(raw: bytes, count: int) -> NDArray[Any]:
    from fabio.compression import decByteOffset

    # Zeros behind the stream decode to one pixel each, and keep the decoder inside its buffer on a cut stream.
    padding = 16
    decoded = np.asarray(decByteOffset(raw + bytes(padding), None, "int64"))
    if decoded.size != count + padding:
        raise ValueError(f"{decoded.size - padding} pixels stored, header says {count}")
    return decoded[:count]


def _field(header: str, name: str) -> str:
    match = re.search(rf'\b{name}\s*[:=]\s*"?([^";\r\n]+)', header)
    if match is None:
        raise ValueError(f"{name} missing from the header")
    return match[1].strip()


def _pixel_count(size: Shape) -> int:
    if min(size) < 1:
        raise ValueError(f"size {size[0]} x {size[1]}")
    return size[0] * size[1]


def _read_tiff(path: Path, content: bytes) -> _Pixels:
    from fabio.tifimage import TifImage

    with guarded(path, "a TIFF image"):
        return _Pixels(np.asarray(TifImage().read(io.BytesIO(content)).data), "TIFF")


_READERS: dict[bytes, Callable[[Path, bytes], _Pixels]] = {
    b"\x93NUMPY": _read_npy,
    b"###CBF": _read_cbf,
    b"II*\0": _read_tiff,
    b"MM\0*": _read_tiff,
}
