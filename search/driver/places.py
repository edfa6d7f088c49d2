"""On which node each trial's process is: asked while it is being started, for once it is lost
nobody knows."""

from typing import Any

from ray.util import placement_group_table


class Places:
    """The node of each trial's newest process, by the trial's name."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        self._seen: set[object] = set()  # processes that were looked up

    def look(self, controller: Any) -> None:
        """Note what is new. Tune's controller knows it, and tells it nowhere."""
        live = controller._actor_manager._live_actors_to_ray_actors_resources
        trials = controller._actor_to_trial
        for actor in live.keys() - self._seen:
            if actor in trials:
                found = placement_group_table(live[actor][1].placement_group)
                self._nodes[trials[actor].config["trial"]] = found["bundles_to_node_id"][0]
                self._seen.add(actor)
        self._seen &= live.keys()

    def node(self, trial: str) -> str | None:
        """The id of the trial's node; None where it was never seen on one."""
        return self._nodes.get(trial)
