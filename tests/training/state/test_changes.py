"""A resumed run says what is otherwise than in the one it continues, and allows what its tensors allow."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from library.config.catalog import catalog
from library.core.errors import UserError
from library.training.state.changes import FIXED, FREE, FREE_GROUPS, SEEN_BY_THE_DATA, check_material, check_settings
from tests.training.conftest import CONFIG, POSITION


def test_nothing_changed_nothing_told() -> None:
    assert check_settings(POSITION, CONFIG, on_request=False) == []
    assert check_material(POSITION, "abc", "def", "ghi", keeps_frozen=True, on_request=False) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("network_module", "my.network"), ("network_dim", 16), ("network_args", {"conv_dim": 8}), ("optimizer_type", "Lion"), ("seed", 8)],
)  # fmt: skip
def test_what_the_tensors_do_not_allow_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        check_settings(POSITION, CONFIG | {key: value}, on_request=True)
    assert key in str(caught.value)
    assert str(value) in str(caught.value)


def test_every_forbidden_change_is_named() -> None:
    with pytest.raises(UserError, match=r"network_dim.*optimizer_type"):
        check_settings(POSITION, CONFIG | {"network_dim": 16, "optimizer_type": "Lion"}, on_request=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", None), ("output_dir", "elsewhere"), ("max_train_steps", 200), ("network_args", {"conv_dim": "4"}),
     ("train_batch_size", 1), ("gradient_checkpointing", True), ("sample_every_n_steps", 10)],
)  # fmt: skip
def test_what_does_not_change_the_training_needs_no_word(key: str, value: object) -> None:
    assert check_settings(POSITION, CONFIG | {key: value}, on_request=False) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", 2e-4), ("text_encoder_lr", [1e-5]), ("min_snr_gamma", 5.0), ("mixed_precision", "bf16"), ("trigger_word", "x")],
)  # fmt: skip
def test_other_changes_are_made_on_request_only(key: str, value: object) -> None:
    (told,) = check_settings(POSITION, CONFIG | {key: value}, on_request=True)
    assert key in told
    assert str(value) in told
    with pytest.raises(UserError, match="resume_with_changes") as caught:
        check_settings(POSITION, CONFIG | {key: value}, on_request=False)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("key", "word"), [("data", "pictures"), ("model", "base model"), ("network_weights", "network_weights")]
)
def test_other_pictures_and_other_weights_are_told(key: str, word: str) -> None:
    now = {"data": "abc", "model": "def", "network_weights": "ghi", key: "new"}
    (told,) = check_material(POSITION, **now, keeps_frozen=False, on_request=True)
    assert word in told
    with pytest.raises(UserError, match=f"{word}.*resume_with_changes"):
        check_material(POSITION, **now, keeps_frozen=False, on_request=False)


@pytest.mark.parametrize("now", ["new", ""])
def test_a_network_that_keeps_a_part_of_its_first_file_cannot_go_on_without(now: str) -> None:
    with pytest.raises(UserError, match="Put the file back"):
        check_material(POSITION, "abc", "def", now, keeps_frozen=True, on_request=True)


def test_a_state_that_does_not_say_what_its_run_started_from_is_resumed() -> None:
    older = replace(POSITION, network_weights=None)
    assert check_material(older, "abc", "def", "new", keeps_frozen=True, on_request=False) == []


def test_values_are_compared_as_they_are_saved() -> None:
    saved = replace(POSITION, config=json.loads(json.dumps(CONFIG | {"text_encoder_lr": (1e-5, 2e-5)})))
    assert check_settings(saved, CONFIG | {"text_encoder_lr": (1e-5, 2e-5)}, on_request=False) == []


def test_an_option_that_the_saving_program_did_not_know_had_its_default() -> None:
    assert check_settings(POSITION, CONFIG | {"noise_offset": None, "loss_type": "l2"}, on_request=False) == []


def test_a_drawn_seed_may_be_written_down_later() -> None:
    drawn = replace(POSITION, config=CONFIG | {"seed": None})
    assert check_settings(drawn, CONFIG | {"seed": POSITION.seed}, on_request=False) == []
    with pytest.raises(UserError, match="seed"):
        check_settings(drawn, CONFIG | {"seed": POSITION.seed + 1}, on_request=False)


def test_the_lists_name_options_that_there_are() -> None:
    assert not {*FIXED, *FREE, *SEEN_BY_THE_DATA} - catalog().keys()
    assert not set(FREE_GROUPS) - {option.group for option in catalog().values()}
