"""What this process takes of its machine: its share of a CPU, memory, the GPU's."""

import sys
import time
from contextlib import suppress

import psutil

from mlflow_setup.runs.usage import SYSTEM, SystemSample

_MEGABYTE = 1e6


class SystemMeter:
    """Reads the process's counters; a CPU's share is since the reading before."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()

    def read(self) -> SystemSample:
        """The metrics now, under the names that MLflow's page for them looks for."""
        machine = psutil.virtual_memory()
        values = {
            f"{SYSTEM}process_cpu_percentage": self._process.cpu_percent(),
            f"{SYSTEM}process_memory_megabytes": self._process.memory_info().rss / _MEGABYTE,
            f"{SYSTEM}system_memory_usage_percentage": float(machine.percent),
            **_of_gpu(),
        }
        return SystemSample(time.time(), values)


def _of_gpu() -> dict[str, float]:
    """Metrics of the trial's GPU, once it is used; how busy it is where NVIDIA's library is
    installed."""
    torch = sys.modules.get("torch")  # a trial without one does not need it here
    if torch is None or not torch.cuda.is_initialized():
        return {}
    free, total = torch.cuda.mem_get_info()
    values = {
        f"{SYSTEM}gpu_0_memory_usage_megabytes": (total - free) / _MEGABYTE,
        f"{SYSTEM}gpu_0_memory_usage_percentage": 100 * (total - free) / total,
    }
    with suppress(ModuleNotFoundError, RuntimeError):
        values[f"{SYSTEM}gpu_0_utilization_percentage"] = float(torch.cuda.utilization())
    return values
