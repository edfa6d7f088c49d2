"""The folder that ships: format, checksums, signature, stored weights."""
