"""Ray nodes on this machine with token authentication: a head that runs no trials, and workers.

    RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE python tests/helpers/token_cluster.py FOLDER [N]

Runs in its own process, because Ray reads the mode only once. Prints a line of JSON when the nodes
are up (N workers, default 2), then reads commands from stdin: `add` adds a worker, `lose` kills the
newest one, `remove` kills one and adds one, `spoil` makes the newest healthy one fail to start any
process of a job; the end of stdin stops everything.
Each node has its own folder below FOLDER (a short path, because of sockets), as on separate
machines.
"""

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path

from patience import PATIENCE, wait_until
from ports import free_port, is_listening
from ray._private import services
from ray._private.node import Node
from ray._private.utils import write_ray_address
from ray.cluster_utils import Cluster


def main(folder: str, num_workers: int = 2) -> None:
    _be_patient()
    dashboard, agent, client = free_port(), free_port(), free_port()
    head = {
        "num_cpus": 0,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": dashboard,
        "dashboard_agent_listen_port": agent,  # the default port may be in use
        "ray_client_server_port": client,
        "temp_dir": f"{folder}/0",
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    write_ray_address(cluster.address, f"{folder}/0")  # jobs find it there
    nodes, num_made = [], 0

    def add() -> None:
        nonlocal num_made
        num_made += 1
        nodes.append(cluster.add_node(num_cpus=1, temp_dir=f"{folder}/{num_made}", wait=False))

    for _ in range(num_workers):
        add()
    cluster.wait_for_nodes(int(PATIENCE))
    for port in (dashboard, agent, client):  # Ray reports the node as up before they are started
        wait_until(partial(is_listening, port))
    _say(address=f"http://127.0.0.1:{dashboard}", gcs=cluster.address, client_port=client)
    for line in sys.stdin:
        word, lost = line.strip(), ""
        assert word in ("add", "lose", "remove", "spoil")
        if word == "spoil":
            _spoil(next(node for node in reversed(nodes) if not _place(node).is_file()))
        if word in ("lose", "remove"):
            node = nodes.pop()
            cluster.remove_node(node, allow_graceful=False)
            lost = node.unique_id
        if word in ("add", "remove"):
            add()
        _say(removed=lost)
    cluster.shutdown()


def _be_patient() -> None:
    """Patch Ray to wait longer for a new node; it has a fixed timeout of 30 s."""
    get_node = services.get_node

    def patient(*given: object) -> object:
        deadline = time.monotonic() + 3 * PATIENCE
        while True:
            try:
                return get_node(*given)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    services.get_node = patient


def _place(node: Node) -> Path:
    """The folder in which the node unpacks a job's files."""
    return Path(node.get_runtime_env_dir_path()) / "working_dir_files"


def _spoil(node: Node) -> None:
    """Break the node's environments; call it once its agents are up."""
    wait_until(_place(node).is_dir)
    shutil.rmtree(_place(node))
    _place(node).touch()


def _say(**content: object) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
