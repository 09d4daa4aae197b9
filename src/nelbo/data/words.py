"""Common names of splits, in folders, in the keys of archives and on the hub."""

from __future__ import annotations

import re

SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}
FILLERS = {"set", "split", "data", "images", "image", "imgs", "img", "pictures", "photos"}
IMAGES, LABELS = "images", "labels"
ROLE_OF = {
    **dict.fromkeys(("images", "image", "imgs", "img", "x"), IMAGES),
    **dict.fromkeys(("labels", "label", "targets", "target", "y"), LABELS),
}


def split_of(name: str) -> str | None:
    """The split that a name means, in any case: ``train``, ``val``, ``test``, or None.

    The name may also describe the contents: ``Test_Set`` and ``train images`` are splits, ``test tube`` is not.
    """
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word and word not in FILLERS]
    return SPLIT_OF.get(words[0]) if len(words) == 1 else None


def split_and_role(key: str) -> tuple[str | None, str] | None:
    """The meaning of an array's key: ``x_train`` and ``Train_Images`` give ``("train", "images")``.

    Args:
        key: the name of an array in an archive.

    Returns:
        (split or None, ``images`` or ``labels``); the name of a split alone means its images. None for other keys.
    """
    words = [word for word in re.split(r"[^a-z]+", key.lower()) if word]
    splits = [SPLIT_OF[word] for word in words if word in SPLIT_OF]
    roles = [ROLE_OF[word] for word in words if word in ROLE_OF]
    if not words or len(splits) + len(roles) < len(words) or len(splits) > 1 or len(roles) > 1:
        return None
    return splits[0] if splits else None, roles[0] if roles else IMAGES
