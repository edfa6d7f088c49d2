"""URIs: what is one, and what of it must not be shown."""

import re
from urllib.parse import urlsplit


def is_uri(place: str) -> bool:
    """Whether `place` is a storage URI, not a path or a hub name."""
    return "://" in place


def has_credentials(uri: str) -> bool:
    """Whether a name or a key stands before the host: settings are recorded and shown."""
    return is_uri(uri) and "@" in urlsplit(uri).netloc


def redact(text: str) -> str:
    """`text` without the credentials of any URI in it."""
    text = re.sub(r"://[^/\s]*@", "://***@", text)
    secret = r"([?&][^=&\s]*(?:password|passwd|token|secret|key)[^=&\s]*=)[^&\s'\"]*"
    return re.sub(secret, r"\1***", text, flags=re.IGNORECASE)
