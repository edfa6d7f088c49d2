"""The bundle, an exported ensemble as a folder: format, checksums, signature, stored weights."""
