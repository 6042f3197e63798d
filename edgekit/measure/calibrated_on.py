"""Recognizes the images that bundles were calibrated on, whose accuracy says little about other images."""

from collections.abc import Sequence

from edgekit.images.calibration_list import listed_hashes
from edgekit.images.overlap import members_of, short_hashes
from edgekit.images.selection import Selection
from edgekit.runtime.bundle import Bundle


def calibrated_on(chosen: Selection, bundles: Sequence[Bundle]) -> tuple[str, ...] | None:
    """Names of the chosen images that any bundle was calibrated on; None if there are none, but one has no record."""
    records = [calibration_images(bundle) for bundle in bundles]
    names = tuple(members_of(chosen, {digest for record in records for digest in record or ()}))
    return None if not names and None in records else names


def calibration_images(bundle: Bundle) -> tuple[str, ...] | None:
    """Short hashes of a bundle's calibration images; none for a float bundle, None for an int8 one without a record.

    The record is in the manifest, or in the calibration.json of the run folder around the bundle.
    """
    provenance = bundle.manifest.provenance
    stored, sha256 = provenance.get("calibration_images"), provenance.get("calibration_sha256")
    if isinstance(stored, list | tuple) and (stored or not sha256):
        return tuple(map(str, stored))
    if bundle.manifest.precision == "float":
        return ()
    listed = listed_hashes(bundle.path.absolute().parent / "calibration.json", str(sha256))
    return None if listed is None else short_hashes(listed)
