"""Trials under Ray Tune; the only folder of this package that imports Ray."""
