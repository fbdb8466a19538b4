"""`dojo lora inspect | convert | rename-trigger` on files of tiny models."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from library.cli.lora import TOOLS
from library.lora_files.file import read_lora, save_lora
from library.lora_files.sidecars import card, save_card
from networks.files.apply import apply_lora

ROOT = Path(__file__).resolve().parents[2]
SITE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
OTHER = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A LoRA for SD 1 of two modules, with metadata and a card."""
    draw = torch.Generator().manual_seed(0)
    tensors = {
        f"{SITE}.lora_down.weight": torch.randn(4, 768, generator=draw), f"{SITE}.lora_up.weight": torch.randn(32, 4, generator=draw),
        f"{SITE}.alpha": torch.tensor(2.0),
        f"{OTHER}.lora_down.weight": torch.randn(2, 32, 1, 1, generator=draw), f"{OTHER}.lora_up.weight": torch.randn(32, 2, 1, 1, generator=draw),
        f"{OTHER}.alpha": torch.tensor(1.0),
    }  # fmt: skip
    frequencies = {
        "10_hero": {"hero": 20, "hero in armor": 3, "smiling": 7, "superhero": 1, "HERO": 2},
        "regs": {"1girl": 4},
    }
    metadata = {
        "ss_tag_frequency": json.dumps(frequencies), "modelspec.trigger_phrase": "hero, a man", "ss_output_name": "hero",
        "modelspec.usage_hint": "Write hero in the prompt.", "ss_network_module": "networks.lora", "ss_steps": "1200",
        "ss_learning_rate": "0.0001", "ss_base_model_version": "sd_v1", "ss_thumbnail": "x" * 5000,
    }  # fmt: skip
    file = tmp_path / "hero.safetensors"
    save_lora(file, tensors, metadata)
    save_card(file, card("sd1", "hero, a man", notes="my hero"))
    return file


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_has_help_with_an_example(dojo, tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dojo("lora", tool, "--help")
    assert ended.value.code == 0
    assert f"    dojo lora {tool} " in capsys.readouterr().out


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from library.cli.main import main\n"
        f"for words in (['lora', '--help'], *(['lora', tool, '--help'] for tool in {list(TOOLS)})):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stderr.strip() == "False"


def norms(file: Path) -> dict[str, float]:
    """Dense, in fp64."""
    tensors, _ = read_lora(file)
    keys = {name.partition(".")[0] for name in tensors}
    return {key: float(dense(tensors, key).norm()) for key in keys}


def dense(tensors, key) -> torch.Tensor:
    up, down = (tensors[f"{key}.lora_{half}.weight"].double().flatten(1) for half in ("up", "down"))
    return up @ down * (float(tensors[f"{key}.alpha"]) / down.shape[0])


def test_inspect_tells_what_there_is(dojo, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dojo("lora", "inspect", small, "--picture", tmp_path / "p.png") == 0
    told = capsys.readouterr().out
    for line in ("family        sd1", "names         kohya", "2 LoRA", "rank          4 (1), 2 (1)", "hash          right",
                 "trigger       hero, a man", "steps         1200", "10_hero: hero 20, smiling 7", "regs: 1girl 4"):  # fmt: skip
        assert line in told, line
    norm = norms(small)
    assert f"{norm[SITE]:.4f}" in told
    assert f"{norm[OTHER]:.4f}" in told
    assert f"{(norm[SITE] ** 2 + norm[OTHER] ** 2) ** 0.5:.4f}" in told
    assert "ss_thumbnail" not in told
    picture = Image.open(tmp_path / "p.png")
    assert min(picture.size) > 100


def test_inspect_tells_which_rank_keeps_how_much(dojo, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dojo("lora", "inspect", small, "--json") == 0
    [found] = json.loads(capsys.readouterr().out)
    tensors, _ = read_lora(small)
    spectra = [torch.linalg.svdvals(dense(tensors, key)).square() for key in (SITE, OTHER)]
    total = sum(float(spectrum.sum()) for spectrum in spectra)
    kept = [sum(float(spectrum[:rank].sum()) for spectrum in spectra) / total for rank in range(1, 5)]
    for share, rank in found["rank_that_keeps"].items():
        assert kept[rank - 1] >= float(share) > (kept[rank - 2] if rank > 1 else 0)
    assert {module["key"]: (module["block"], module["layer"], module["rank"], module["alpha"]) for module in found["modules"]} == {
        SITE: ("IN01", "cross-attention", 4, 2.0), OTHER: ("M00", "projections", 2, 1.0)}  # fmt: skip
    assert found["metadata"]["ss_tag_frequency"]["10_hero"]["hero"] == 20
    assert dojo("lora", "inspect", small, "--metadata") == 0
    assert "ss_thumbnail: xxx" in (told := capsys.readouterr().out)
    assert "(5000 characters)" in told


def test_inspect_says_when_the_weights_are_not_those_of_the_hash(dojo, small: Path, capsys) -> None:
    content = bytearray(small.read_bytes())
    content[-1] ^= 1
    small.write_bytes(content)
    assert dojo("lora", "inspect", small) == 0
    assert "WRONG: sshs_model_hash, modelspec.hash_sha256" in capsys.readouterr().out


def test_damage_is_shown_and_is_the_exit_status(dojo, small: Path, tmp_path: Path, capsys) -> None:
    tensors, metadata = read_lora(small)
    broken = tmp_path / "broken.safetensors"
    save_lora(broken, tensors | {f"{SITE}.lora_up.weight": torch.full((32, 4), torch.nan)}, metadata)
    assert dojo("lora", "inspect", broken, small) == 2
    told = capsys.readouterr().out
    assert f"{SITE}: lora_up.weight holds NaN or infinity" in told
    assert "DAMAGED: 1 of 2 modules" in told
    assert small.as_posix() in told
    save_lora(broken, {name: value for name, value in tensors.items() if "lora_up" not in name}, metadata)
    assert dojo("lora", "inspect", broken) == 2
    assert "lora_up.weight is missing" in capsys.readouterr().out
    assert dojo("lora", "convert", broken, tmp_path / "out.safetensors", "--to", "diffusers") == 2
    assert "lora_up.weight is missing" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"alpha": torch.tensor([1.0, 2.0])}, "alpha is not one finite number"),
        ({"lora_up.weight": torch.ones(32, 4, dtype=torch.int8)}, "hold no fractions"),
        ({"lora_up.weight": torch.ones(32, 3)}, "do not fit together"),
        ({"dora_scale": torch.ones(32, 1), "alpha": torch.tensor([1.0, 2.0])}, "alpha is not one finite number"),
    ],
)
def test_inspect_refuses_what_other_tools_refuse(dojo, small: Path, tmp_path: Path, capsys, change, told) -> None:
    tensors, metadata = read_lora(small)
    broken = tmp_path / "broken.safetensors"
    save_lora(broken, tensors | {f"{SITE}.{name}": tensor for name, tensor in change.items()}, metadata)
    assert dojo("lora", "inspect", broken) == 2
    shown = capsys.readouterr().out
    assert "DAMAGED: 1 of 2 modules" in shown and told in shown
    assert dojo("lora", "convert", broken, tmp_path / "out.safetensors", "--to", "kohya") == 2
    assert told in capsys.readouterr().err


