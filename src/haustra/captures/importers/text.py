"""Reading text files in the encodings that labeling tools write."""

import codecs
import re
from pathlib import Path
from xml.etree import ElementTree

from haustra.core.errors import HaustraError

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins with UTF-16's mark, so it comes first
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")


def _encoding_of(data: bytes) -> str:
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding
    if 0 in data[:2]:  # ASCII characters in UTF-16 without a mark
        return "utf-16-be" if data[0] == 0 else "utf-16-le"
    declared = DECLARED.match(data)
    name = declared[1].decode().lower() if declared else "utf-8"
    if name.startswith(("utf-16", "utf-32")):  # but the declaration is in ASCII
        return "utf-8"
    # Tools declare these and write characters of their superset.
    return "gb18030" if name in ("gb2312", "gbk") else name


def read_text(path: Path, *, what: str) -> str:
    """Read a text file in UTF-8, in UTF-16 or UTF-32, or in the encoding that its XML declares.

    Messages call its kind `what`, such as "a VOC annotation".
    """
    encoding = "utf-8"
    try:
        data = path.read_bytes()
        encoding = _encoding_of(data)
        return data.decode(encoding).lstrip()
    except OSError as error:
        raise HaustraError(f"{path} cannot be read: {error.strerror}; expected {what}") from None
    except LookupError:
        raise HaustraError(
            f"{path} declares the encoding {encoding!r}, which is unknown; expected UTF-8"
        ) from None
    except UnicodeError as error:
        raise HaustraError(
            f"{path} is not text in {encoding} ({error}); expected {what} in UTF-8, or in the "
            "encoding that its XML declaration names"
        ) from None


def read_xml(path: Path, *, what: str) -> ElementTree.Element:
    """Return the root of an XML file, without namespaces; messages call its kind `what`."""
    text = read_text(path, what=what)
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 (expat limits entity expansion)
    except (ElementTree.ParseError, ValueError) as error:
        raise HaustraError(f"{path} is not XML ({error}); expected {what}") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root
