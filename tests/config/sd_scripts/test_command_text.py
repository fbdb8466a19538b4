from __future__ import annotations

import pytest

from library.config.sd_scripts.command_text import read_command, split_words, variables
from library.core.errors import UserError

BASH = """
# train
source venv/bin/activate && cd sd-scripts
accelerate launch --num_cpu_threads_per_process 1 train_network.py \\
  --pretrained_model_name_or_path="/models/my model.safetensors" \\
  --network_args "conv_dim=4" 'conv_alpha=1' \\
  --output_name=a\\ b --xformers \\
  --seed 42 2>&1 | tee log.txt
"""
CMD = """
REM my run
accelerate launch .\\sdxl_train_network.py ^
  --pretrained_model_name_or_path="D:\\models\\x.safetensors" ^
  --train_data_dir "C:\\pics\\" ^
  --output_dir=C:\\out\\a --xformers

pause
"""
POWERSHELL = """accelerate launch "sd-scripts/train_network.py" `
  --seed=1 `
  --caption_prefix='it''s' `
"""


def test_a_command_of_bash() -> None:
    command = read_command(BASH)
    assert command.script == "train_network"
    assert command.launcher == ["accelerate", "launch", "--num_cpu_threads_per_process", "1"]
    assert command.options == [
        "--pretrained_model_name_or_path=/models/my model.safetensors",
        "--network_args", "conv_dim=4", "conv_alpha=1",
        "--output_name=a b", "--xformers", "--seed", "42",
    ]  # fmt: skip


def test_a_command_of_windows() -> None:
    command = read_command(CMD)
    assert command.script == "sdxl_train_network"
    assert command.options == [
        "--pretrained_model_name_or_path=D:\\models\\x.safetensors",
        "--train_data_dir", "C:\\pics\\", "--output_dir=C:\\out\\a", "--xformers",
    ]  # fmt: skip


def test_a_command_of_powershell_and_lines_that_lost_their_ends() -> None:
    assert read_command(POWERSHELL).options == ["--seed=1", "--caption_prefix=its"]
    assert read_command("python train_network.py\n --seed=1\n --sdpa").options == ["--seed=1", "--sdpa"]
    assert read_command("--seed=1 --sdpa").script == ""
    assert read_command("python train_network.py").launcher == []
    assert read_command("venv\\Scripts\\accelerate.exe launch train_network.py").launcher == ["accelerate", "launch"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ('a "" b', ["a", "", "b"]),
        ('"a b"c', ["a bc"]),
        ('"say \\"x\\" now"', ['say "x" now']),
        ("'a\\b' \\\\server\\x", ["a\\b", "\\\\server\\x"]),
        ('--a="C:\\x y\\" --b', ["--a=C:\\x y\\", "--b"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_a_quote_that_is_never_closed_swallows_nothing() -> None:
    with pytest.raises(UserError, match="mark ' is never closed, in: --train_data_dir=Rins"):
        split_words("--train_data_dir=Rin's pictures --seed 3")


def test_variables_of_a_shell_are_found() -> None:
    assert variables(["--a=$MODEL/x", "--b=%OUT%", "${MODEL}", "50%", "$MODEL"]) == ["$MODEL", "%OUT%", "${MODEL}"]
    assert variables(["--output_name=$(date +%F)-a", "--vae=$(pwd", "$env:HOME"]) == [
        "$(date +%F)",
        "$(pwd",
        "$env:HOME",
    ]


@pytest.mark.parametrize(
    "assignments",
    [
        'dir="/a b"\nexport MODEL=$dir/x.safetensors # the model\n',
        '$dir = "/a b" # where\n$MODEL="$dir/x.safetensors"\n',
        'set dir=/a b\nset "MODEL=%dir%/x.safetensors"\n',
    ],
)
def test_variables_that_the_text_sets_are_filled_in(assignments: str) -> None:
    command = read_command(f"{assignments}accelerate launch train_network.py --vae=%MODEL% --a ${{MODEL}} $other")
    assert command.options == ["--vae=/a b/x.safetensors", "--a", "/a b/x.safetensors", "$other"]


@pytest.mark.parametrize("text", ["accelerate launch flux_train_network.py --x", "echo hello there"])
def test_what_is_no_training_of_these_families_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"train_network\.py"):
        read_command(text)
