"""What a trial is called. A file of its own, so that whoever names a trial need not load torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """What a trial is called and where its configuration came from."""

    trial: str
    sweep: str | None
    recipe: str
    origin: dict[str, str]
    searched: tuple[str, ...] = ()
