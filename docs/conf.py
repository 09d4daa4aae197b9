"""The site: ``make docs`` writes it to build/site. NELBO_DOCS_RUN=off builds it without running the course."""

import os
import sys
import tomllib
from pathlib import Path

import nelbo

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many notebooks as cores run side by side
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "nelbo"
version = release = nelbo.__version__
project_copyright = "the authors of nelbo"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "docstrings", "generated", "sources"]
exclude_patterns = ["_ext", "conf.py", "course/notebooks.py"]
nitpicky = False
suppress_warnings = ["ref.python"]  # nelbo.VAE and nelbo.models.vae.VAE are one class
nelbo_source = PROJECT["urls"]["Source"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_custom_formats = {".py": "sources.chapter"}
nb_execution_mode = os.environ.get("NELBO_DOCS_RUN", "cache")
nb_execution_cache_path = str(ROOT / "build" / "notebooks")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}
autodoc_use_type_comments = False
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False

html_theme = "furo"
html_title = f"nelbo {nelbo.__version__}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