def test_inspect_tells_of_what_is_no_file_or_has_nothing_in_it(dojo, tmp_path: Path, capsys) -> None:
    save_lora(tmp_path / "empty.safetensors", {}, {"ss_network_module": "networks.lora"})
    assert dojo("lora", "inspect", tmp_path, tmp_path / "empty.safetensors") == 2
    told = capsys.readouterr().err
    assert f"{tmp_path.as_posix()} is a folder. Name the LoRA file in it" in told
    assert "empty.safetensors is empty: it holds no tensors" in told


def test_inspect_remarks_on_a_negative_alpha_and_shows_ranks_whole(dojo, small: Path, capsys) -> None:
    tensors, metadata = read_lora(small)
    many = {
        f"{SITE.replace('to_k', to)}.{name.partition('.')[2]}": tensor
        for to in ("to_k", "to_v")
        for name, tensor in tensors.items()
        if SITE in name
    }
    low = SITE.replace("to_k", "to_v")
    many |= {
        f"{low}.lora_down.weight": torch.ones(128, 768),
        f"{low}.lora_up.weight": torch.ones(32, 128),
        f"{low}.alpha": torch.tensor(-1.0),
    }
    save_lora(small, many, metadata)
    assert dojo("lora", "inspect", small) == 0
    told = capsys.readouterr().out
    assert "alpha is negative in 1 of 2 modules" in told
    assert [line.split()[:3] for line in told.splitlines() if "IN01" in line] == [["IN01", "2", "4-128"]]


@pytest.mark.parametrize("tool", ["inspect", "convert", "rename-trigger"])
@pytest.mark.parametrize("content", ["cut", "pickle", "checkpoint", "nothing"])
def test_what_is_no_lora_leaves_nothing(dojo, small: Path, tmp_path: Path, capsys, tool: str, content: str) -> None:
    file, out = tmp_path / ("x.pt" if content == "pickle" else "x.safetensors"), tmp_path / "out.safetensors"
    if content == "cut":
        file.write_bytes(small.read_bytes()[:-9])
    elif content == "pickle":
        torch.save({"a": torch.zeros(1)}, file)
    elif content == "checkpoint":
        save_lora(file, {"model.diffusion_model.out.2.weight": torch.zeros(1)}, {})
    words = {"inspect": [], "convert": [out, "--to", "kohya"], "rename-trigger": [out, "--from", "a", "--to", "b"]}[
        tool
    ]
    assert dojo("lora", tool, file, *words) == 2
    told = capsys.readouterr().err
    assert file.as_posix() in told
    assert content != "checkpoint" or "a whole checkpoint, not a LoRA" in told
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_convert_there_and_back_changes_nothing(dojo, small: Path, tmp_path: Path, capsys) -> None:
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert dojo("lora", "convert", small, there, "--to", "diffusers") == 0
    assert "for sd1, from kohya (sd-scripts) to diffusers." in capsys.readouterr().out
    assert all(name.startswith("unet.") and "lora_" in name for name in load_file(there))
    assert dojo("lora", "convert", there, back, "--to", "kohya") == 0
    before, metadata = read_lora(small)
    after, kept = read_lora(back)
    assert before.keys() == after.keys()
    for key in (SITE, OTHER):
        assert torch.equal(dense(before, key), dense(after, key))
    changed = {name for name in metadata if metadata[name] != kept[name]}
    assert changed <= {"sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"}
    content = back.read_bytes()
    body = content[8 + int.from_bytes(content[:8], "little") :]
    assert kept["modelspec.hash_sha256"] == f"0x{hashlib.sha256(body).hexdigest()}"
    assert kept["modelspec.architecture"] == "stable-diffusion-v1/lora"


