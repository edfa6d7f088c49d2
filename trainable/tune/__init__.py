"""A trial under Ray Tune: the one room of this package that knows Ray."""
