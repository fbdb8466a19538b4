from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from library.cli import cache
from library.cli.cache import size
from library.cli.main import main
from library.core.errors import Exit
from library.data.cache.keys import text_key
from library.data.cache.store import TensorCache
from library.data.index.manifest import open_manifest
from library.data.index.record import RECORD
from tests.data.cache.shard_files import records


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    """Ten latents, unused since 1970, and two texts; a manifest beside them."""
    for kind, count in (("latents", 10), ("texts", 2)):
        filled = TensorCache(tmp_path / kind)
        for number in range(count):
            filled.put(text_key(str(number), "m"), {"x": torch.full((500,), float(number))})
        filled.flush()
    for file in (tmp_path / "latents").glob("*.data"):
        os.utime(file, (0, 0))
    (tmp_path / "manifest.sqlite").write_bytes(bytes(12_000))
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> str:
    assert main(["cache", *map(str, words)]) == status
    return capsys.readouterr().out


def test_it_tells_what_is_where(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = (" ".join(line.split()) for line in told(capsys, "--cache_dir", caches).splitlines()[1:])
    assert first.startswith("latents 10 entries, 21 kB in 1 shard, last used ") and first.endswith("h ago")
    assert second.startswith("texts 2 entries, 4 kB in 1 shard, last used 0")
    assert "manifest  12 kB" in told(capsys, "show", "--cache_dir", caches)


def test_a_file_that_goes_while_it_tells_is_no_matter(
    caches: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite removes its journal whenever a run has noted something."""
    listed = cache.files_of
    monkeypatch.setattr(cache, "files_of", lambda folder, name: [*listed(folder, name), folder / "gone"])
    assert "manifest  12 kB" in told(capsys, "--cache_dir", caches)


def test_it_reads_everything(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records(caches / "texts")[1].flip(999)
    out = told(capsys, "verify", "--cache_dir", caches, status=Exit.MISTAKE)
    assert "latents: 10 entries, 21 kB read" in out and "1 damaged entry struck out" in out
    assert "What was struck out and not found again is made anew by the next run that needs it." in out
    assert "struck" not in told(capsys, "verify", "--cache_dir", caches)


def test_it_tells_of_a_damaged_index_and_finds_its_entries_again(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first, *_) = records(caches / "latents")
    with first.index.open("rb+") as index:
        index.seek(3 * 32 + 5)
        index.write(bytes(77 * [0xA5]))
    out = told(capsys, "verify", "--cache_dir", caches, status=Exit.MISTAKE)
    assert f"{first.index}: 3 damaged rows struck out, 3 entries found again in the data" in out
    assert "latents: 10 entries, 21 kB read" in out
    assert "struck" not in told(capsys, "verify", "--cache_dir", caches)
    assert len(records(caches / "latents")) == 10


def test_it_prunes_by_time_and_by_size(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (record, *_) = records(caches / "latents")
    out = told(capsys, "prune", "--unused_for", "30d", "--dry_run", "--cache_dir", caches)
    assert f"would be removed: {record.data} (21 kB)\n21 kB would be freed" in out and record.data.exists()
    assert "--unused_for 30d" not in out
    assert "21 kB freed" in told(capsys, "prune", "--max_size", "5kB", "--cache_dir", caches)
    assert not record.data.exists() and len(records(caches)) == 2 and (caches / "manifest.sqlite").exists()
    assert "0 kB freed" in told(capsys, "prune", "--unused_for", "1d", "--cache_dir", caches)
    out = told(capsys, "prune", "--dry_run", "--cache_dir", caches)
    assert (
        "0 kB would be freed\nWhat may still be used was kept: --unused_for 30d or --max_size 20GB removes more." in out
    )


def test_it_forgets_what_was_seen_in_folders_that_are_gone(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (caches / "manifest.sqlite").unlink()
    there, gone = caches / "there", caches / "gone"
    there.mkdir()
    with open_manifest(caches / "manifest.sqlite") as manifest:
        for folder in (there, gone):
            manifest.note_captions(folder, [(f"{n}.txt", b"", "a caption" * 50, "utf-8") for n in range(200)])
        manifest.note_pictures(gone, [("1.png", np.zeros(1, RECORD), None)])
    before = (caches / "manifest.sqlite").stat().st_size
    line = f"forgotten: what was seen in {gone}, which is gone"
    assert f"would be {line}" in told(capsys, "prune", "--dry_run", "--cache_dir", caches)
    assert (caches / "manifest.sqlite").stat().st_size == before
    out = told(capsys, "prune", "--cache_dir", caches)
    assert f"{line}\nthe manifest has 201 rows less (" in out and str(there) not in out
    assert (caches / "manifest.sqlite").stat().st_size < 0.7 * before
    with open_manifest(caches / "manifest.sqlite") as manifest:
        assert manifest.folders() == [there.resolve()] and len(list(manifest.captions(there))) == 200
        assert list(manifest.captions(gone)) == [] and manifest.pictures(gone).names == []
    assert "forgotten" not in told(capsys, "prune", "--cache_dir", caches)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = f"there is no folder {tmp_path / 'nope'}"
    assert said in told(capsys, "--cache_dir", tmp_path / "nope")
    for action in ("verify", "prune"):
        assert main(["cache", action, "--cache_dir", str(tmp_path / "nope")]) == Exit.MISTAKE
        assert said in capsys.readouterr().err


def test_mistakes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["prune", "--unused_for", "soon"], "'soon' is not a time such as \"30d\""),
        (["prune", "--unused_for", "30days"], '\'30days\' is not a time such as "30d", "12h"'),
        (["prune", "--unused_for", "30"], '30 of what? "30d" is days, "30h" hours'),
        (["prune", "--unused_for", "2.5"], "2.5 of what?"),
        (["prune", "--max_size", "20 apples"], "'20 apples' is not a size such as"),
        (["--dry_run"], "are for prune"),
    ):
        with pytest.raises(SystemExit):
            main(["cache", *words])
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"), [("20GB", 20 * 10**9), ("1.5 mb", 1_500_000), ("7kB", 7000), ("12", 12), ("3TB", 3 * 10**12)]
)
def test_sizes(text: str, expected: int) -> None:
    assert size(text) == expected


def test_it_needs_no_torch(caches: Path) -> None:
    script = "import sys; from library.cli.main import main; main(['cache', 'prune', '--cache_dir', sys.argv[1]]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script, str(caches)], check=True, cwd=Path(__file__).parents[2], timeout=60)