def test_convert_rounds_only_when_told_to(dojo, small: Path, tmp_path: Path, capsys) -> None:
    tensors, _ = read_lora(small)
    half = tmp_path / "half.safetensors"
    save_lora(half, {name: value.half() for name, value in tensors.items()} | {f"{SITE}.alpha": torch.tensor(3.0)}, {})
    out = tmp_path / "out.safetensors"
    assert dojo("lora", "convert", half, out, "--to", "diffusers") == 0
    assert "stored as fp32" in capsys.readouterr().out
    assert {value.dtype for value in load_file(out).values()} == {torch.float16, torch.float32}
    assert dojo("lora", "convert", half, out, "--to", "diffusers", "--dtype", "fp16") == 0
    assert {value.dtype for value in load_file(out).values()} == {torch.float16}
    before = out.read_bytes()
    assert dojo("lora", "convert", out, out, "--to", "kohya") == 2
    assert out.read_bytes() == before
    assert dojo("lora", "convert", out, out, "--to", "kohya", "--overwrite") == 0
    assert SITE + ".alpha" in load_file(out)


def test_a_lora_of_a_whole_tiny_model_survives_convert(dojo, lora: Path, model: Path, tmp_path: Path) -> None:
    from library.config.schema.model import ModelConfig
    from library.models.load import load_model

    out = tmp_path / "out.safetensors"
    assert dojo("lora", "convert", lora, out, "--to", "diffusers", "--family", "sd1") == 0
    loaded = load_model(ModelConfig(pretrained_model_name_or_path=str(model)), torch.float32, torch.device("cpu"))
    hosts = loaded.hosts(["unet", "text_encoders"])
    networks = [apply_lora(file, hosts, "sd1") for file in (lora, out)]
    for key in networks[0].sites:
        torch.testing.assert_close(networks[0].delta(key), networks[1].delta(key))


def test_rename_trigger_changes_words_and_no_weight(dojo, small: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.safetensors"
    assert dojo("lora", "rename-trigger", small, out, "--from", "hero", "--to", "zeno knight") == 0
    told = capsys.readouterr().out
    assert "still answer to the tokens of 'hero'" in told
    before, metadata = read_lora(small)
    after, changed = read_lora(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads(changed["ss_tag_frequency"]) == {
        "10_zeno knight": {"zeno knight": 20, "zeno knight in armor": 3, "smiling": 7, "superhero": 1, "HERO": 2},
        "regs": {"1girl": 4},
    }
    assert changed["modelspec.trigger_phrase"] == "zeno knight, a man"
    assert {name for name in metadata if metadata[name] != changed[name]} == {
        "ss_tag_frequency", "modelspec.trigger_phrase", "modelspec.usage_hint", "sshs_legacy_hash"} - (
        {"sshs_legacy_hash"} if metadata["sshs_legacy_hash"] == changed["sshs_legacy_hash"] else set())  # fmt: skip
    assert changed["modelspec.hash_sha256"] == metadata["modelspec.hash_sha256"]
    written = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert written["activation text"] == "zeno knight, a man"
    assert written["notes"] == "my hero"


def test_rename_trigger_refuses_what_would_surprise(dojo, small: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.safetensors"
    assert dojo("lora", "rename-trigger", small, out, "--from", "villain", "--to", "x") == 2
    assert "does not name 'villain'" in capsys.readouterr().err
    assert dojo("lora", "rename-trigger", small, small, "--from", "hero", "--to", "x") == 2
    save_card(out, card("sd1", "someone else"))
    assert dojo("lora", "rename-trigger", small, out, "--from", "hero", "--to", "x") == 2
    assert "out.json exists already" in capsys.readouterr().err
    assert not out.exists()
    assert dojo("lora", "rename-trigger", small, small, "--from", "hero", "--to", "x", "--overwrite") == 0
    assert json.loads(small.with_suffix(".json").read_text(encoding="utf-8"))["activation text"] == "x, a man"
