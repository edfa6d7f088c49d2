"""A bill of materials of what is installed here, CycloneDX 1.5: `make sbom`.

python deploy/sbom.py > sbom.json
"""

import json
import sys
from importlib.metadata import distributions
from typing import Any


def bill() -> dict[str, Any]:
    """Every distribution with its version, its licence as it says, and its package URL."""
    parts = {}
    for found in distributions():
        name, version = found.metadata["Name"], found.version
        key = name.lower().replace("_", "-")
        licence = found.metadata.get("License-Expression") or found.metadata.get("License")
        parts[key] = {
            "type": "library",
            "bom-ref": f"pkg:pypi/{key}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{key}@{version}",
            **({"licenses": [{"license": {"name": licence[:200]}}]} if licence else {}),
        }
    own = parts.pop("ensweep", None)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": own} if own else {},
        "components": [parts[key] for key in sorted(parts)],
    }


if __name__ == "__main__":
    json.dump(bill(), sys.stdout, indent=1)
    sys.stdout.write("\n")
