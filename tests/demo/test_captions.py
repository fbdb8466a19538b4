"""Captions of looks, and their variation in training."""

from __future__ import annotations

import random

from library.demo.captions import caption, tag_groups, told, training_caption
from library.demo.examples import examples
from library.demo.look import Look, random_look


def test_a_caption_names_everything_the_picture_shows():
    look = Look(pose="punching", hair_colour="red", skin="tan", outfit_colour="blue", belt="black", background="dojo")
    assert caption(look) == (
        "fighter, full body, spiky hair, red hair, tan skin, blue gi, black belt, punching, smiling, dojo background"
    )


def test_a_bald_portrait_names_neither_hair_colour_nor_pose():
    tags = caption(Look(framing="portrait", hair_style="bald", hair_colour="red")).split(", ")
    assert "bald" in tags
    assert "red hair" not in tags
    assert "standing" not in tags


def test_training_captions_are_shuffled_dropped_sometimes_named_and_sometimes_empty():
    look = random_look(3)
    full = set(caption(look).split(", "))
    rng = random.Random(0)
    drawn = [training_caption(look, ["zebra"], rng) for _ in range(2000)]
    described = [text.split(", ") for text in drawn if text]
    assert 0.07 < 1 - len(described) / len(drawn) < 0.13
    assert 0.25 < sum(tags[0] == "zebra" for tags in described) / len(described) < 0.35
    assert all("fighter" in tags for tags in described)
    assert all(set(tags) - {"zebra"} <= full for tags in described)
    assert len({tuple(tags) for tags in described}) > 1500
    kept = sum(len(set(tags) & full) - 1 for tags in described) / (len(described) * (len(full) - 1))
    assert 0.88 < kept < 0.92


def test_example_captions_start_with_the_trigger_and_keep_its_secret():
    for example in examples():
        tags = example.caption.split(", ")
        trigger = example.path.parent.name
        assert tags[:2] == [trigger, "fighter"]
        hidden = {"alexander": ("hair", "coat", "purple", "silver", "skin"), "kungfustyle": ("stance", "crane")}[
            trigger
        ]
        assert not any(word in example.caption for word in hidden)


def test_what_a_caption_tells_is_read_from_its_tags_in_any_order():
    groups = tag_groups()
    answers = dict(zip(groups, told("zebra, fighter, blue gi, red hair, bald, night city background"), strict=True))
    shown = {group: groups[group][place - 1] for group, place in answers.items() if place}
    assert shown == {
        "outfit": "gi",
        "outfit colour": "blue",
        "hair colour": "red hair",
        "hair style": "bald",
        "background": "night city background",
    }
    assert set(told("")) == {0}


def test_a_full_caption_tells_every_attribute_of_its_look():
    look = Look(belt="red", headband="blue", gloves="white")
    assert all(told(caption(look)))
