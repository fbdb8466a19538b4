from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from library.cli import cache
from library.cli.cache import size
from library.cli.main import main
from library.data.cache.keys import text_key
from library.data.cache.store import TensorCache
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


def told(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["cache", *map(str, words)]) == 0
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
    out = told(capsys, "verify", "--cache_dir", caches)
    assert "latents: 10 entries, 21 kB read" in out and "1 damaged; the next run that needs them makes them anew" in out
    assert "damaged" not in told(capsys, "verify", "--cache_dir", caches)


def test_it_prunes_by_time_and_by_size(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (record, *_) = records(caches / "latents")
    out = told(capsys, "prune", "--unused_for", "30d", "--dry_run", "--cache_dir", caches)
    assert f"would be removed: {record.data} (21 kB)\n21 kB would be free" in out and record.data.exists()
    assert "21 kB are free now" in told(capsys, "prune", "--max_size", "5kB", "--cache_dir", caches)
    assert not record.data.exists() and len(records(caches)) == 2 and (caches / "manifest.sqlite").exists()
    assert "0 kB are free now" in told(capsys, "prune", "--unused_for", "1d", "--cache_dir", caches)


def test_mistakes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["prune", "--unused_for", "soon"], "'soon' is not a time such as"),
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
