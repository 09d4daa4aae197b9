"""The page of a package index: README.md, with its links and pictures under the project's URL.

Everything else about the package stands in pyproject.toml.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]


def with_urls(readme: str) -> str:
    """The README with every relative link and picture under the project's URL, as GitHub and GitLab lay it out."""
    pictures = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{SOURCE}/raw/main/", readme)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{SOURCE}/blob/main/", pictures)


setup(
    long_description=with_urls((ROOT / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
