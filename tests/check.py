"""The one check command: format, lint, types, floors, generated docs, tests. `python tests/check.py`"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHECKS = [
    ["ruff", "format", "--check", "."],
    ["ruff", "check", "."],
    ["mypy"],
    ["importlinter", "lint"],
    ["pytest", "-n", "2", "--dist", "worksteal"],
]


def main() -> int:
    """Run every check, the tests last; the status is that of the worst."""
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    failed = []
    for check in CHECKS:
        print(f"$ {' '.join(check)}", flush=True)
        command = ["lint-imports"] if check[0] == "importlinter" else [sys.executable, "-m", *check]
        if subprocess.run(command, cwd=root, env=environment).returncode:
            failed.append(check[0])
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
