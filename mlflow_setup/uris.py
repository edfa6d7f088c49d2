"""URIs: what is one, and what of it must not be shown."""

from urllib.parse import urlsplit


def is_uri(place: str) -> bool:
    """Whether `place` is a storage URI, not a path or a hub name."""
    return "://" in place


def has_credentials(uri: str) -> bool:
    """Whether a name or a key stands before the host: settings are recorded and shown."""
    return is_uri(uri) and "@" in urlsplit(uri).netloc
