"""The process that runs a sweep under Ray Tune."""
