from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from library.config.catalog import by_any_name, catalog
from library.config.load import load_config
from library.config.places import PRESETS, PROJECT_ROOT, preset_names
from library.config.schema.data import DataConfig
from library.config.words import with_words

TIERS = [name for name in preset_names() if name.startswith("memory/")]
NETWORKS = [name for name in preset_names() if name.startswith("networks/")]
RECIPES = [name for name in preset_names() if name not in (*TIERS, *NETWORKS, "demo")]
TRIGGERS = {"boxing": "boxingstyle", "kungfu": "kungfustyle", "mma": "mmastyle", "sword": "swordstyle"}
REAL = [
    "--pretrained_model_name_or_path",
    "model.safetensors",
    "--train_data_dir",
    "pictures",
    "--trigger_word",
    "word",
]


def test_the_presets_are_all_there() -> None:
    assert {"character", "fighting_style", "hires"} <= set(RECIPES)
    assert set(TIERS) == {f"memory/{tier}" for tier in ("4gb", "6gb", "8gb", "12gb", "24gb", "cpu")}
    assert {f"styles/{style}" for style in TRIGGERS} <= set(RECIPES)
    assert {f"networks/{name}" for name in ("b_lora", "b_lora_content", "b_lora_style")} <= set(NETWORKS)


@pytest.mark.parametrize("tier", [None, *TIERS])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_goes_with_every_memory_tier(folder: Path, recipe: str, tier: str | None) -> None:
    extra = ["--extends", tier] if tier else []
    loaded = load_config(["--config", recipe, *extra, *REAL])
    assert loaded.warnings == [] and loaded.notices == []
    assert loaded.config.schedule.lr_scheduler == "cosine"
    assert loaded.config.schedule.lr_warmup_steps == 0.1
    assert loaded.config.optimizer.optimizer_type == ("AdamW" if tier == "memory/cpu" else "AdamW8bit")
    assert loaded.config.training.seed is not None


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_goes_with_every_choice_of_layers(folder: Path, recipe: str, network: str) -> None:
    loaded = load_config(["--config", recipe, "--extends", network, *REAL])
    assert loaded.warnings == [] and loaded.notices == []
    assert loaded.config.network.network_train_unet_only
    assert [table["dim"] for table in loaded.config.network.network_layers] == [0, 64]
    assert loaded.sources["network_layers"].startswith(f"presets/{network}.toml:")


@pytest.mark.parametrize("tier", [None, *TIERS])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_on_the_demo(folder: Path, recipe: str, tier: str | None) -> None:
    loaded = load_config(["--config", recipe, *(["--extends", tier] if tier else [])])
    assert loaded.warnings == []
    assert len(loaded.notices) == 1
    assert loaded.config.buckets.resolution == [64, 64]
    assert loaded.config.training.mixed_precision == "no"
    assert loaded.config.data.trigger_word == "alexander"
    assert loaded.config.optimizer.optimizer_type == "AdamW"


def test_the_recipes_are_what_they_promise(folder: Path) -> None:
    character, style, hires = (
        load_config(["--config", name, *REAL]).config for name in ("character", "fighting_style", "hires")
    )
    assert 1000 <= character.training.max_train_steps <= 1500 and 1500 <= style.training.max_train_steps <= 2000
    assert (character.optimizer.learning_rate, style.optimizer.learning_rate) == (1e-4, 8e-5)
    assert (character.network.network_dim, character.network.network_alpha) == (64, 32)
    assert (style.network.network_dim, style.network.network_alpha) == (48, 24)
    assert character.buckets.resolution == style.buckets.resolution == [768, 768]
    assert (character.buckets.train_batch_size, style.buckets.train_batch_size) == (1, 2)
    assert hires.buckets.resolution == [1024, 1024]
    assert not character.images.flip_aug and character.captions.keep_tokens == 1


@pytest.mark.parametrize(("style", "trigger"), TRIGGERS.items())
def test_styles_carry_their_trigger_words(folder: Path, style: str, trigger: str) -> None:
    config = load_config(["--config", f"styles/{style}", *REAL[:4]]).config
    assert config.data.trigger_word == config.saving.output_name == trigger
    assert config.saving.output_dir == f"output/{trigger}"
    assert config.network.network_dim == 48


@pytest.mark.parametrize("name", preset_names())
def test_presets_begin_with_whom_they_are_for_and_name_no_model_or_data(name: str) -> None:
    text = (PRESETS / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "hree lines" in text.split("\n\n")[0]
    if name != "demo":
        content = tomllib.loads(text)
        keys = set(content).union(*(table for table in content.values() if isinstance(table, dict)))
        assert not keys & {"pretrained_model_name_or_path", "train_data_dir", "dataset_config", "in_json", "datasets"}


@pytest.mark.parametrize("name", preset_names())
def test_lines_that_are_commented_out_are_valid_options(name: str) -> None:
    for line in (PRESETS / f"{name}.toml").read_text(encoding="utf-8").splitlines():
        commented = line.removeprefix("# ")
        if line.startswith("# ") and " = " in commented and commented.split(" = ")[0].isidentifier():
            ((key, value),) = tomllib.loads(commented).items()
            assert key in catalog(), f"{name}: {key} is no option"
            catalog()[key].convert(value)  # raises where the value does not fit


def test_prompt_files_are_there_and_used(folder: Path) -> None:
    used = {Path(str(load_config(["--config", name, *REAL]).config.sampling.sample_prompts)) for name in RECIPES}
    used.add(Path(str(load_config([]).config.sampling.sample_prompts)))
    assert used == set((PRESETS / "prompts").glob("*.txt"))


def test_the_demo_names_what_is_in_the_project(folder: Path) -> None:
    config = load_config([]).config
    assert Path(config.model.pretrained_model_name_or_path) == PROJECT_ROOT / "demo" / "model"
    assert Path(str(config.data.train_data_dir)) == PROJECT_ROOT / "demo" / "training_data" / "alexander"
    captions = [file.read_text(encoding="utf-8") for file in Path(str(config.data.train_data_dir)).glob("*.txt")]
    assert captions and all(config.data.trigger_word in caption for caption in captions)


def test_words_of_the_run_in_prompts() -> None:
    data = DataConfig(trigger_word="alex", class_word="")
    assert with_words("{trigger_word}, {class_word}, smiling", data) == "alex, smiling"
    assert with_words("plain, , prompt", data) == "plain, , prompt"


def test_names_of_options_are_unique() -> None:
    names = by_any_name(catalog())
    assert len(names) == sum(1 + len(declared.aliases) for declared in catalog().values())
