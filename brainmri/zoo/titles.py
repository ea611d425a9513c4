"""What people know the zoo's models by."""

from __future__ import annotations

TITLES = {  # the best first; by the entry's name
    "effunet-any": "Any sequence and plane",
    "effunet-pair-lgg": "Best on gliomas",
    "effunet-lite2-lgg": "Gliomas only",
    "effunet-lgg": "Small and fast",
    "resunet-lgg": "The paper's network",
    "resunet-any": "The paper's network, any sequence",
    "resunet-paper": "The paper's protocol",
    "resnet50-lgg": "The paper's classifier",
}


def shown_name(name: str) -> str:
    """A model's title with its entry's name; the name alone for models without a title.

    >>> shown_name("effunet-lite2-lgg")
    'Gliomas only (effunet-lite2-lgg)'
    """
    return f"{TITLES[name]} ({name})" if name in TITLES else name
