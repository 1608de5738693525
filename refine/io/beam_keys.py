"""Where the direct beam is, in the words of the programs that read SMV headers."""


def beam_keys(fast: float, slow: float, pixel: float, height: float) -> dict[str, float]:
    """SMV keys, in mm, of a beam spot `fast`, `slow` mm from the outer corner of the first pixel.

    pixel: mm, edge of a pixel; height: mm, the detector along slow. MOSFLM counts X along slow and Y along fast, from
    the middle of the first pixel; DENZO the same from its corner; ADXV X along fast, Y from the other end of slow.
    """
    return {
        "ADXV_CENTER_X": fast,
        "ADXV_CENTER_Y": height - slow,
        "MOSFLM_CENTER_X": slow - 0.5 * pixel,
        "MOSFLM_CENTER_Y": fast - 0.5 * pixel,
        "DENZO_X_BEAM": slow,
        "DENZO_Y_BEAM": fast,
    }


def named_centre(convention: str, fast: float, slow: float, pixel: float, height: float) -> tuple[float, float]:
    """BEAM_CENTER_X and BEAM_CENTER_Y in mm, whose meaning is that of the `convention` in force (mosflm, denzo, adxv;
    along fast and slow in every other)."""
    keys = beam_keys(fast, slow, pixel, height)
    names = {
        "mosflm": ("MOSFLM_CENTER_X", "MOSFLM_CENTER_Y"),
        "denzo": ("DENZO_X_BEAM", "DENZO_Y_BEAM"),
        "adxv": ("ADXV_CENTER_X", "ADXV_CENTER_Y"),
    }
    x, y = names.get(convention, ("ADXV_CENTER_X", "DENZO_X_BEAM"))
    return keys[x], keys[y]
