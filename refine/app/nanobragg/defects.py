"""What nanoBragg.c does wrong, each a switch: on where its images are to be reproduced, off everywhere else."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Defects:
    """True: as nanoBragg.c computes. False: as the physics has it.

    triclinic_c_star: `-cell` takes c*_z = c* V / (a b c sin gamma*) where c* V* / (a* b* c* sin gamma*) is right. The
        lengths stay, the angles come out wrong by up to about 0.2 degrees; no effect with two right angles, or with
        `-mat`.
    layers_beyond_sensor: `-detector_thicksteps n` makes n layers of thickness / (n - 1), together thicker than the
        sensor, and n = 1 becomes two layers of the full thickness.
    phi_zero_not_applied: a step at phi = 0 exactly keeps the orientation of the step computed before it (unrotated in
        the first pixel only).
    mosaic_spread_float32: the spread and each domain's angle are rounded to single precision.
    oversampled_factors_compound: `-oversample_thick`, `-oversample_polar` and `-oversample_omega` multiply the running
        sum, so that every later step multiplies the earlier ones again.
    oversampled_polarization_overrides: `-oversample_polar` applies the polarisation factor in spite of `-nopolar`.
    corner_factors: otherwise solid angle and polarisation are those of the pixel's first sub-pixel (the
        polarisation of the first source and sub-pixel that `-dmin` leaves).
    capture_of_last_layer: otherwise the absorbed fraction is that of the first sub-pixel of the last layer, and
        multiplies the sum over all layers.
    solid_angle_of_front: the pixels of a deeper layer are tilted against the ray as if the detector's plane were still
        that of the sensor's front.
    water_rescaled: the background of `-water`, complete in itself, is multiplied by r_e^2 fluence once more and
        divided by the number of steps; it also gets the pixel's solid angle, polarisation and absorption.
    source_weights_ignored: sources count equally, whatever weight the source file gives them.
    interpolation_stops: at the first step whose 4 x 4 x 4 neighbours leave the list of structure factors,
        interpolation ends for the rest of the image, in raster order, not for that step alone.
    curved_in_mosflm_frame: `-curved_det` turns the beam about the slow axis by lab y and about the fast axis by lab z
        over the distance, which exchanges the image's axes and means something only where the beam is lab x.
    spot_width_by_volume: the width of `-gauss_xtal` and `-tophat_spots` is |dq| Na Nb Nc with |dq| in 1/Å, which is
        no length, not N times the lattice vector along each axis.
    round_peak_cancels: the transform of `-round_xtal` is 3 (sin x / x - cos x) / x^2, which rounding makes 0 where x is
        below 1e-8 but not 0: a ray nearly, not exactly, along the beam, or on a reflection, has no intensity.
    list_read_by_scanf: `-hkl` is read as a stream of numbers, four to a reflection wherever the lines end. The first
        word that is no number, and the first index with a decimal point, end it without a word.
    """

    triclinic_c_star: bool = True
    layers_beyond_sensor: bool = True
    phi_zero_not_applied: bool = True
    mosaic_spread_float32: bool = True
    oversampled_factors_compound: bool = True
    oversampled_polarization_overrides: bool = True
    corner_factors: bool = True
    capture_of_last_layer: bool = True
    solid_angle_of_front: bool = True
    water_rescaled: bool = True
    source_weights_ignored: bool = True
    interpolation_stops: bool = True
    curved_in_mosflm_frame: bool = True
    spot_width_by_volume: bool = True
    round_peak_cancels: bool = True
    list_read_by_scanf: bool = True

    @classmethod
    def none(cls) -> "Defects":
        """All off."""
        return cls(**{field.name: False for field in fields(cls)})
