"""Commands before the first run: the installation, settings, packaged files, new projects."""
