"""Package metadata; the settings of tools are in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """A wheel has the configs inside the package; an editable installation uses those of the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            place = Path(self.build_lib) / "mdistiller_dfpt" / "configs"
            shutil.rmtree(place, ignore_errors=True)  # what an earlier build left
            shutil.copytree(Path(__file__).with_name("configs"), place)


setup(
    name="mdistiller_dfpt",
    version="0.1.0",
    description="Knowledge distillation for image classifiers: DFPT-KD and every method it is compared with",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["mdistiller_dfpt", "mdistiller_dfpt.*"]),
    package_data={"mdistiller_dfpt": ["py.typed", "__init__.pyi", "report/templates/*.j2", "export/templates/*.j2"]},
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["mdistiller-dfpt = mdistiller_dfpt.__main__:main"]},
    install_requires=[
        "torch>=2.10",  # in older versions, torch.load with weights_only=True could be made to run code by a checkpoint
        "torchvision",
        "jinja2",
        "lazy_loader",
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
            "datasets",
            "hypothesis",
            "imagecorruptions-imaug",
            "lightning",
            "matplotlib",
            "mypy==2.4.1",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "optuna",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff==0.17.6",
            "simplejpeg",
            "submitit",
            "timm",
            "types-PyYAML",
            "types-tqdm",
        ],
        "corruptions": ["imagecorruptions-imaug"],
        "docs": [
            "ipykernel",
            "latex2mathml",
            "matplotlib",
            "mkdocstrings-python",
            "nbclient",
            "zensical==0.0.73",  # a new generator: its releases still change what a site looks like
        ],
        "export": ["onnx", "onnxruntime", "onnxscript"],
        "jpeg": ["simplejpeg"],
        "plot": ["matplotlib"],
        "search": ["optuna", "matplotlib"],
        "submitit": ["submitit"],
        "timm": ["timm"],
    },
)
