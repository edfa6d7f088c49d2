"""The sections of a sweep's report. One with nothing to show says why in one line."""
