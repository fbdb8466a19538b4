"""Building the kernels, and doing without them."""

from __future__ import annotations

import torch

from library.kernels import build


def test_without_a_compiler_pytorch_computes(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(build, "_folder", lambda: tmp_path)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    assert build.library.__wrapped__() is None
    assert "no C compiler" in caplog.text


def test_a_user_without_a_home_gets_pytorchs_kernels(monkeypatch, caplog):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(build.Path, "home", homeless)
    assert build.library.__wrapped__() is None
    assert "home directory" in caplog.text


def test_a_compiler_that_fails_is_told_of(monkeypatch, tmp_path, caplog):
    failing = tmp_path / "cc"
    failing.write_text("#!/bin/sh\necho 'kernel.c: this processor is not for me' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(build, "_folder", lambda: tmp_path / "built")
    monkeypatch.setattr(build.shutil, "which", lambda name: str(failing))
    assert build.library.__wrapped__() is None
    assert "this processor is not for me" in caplog.text
    assert not [file for file in (tmp_path / "built").iterdir() if file.suffix == ".so"]
