"""Image files of any common form -> the pixels that a viewer shows, as 8-bit RGB."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

#: Formats that are read, by Pillow's names. `JPEG` covers the MPO files that many cameras write.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
#: Extensions of their files.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"})
#: Pixels of the largest photo. Decoded they take 300 MB, which a file of a few kilobytes can claim.
MAX_PIXELS = 100_000_000

#: What Pillow raises for files that are damaged, cut short or made to harm.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def decode(path: Path, *, facts: dict[str, Any] | None = None) -> NDArray[np.uint8]:
    """Return the pixels of a file, `(height, width, 3)`, in the order red, green, blue.

    The EXIF orientation is applied. Grey, palette and CMYK become RGB; transparent pixels are
    blended with white; 16-bit grey is divided by 257, so that white stays white; of an animation
    the first frame counts.

    Args:
        path: A JPEG, PNG, BMP, GIF or WebP file; its content decides, not its extension.
        facts: Filled with `mode` and `format`, in Pillow's words, where given.

    Raises:
        DataError: If the file cannot be read, is damaged, cut short, of another format, or larger
            than `MAX_PIXELS`. It names the file.
    """
    return np.asarray(open_photo(path, facts=facts))


def open_photo(path: Path, *, facts: dict[str, Any] | None = None) -> Image.Image:
    """Return what `decode` returns, as a Pillow image.

    Raises:
        DataError: As `decode`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    # The size is checked below, and an error tells more than Pillow's warning.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _fault(path, f"{width:,} x {height:,} pixels", f"at most {MAX_PIXELS:,}")
            if facts is not None:
                facts.update(mode=image.mode, format=image.format)
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise _fault(path, "far more", f"at most {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise _fault(path, "another format or damage at its start") from None
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _fault(path, reason) from None


def _fault(path: Path, received: str, pixels: str = "") -> DataError:
    expected = f"have {pixels} pixels" if pixels else "be an intact JPEG, PNG, BMP, GIF or WebP"
    return DataError(f"{path} must {expected}. Received: {received}")


def _as_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion clips them at 255.
        values = np.asarray(image).astype(np.float64)
        grey = np.clip(np.rint(values / 257), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
