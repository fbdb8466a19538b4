"""Packaging of LoRA Dojo.

Ranges stand here, so that `pip install -e .` keeps the torch that is already installed (one built for your CUDA, say);
requirements.txt pins exact versions for a fresh machine.

A package of yours can add plugins through these entry-point groups, each entry a name and the class or function it stands for:
lora_dojo.networks, lora_dojo.optimizers, lora_dojo.schedules, lora_dojo.model_families, lora_dojo.loss_weightings.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

NEEDED = [
    "torch>=2.10",
    "accelerate>=1.15",
    "diffusers>=0.42",
    "transformers>=5.23",  # older ones nest CLIP's modules otherwise
    "huggingface-hub>=2.4",
    "safetensors>=0.8",  # 0.7 loses the former file when a save fails
    "bitsandbytes>=0.50",  # from 0.50 on the CPU too
    "omegaconf>=2.4",  # older ones know neither Literal nor frozen parents
    "toml>=0.10.2",
    "tensorboard>=2.18",
    "numpy>=1.26",
    "pillow>=11",
    "tqdm>=4.66",
    "xxhash>=3.5",  # checks every read of the caches
    "psutil>=5.9",
    "peft>=0.21",  # the tuners of networks.peft.*
    "instant-clip-tokenizer>=0.1.1",  # CLIP's vocabulary, for single-file models without network
]
EXTRAS = {
    "xformers": ["xformers"],
    "optimizers": ["prodigyopt>=1.1.2", "dadaptation>=3.2", "schedulefree>=1.4", "lion-pytorch>=0.2.2"],
    "lycoris": ["lycoris-lora>=3.2"],
    "tagger": ["onnxruntime>=1.20"],  # `dojo dataset caption --tagger`; onnxruntime-gpu serves as well
    "test": [
        "onnx>=1.17",  # makes the small taggers of the tests
        "pytest>=8",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "ruff>=0.12",
        "mypy>=1.15",
        "import-linter>=2.3",
    ],
}

setup(
    name="lora-dojo",
    version="0.1.0",
    description="Trains LoRA adapters for Stable Diffusion 1.x, 2.x and XL from a handful of captioned pictures",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["library", "library.*", "networks", "networks.*"]),
        "presets",
    ],
    package_data={
        "presets": ["*.toml", "*/*.toml", "*/*.txt"],
        "library.config.sd_scripts": ["facts.toml"],
        "library.kernels": ["tiles.h", "attention.c", "matmul.c"],
    },
    install_requires=NEEDED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["dojo = library.cli.main:main"]},
)
