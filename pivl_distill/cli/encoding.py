"""Output in every encoding: characters that it lacks are approximated, never an exception.

Terminals and log files in cp1252, latin-1 or ascii lack the arrows and signs of help texts, and no
encoding has the bytes of a file name that is not UTF-8.
"""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

APPROXIMATIONS = {
    **{"→": "->", "←": "<-", "×": "x", "·": "*", "…": "...", "≤": "<=", "≥": ">=", "≈": "~"},
    **{"–": "-", "—": "-", "−": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "±": "+-"},
    **{"π": "pi", "σ": "sigma", "α": "alpha", "τ": "tau", "λ": "lambda", "•": "*", "━": "-"},
}
_HANDLER = "pivl_distill.approximate"
_ASCII = "pivl_distill_ascii"
"""ASCII under another name: click writes UTF-8 to a stream whose encoding is named ascii."""
_FIRST_SURROGATE, _LAST_SURROGATE = "\udc80", "\udcff"


def make_output_encodable() -> None:
    """Let standard output and error approximate what their encoding lacks."""
    codecs.register_error(_HANDLER, _approximate_error)
    codecs.register(_find_codec)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=_ASCII if is_ascii else stream.encoding, errors=_HANDLER)


def approximate(character: str) -> str:
    """Return ASCII that stands for a character.

    >>> "".join(map(approximate, "é → \\udce9 π 人"))
    'e -> \\\\xe9 pi \\\\u4eba'
    """
    if character in APPROXIMATIONS:
        return APPROXIMATIONS[character]
    if _FIRST_SURROGATE <= character <= _LAST_SURROGATE:  # a byte of a name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character.isascii():
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or character.encode("ascii", "backslashreplace").decode()


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name != _ASCII:
        return None
    codec = codecs.lookup("ascii")
    return codecs.CodecInfo(
        *codec,
        incrementalencoder=codec.incrementalencoder,
        incrementaldecoder=codec.incrementaldecoder,
        name=_ASCII,
    )


def _approximate_error(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(approximate, error.object[error.start : error.end])), error.end
