"""torchvision's tensor names -> paths in our encoders."""

import re

_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def mobilenet_v2(name: str) -> tuple[str, ...] | None:
    """(collection, path...) below the encoder for a tensor of torchvision's MobileNetV2.

    None for what the encoder does not have: features.18, the classifier, `num_batches_tracked`.
    """
    match = re.fullmatch(r"features\.(\d+)\.(.+)\.(\w+)", name)
    if match is None or match[3] == "num_batches_tracked":
        return None
    index, middle, leaf = int(match[1]), match[2], match[3]
    if index == 0:
        block, places = ("stem",), {"0": "conv", "1": "norm"}
    elif index <= 17:
        parts = ["depthwise", "project"] if index == 1 else ["expand", "depthwise", "project"]
        places = {}
        for i, part in enumerate(parts[:-1]):
            places |= {f"conv.{i}.0": f"{part}/conv", f"conv.{i}.1": f"{part}/norm"}
        last = len(parts) - 1
        places |= {f"conv.{last}": "project/conv", f"conv.{last + 1}": "project/norm"}
        block = (f"features{index}",)
    else:
        return None
    if middle not in places:
        return None
    path = (*block, *places[middle].split("/"))
    if path[-1] == "conv":
        return ("params", *path, "kernel") if leaf == "weight" else None
    if leaf not in _NORM:
        return None
    collection, leaf = _NORM[leaf]
    return (collection, *path, leaf)
