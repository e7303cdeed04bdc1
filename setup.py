"""Installs odiff; `plans/`, `experiment_planning/` and `inference/` become sub-packages of it."""

import platform
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

OUTER = ("plans", "experiment_planning", "inference")

packages = find_packages(include=["odiff", "odiff.*"])
for folder in OUTER:
    packages += [f"odiff.{name}" for name in find_packages(include=[folder, f"{folder}.*"])]


def loops() -> list[Extension]:
    """What odiff.network.native calls: optional, so without a compiler odiff is installed all the same and does it by torch.

    It is linked without OpenMP on purpose, whose functions are torch's own when it is loaded.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return []
    avx512 = ["-O3", "-fopenmp", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]
    bfloat16 = [*avx512, "-mavx512bf16"]
    flags = {
        "norm_silu": [*avx512, "-ffast-math"],
        "convolution": bfloat16,
        "weight_gradient": [*bfloat16, "-mamx-tile", "-mamx-bf16"],
    }
    return [
        Extension(
            f"odiff.network._{name}",
            [f"odiff/network/{name}.c"],
            depends=["odiff/network/bfloat16.h"],
            extra_compile_args=of_it,
            optional=True,
        )
        for name, of_it in flags.items()
    ]


setup(
    name="odiff-mri",
    version="0.1.0",
    description="Self-configuring diffusion pretraining, segmentation and diagnosis for joint MRI",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=packages,
    package_dir={"odiff": "odiff", **{f"odiff.{name}": name for name in OUTER}},
    ext_modules=loops(),
    package_data={
        "odiff.plans": ["*.json"],
        "odiff.experiment_planning": ["templates/*.json"],
        "odiff": ["py.typed"],
    },
    install_requires=[
        "torch>=2.4,!=2.9.*",
        "SimpleITK>=2.3",
        "batchgenerators>=0.25",
        "numpy>=1.24",
        "scipy>=1.10",
        "pandas>=2.0",
        "acvl-utils>=0.2.5,<0.3",
        "blosc2>=3.0",
        "scikit-learn>=1.3",
        "safetensors>=0.4",
        "tqdm>=4.60",
        "matplotlib>=3.7",
        "psutil>=5.9",
        "filelock>=3.12",
        "isal>=1.6; platform_machine in 'x86_64 AMD64 aarch64 arm64 ARM64'",
    ],
    extras_require={
        "test": ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.6", "mypy>=1.10"],
        "baselines": ["monai>=1.4"],
        "benchmark": ["monai>=1.4", "nnunetv2>=2.8", "batchgeneratorsv2>=0.3"],
    },
    entry_points={
        "console_scripts": [
            "odiff_verify_dataset=odiff.experiment_planning.verify_command:main",
            "odiff_plan_and_preprocess=odiff.experiment_planning.command:main",
            "odiff_convert_nnunet=odiff.experiment_planning.nnunet.command:main",
            "odiff_train=odiff.cli.train:main",
            "odiff_predict=odiff.inference.command:main",
            "odiff_evaluate=odiff.inference.evaluate.command:main",
            "odiff_import_weights=odiff.inference.import_command:main",
            "odiff_demo=odiff.inference.demo.command:main",
        ]
    },
)
