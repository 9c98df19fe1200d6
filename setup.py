"""Package metadata; the settings of tools are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="mdistiller_dfpt",
    version="0.1.0",
    description="Knowledge distillation for image classifiers: DFPT-KD and every method it is compared with",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["mdistiller_dfpt", "mdistiller_dfpt.*"]),
    package_data={"mdistiller_dfpt": ["py.typed"]},
    install_requires=[
        "torch>=2.10",  # in older versions, torch.load with weights_only=True could be made to run code by a checkpoint
        "torchvision",
        "numpy",
        "pillow",
        "pyyaml",
        "safetensors",
        "scikit-learn",
        "scipy",
        "tensorboard",
        "tqdm",
        "yacs",
    ],
    extras_require={
        "test": [
            "hypothesis",
            "matplotlib",
            "mypy==2.4.1",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff==0.17.6",
            "timm",
            "types-PyYAML",
            "types-tqdm",
        ],
        "plot": ["matplotlib"],
        "timm": ["timm"],
    },
)
