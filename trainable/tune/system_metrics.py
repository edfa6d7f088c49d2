"""System metrics of this process: CPU, memory, GPU."""

import sys
import time
from contextlib import suppress

import psutil

from mlflow_setup.runs.usage import SYSTEM, SystemSample

_MEGABYTE = 1e6


class SystemMeter:
    """Reads the process's metrics; CPU use is measured since the previous reading."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()

    def read(self) -> SystemSample:
        """The current metrics, under MLflow's names for system metrics."""
        machine = psutil.virtual_memory()
        values = {
            f"{SYSTEM}process_cpu_percentage": self._process.cpu_percent(),
            f"{SYSTEM}process_memory_megabytes": self._process.memory_info().rss / _MEGABYTE,
            f"{SYSTEM}system_memory_usage_percentage": float(machine.percent),
            **_gpu_metrics(),
        }
        return SystemSample(time.time(), values)


def _gpu_metrics() -> dict[str, float]:
    """Metrics of the trial's GPU, if it is in use; utilization only if NVIDIA's library is
    installed."""
    torch = sys.modules.get("torch")  # if it is not imported, no GPU is in use
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
