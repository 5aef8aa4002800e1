"""What nopull is called, contains and needs; tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent

setup(
    name="nopull",
    version=(HERE / "VERSION").read_text(encoding="ascii").strip(),
    description="Start containers before their image has been downloaded",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        "registry_client",
        "registry_client.accounts",
        "registry_client.layouts",
        "registry_client.registries",
        "registry_client.transport",
        "rafs",
        "chunk_store",
        "builder",
        "builder.hot",
        "builder.layers",
        "fuse_fs",
        "erofs_fs",
        "launch",
        "launch.containers",
        "launch.fuse_mounts",
        "launch.images",
        "launch.kernel_mounts",
        "bench",
        "command",
    ],
    py_modules=["nopull"],
    install_requires=[
        "blake3>=1.0",
        "click>=8.1",
        "cryptography>=42",
        "fusepy>=3.0.1",
        "isal>=1.7",
        "lz4>=4.3",
        "requests>=2.31",
        "rich>=13.7",
        "urllib3>=2.7",
        "xxhash>=3.4",
        "zstandard>=0.24,<0.26",  # of one libzstd: others give other digests, see tests/builder/golden.py
    ],
    extras_require={
        "bench": ["matplotlib>=3.8"],
        "metrics": ["prometheus-client>=0.20"],
        "fuzz": ["atheris>=3.0"],
        "dev": [
            "hypothesis>=6.100",
            "mypy>=1.10",
            "prometheus-client>=0.20",
            "pytest>=8.2",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.7",
            "ruff>=0.5",
            "types-requests>=2.31",
        ],
    },
    entry_points={"console_scripts": ["nopull = nopull:main"]},
    classifiers=[
        "Environment :: Console",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
    ],
)
