"""Each package that pip would install, by version and SHA-256: `make lock`.

    pip install --dry-run --ignore-installed --quiet --report - ... | python deploy/lock.py

Reads pip's report from standard input, one or several of them one after another, and prints what
`pip install --require-hashes --requirement` takes. A package may have several files.
"""

import json
import sys
from collections import defaultdict
from typing import Any

HEAD = """\
# What pip installs, each file by its SHA-256: CPython {python}, {platform}. Made by `make lock`.
# pip install --require-hashes -r requirements.lock && pip install --no-deps .
"""


def lock(reports: list[dict[str, Any]]) -> str:
    """The lines, by name."""
    files: dict[str, set[str]] = defaultdict(set)
    for item in (item for report in reports for item in report["install"]):
        archive = item["download_info"].get("archive_info")
        if archive is None:  # our own folder
            continue
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        line = f"{name.lower().replace('_', '-')}=={version.partition('+')[0]}"
        files[line].add(archive["hashes"]["sha256"])
    facts = reports[0]["environment"]
    platform = f"{facts['sys_platform']} {facts['platform_machine']}"
    head = HEAD.format(python=facts["python_version"], platform=platform)
    return head + "".join(
        line + "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(files[line])) + "\n"
        for line in sorted(files)
    )


def read(text: str) -> list[dict[str, Any]]:
    """JSON objects one after another."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while text[place:].strip():
        place += len(text[place:]) - len(text[place:].lstrip())
        content, place = decoder.raw_decode(text, place)
        found.append(content)
    return found


if __name__ == "__main__":
    sys.stdout.write(lock(read(sys.stdin.read())))
