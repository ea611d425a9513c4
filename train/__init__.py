"""Training, evaluation and release of the networks, with the packages of `train/requirements.txt`."""

from importlib.util import find_spec

if find_spec("monai") is None:
    raise SystemExit("training needs MONAI, which is not installed; run pip install -r train/requirements.txt")
