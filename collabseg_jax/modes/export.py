"""`--mode=export`: a trained student as files that other tools load."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from collabseg_jax import data, interop
from collabseg_jax.collab.sharding import make_mesh
from collabseg_jax.errors import unknown
from collabseg_jax.run.build import make_run, model_options
from collabseg_jax.run.console import console
from collabseg_jax.run.record import recorded_config, recorded_spec


def run(config: Any, workdir: Any) -> None:
    """Export `config.export.student` of a trained workdir, at `config.eval.checkpoint`.

    Args:
      config: as for `record.recorded_config`.
      workdir: of a run.

    Raises:
      InputError: nothing was trained there, or `interop.to_pretrained` refuses.
    """
    config = recorded_config(workdir, config)
    name, format = config.export.student, config.export.format
    if format not in interop.FORMATS:
        raise unknown("export.format", format, interop.FORMATS)
    spec = recorded_spec(workdir)
    state = make_run(config, spec=spec, mesh=make_mesh(devices=jax.local_devices()[:1])).restore(
        workdir
    )
    directory = Path(config.export.dir or Path(workdir) / "export" / f"{name}_{format}")
    interop.to_pretrained(
        config[name].model,
        getattr(state, name).variables,
        directory,
        format=format,
        class_names=spec.classes,
        palette=spec.palette,
        size=tuple(config.export.size),
        details=card_details(config, Path(workdir), spec, name, int(state.step)),
        **model_options(config)[name],
    )
    console(f"{config[name].model} after step {int(state.step)} as {format} in {directory}")


def card_details(
    config: Any, workdir: Path, spec: data.DatasetSpec, name: str, step: int
) -> dict[str, Any]:
    """What the model card says besides the model; scores only if they are of this very step."""
    details = {
        "trained_on": f"{spec.name}, {step} steps of {config.batch_size} images. Source of the "
        f"data: {spec.source or 'not recorded'}. Its licence: {spec.licence or 'not recorded'}.",
        "config": config.to_dict(),
    }
    path = workdir / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    if results.get("step") == step:
        scores = results[name]
        details["scores"] = {k: scores[k] for k in ("miou", "pixel_accuracy", "mean_accuracy")}
        details["scores"] |= {"split": results.get("split", config.eval.split), "step": step}
        details["scored"] = scored(results.get("inference") or config.eval)
        details["per_class"] = scores["iou"]
    return details


def scored(how: Mapping[str, Any]) -> str:
    """How the images were looked at for the scores, in words.

    Args:
      how: "short_side", "window", "scales" and "flip", as in `config.eval`.
    """
    side = how["short_side"]
    parts = [f"resized to a shorter side of {side}" if side else "at their own sizes"]
    if how["window"]:
        parts.append("in overlapping windows of {}x{} (height x width)".format(*how["window"]))
    if list(how["scales"]) != [1.0]:
        parts.append(f"at the scales {', '.join(map(str, how['scales']))}")
    if how["flip"]:
        parts.append("mirrored too")
    plain = parts == ["at their own sizes"]
    rest = "" if plain else ". The exported model does not do that by itself"
    return f"The images were seen {', '.join(parts)}{rest}."
