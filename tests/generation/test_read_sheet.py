from __future__ import annotations

from pathlib import Path

import pytest

from library.config.places import preset_names
from library.core.errors import UserError
from library.demo.captions import tag_groups
from library.demo.look import OUTFIT_COLOURS
from library.generation.plan import plan
from library.generation.read_sheet import find_sheet, read_sheet, shipped_characters


def test_entries_are_texts_or_tables(sheet) -> None:
    anna = sheet()
    coat, armor = anna.axes["look"]
    assert (coat.name, coat.prompt, coat.caption, coat.weight) == ("green coat", "green coat", "green coat", 1)
    assert (armor.name, armor.prompt, armor.caption) == ("armor", "shining steel armor", "armor")
    full, portrait, upper = anna.axes["shot"]
    assert (full.aspect, full.weight, full.poses) == ((2, 3), 2, None)
    assert portrait.poses == () and upper.size == (40, 30)
    assert list(anna.axes) == ["look", "pose", "shot", "expression", "weather"]
    assert anna.folder_name == "10_annx woman"
    assert sheet(class_word=None, num_repeats=3).folder_name == "3_annx"
    assert sheet(seeds=[4, 2]).seeds == (4, 2)


def test_every_mistake_is_told_at_once(sheet) -> None:
    with pytest.raises(UserError) as raised:
        sheet(
            trigger=None, poses=[], looks="red", discription="x", sampler="eulr", steps=0, seeds=[1, "two"], negative=["blurry"],
            expressions=["calm", "calm", 3], shots=[{"name": "full", "poses": ["runing"], "aspect": "wide", "width": 3}],
            caption="{triger}, {pose}", prompt="{pose", axes={"look": ["x"], "mood": "sad"}, scale=True,
        )  # fmt: skip
    told = str(raised.value)
    for expected in (
        "anna.toml: trigger is missing: the word that calls the character",
        "anna.toml: poses is missing: a sheet needs some, such as poses =",
        "anna.toml: looks must be a list",
        "anna.toml: unknown key 'discription'. Did you mean 'description'?",
        'anna.toml: sampler is "eulr", but must be one of ddim, ',
        "Did you mean 'euler'?",
        "anna.toml: steps is 0, but must be a whole number from 1 to 1000",
        'anna.toml: seeds is [1, "two"], but must be',
        'anna.toml: negative is ["blurry"], but must be text',
        "anna.toml: scale is true, but must be a number",
        "anna.toml: expressions, entry 3: must be text, or a table",
        "anna.toml: expressions names 'calm' twice",
        "anna.toml: shots, entry 1 goes with a pose 'runing' that is not among the poses.",
        'anna.toml: shots, entry 1: aspect is "wide", but must be width to height such as "2:3"',
        "anna.toml: shots, entry 1: width and height must both be given",
        "anna.toml: caption has the unknown field {triger}. Did you mean 'trigger'?",
        "anna.toml: prompt has a brace without its partner",
        "anna.toml: axes: look cannot be the name of an axis",
        "anna.toml: axes: mood must be a list",
    ):
        assert expected in told


@pytest.mark.parametrize("trigger", ["a/b", "..", "x:y", 'say "hi"'])
def test_a_trigger_that_cannot_name_a_folder_is_refused(sheet, trigger: str) -> None:
    with pytest.raises(UserError, match=r"anna\.toml: trigger (holds|begins)"):
        sheet(trigger=trigger)


def test_a_sheet_is_a_name_or_a_file(tmp_path: Path) -> None:
    assert find_sheet("demarcus").name == "demarcus.toml"
    own = tmp_path / "mara.toml"
    own.write_text(
        'trigger = "m"\ndescription = "tall"\nposes = ["standing"]\nshots = ["portrait"]\n', encoding="utf-8"
    )
    mara = read_sheet(find_sheet(str(own)), {"steps": 7, "seeds": 9})
    assert (mara.name, mara.steps, mara.seeds) == ("mara", 7, (9,))
    with pytest.raises(UserError, match=r"Did you mean 'alexander'\? .*: alexander, demarcus"):
        find_sheet("alexnder")
    with pytest.raises(UserError, match=r"copy presets/characters/alexander\.toml, edit"):
        find_sheet("anna")
    with pytest.raises(UserError, match="no such file"):
        find_sheet(str(tmp_path / "other.toml"))
    own.write_text("trigger = ", encoding="utf-8")
    with pytest.raises(UserError, match=r"mara\.toml is not readable TOML"):
        read_sheet(own, {})


def test_sheets_are_no_presets() -> None:
    assert {"alexander", "demarcus"} <= set(shipped_characters())
    assert not [name for name in preset_names() if "characters" in name]


@pytest.mark.parametrize("name", shipped_characters())
def test_the_demo_model_knows_every_word_of_the_sheets_that_ship(name: str) -> None:
    known = {tag for tags in tag_groups().values() for tag in tags} | {"fighter"}
    known |= {f"{colour} {outfit}" for colour in OUTFIT_COLOURS for outfit in tag_groups()["outfit"]}
    sheet = read_sheet(find_sheet(name), {})
    for picture in plan(sheet, 40):
        assert set(picture.prompt.split(", ")) <= known
        assert picture.caption.startswith(f"{name}, fighter, ")
        described = set(sheet.description.split(", "))
        assert described <= set(picture.prompt.split(", ")) and not described & set(picture.caption.split(", "))
    assert sheet.trigger == name
