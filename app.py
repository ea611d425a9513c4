"""The entry of a Hugging Face Space, and of a launch from the source tree: the same as `brainmri serve`.

python app.py [--models DIR_OR_REPO…] [--device DEVICE]        # http://127.0.0.1:7860, or the port in GRADIO_SERVER_PORT
"""

from __future__ import annotations

import sys

from brainmri.__main__ import main
from brainmri.ui import page  # noqa: F401  on ZeroGPU, spaces must be imported at the start

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
