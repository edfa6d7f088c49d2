"""Recognise URIs, convert those of local files to paths, and hide credentials in them."""

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


def is_uri(place: str) -> bool:
    """Whether `place` is a URI rather than a path or a name on the Hugging Face hub."""
    return "://" in place


def local_path(place: str) -> Path | None:
    """The path that `place`, a path or a file: URI, names; None for a URI with another scheme."""
    parts = urlsplit(place)
    return Path(url2pathname(parts.path)) if parts.scheme in ("file", "") else None


def has_credentials(uri: str) -> bool:
    """Whether the URI has a user name or key before its host. Settings are stored and displayed,
    so such a URI must not be one."""
    return is_uri(uri) and "@" in urlsplit(uri).netloc


def redact(text: str) -> str:
    """`text` with the credentials of every URI in it replaced by `***`."""
    text = re.sub(r"://[^/\s]*@", "://***@", text)
    secret = r"([?&][^=&\s]*(?:password|passwd|token|secret|key)[^=&\s]*=)[^&\s'\"]*"
    return re.sub(secret, r"\1***", text, flags=re.IGNORECASE)
