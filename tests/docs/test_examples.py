"""The examples for several machines: accelerate reads its file, and Slurm's script starts the processes and asks to be continued."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType

from library.config.load import load_config

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

PROGRAMS = {
    "scontrol": 'if [ "$1" = show ]; then echo first; echo second; else echo "scontrol $*"; fi',
    "srun": 'SLURM_PROCID=5 SLURM_LOCALID=1 SLURM_NTASKS=8 SLURM_NTASKS_PER_NODE=4 "$@"',
    "python": 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT"; echo "$*"; exit $STATUS',
}
"""Stand-ins for Slurm's programs and for the run: they show what they were given."""


def test_accelerate_reads_the_file_for_two_machines() -> None:
    read = load_config_from_file(str(EXAMPLES / "accelerate_two_machines.yaml"))
    assert isinstance(read, ClusterConfig)
    assert read.distributed_type == DistributedType.MULTI_GPU
    assert (read.num_machines, read.num_processes, read.mixed_precision) == (2, 8, "no")


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(("status", "continued"), [(0, False), (2, False), (7, False), (6, True), (143, True)])
def test_slurm_starts_every_process_and_continues_what_was_stopped(
    status: int, continued: bool, tmp_path: Path
) -> None:
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "123", "SLURM_JOB_NODELIST": "first,second", "STATUS": str(status)}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", str(EXAMPLES / "slurm.sh"), "a file.toml"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (status, "")
    variables, options, *after = ended.stdout.splitlines()
    assert variables == "5 1 8 4 first 20123"
    assert options.startswith("train_network.py --config a file.toml --resume latest --max_train_time ")
    assert after == (["scontrol requeue 123"] if continued else [])


def test_the_options_of_the_script_exist(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("learning_rate = 1e-4\n")
    text = (EXAMPLES / "slurm.sh").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if "train_network.py" in line]
    options = line.partition('"$1"')[2].split()
    config = load_config(["--config", str(file), *options]).config
    assert config.saving.resume == "latest"
    assert config.training.max_train_time == 7.5 * 3600
