"""Recognise URIs, and hide the credentials in them."""

import re
from urllib.parse import urlsplit


def is_uri(place: str) -> bool:
    """Whether `place` is a URI rather than a path or a name on the Hugging Face hub."""
    return "://" in place


def has_credentials(uri: str) -> bool:
    """Whether the URI has a user name or key before its host. Settings are stored and displayed,
    so such a URI must not be one."""
    return is_uri(uri) and "@" in urlsplit(uri).netloc


def redact(text: str) -> str:
    """`text` with the credentials of every URI in it replaced by `***`."""
    text = re.sub(r"://[^/\s]*@", "://***@", text)
    secret = r"([?&][^=&\s]*(?:password|passwd|token|secret|key)[^=&\s]*=)[^&\s'\"]*"
    return re.sub(secret, r"\1***", text, flags=re.IGNORECASE)
