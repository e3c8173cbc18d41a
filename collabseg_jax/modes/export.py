"""`--mode=export`: a trained student as files that other tools load."""

import json
from pathlib import Path

import jax

from collabseg_jax import interop
from collabseg_jax.collab import sharding as shardings
from collabseg_jax.collab.pair import STUDENTS
from collabseg_jax.errors import unknown
from collabseg_jax.run import build as experiment
from collabseg_jax.run import record as workdirs
from collabseg_jax.run.console import console


def run(config, workdir) -> None:
    """Export `config.export.student` of a trained workdir, at `config.eval.checkpoint`.

    Raises:
      ValueError: nothing was trained there, or `interop.to_pretrained` refuses.
    """
    config = workdirs.recorded_config(workdir, config)
    name, format = config.export.student, config.export.format
    if name not in STUDENTS:
        raise unknown("export.student", name, STUDENTS)
    if format not in interop.FORMATS:
        raise unknown("export.format", format, interop.FORMATS)
    spec = workdirs.recorded_spec(workdir)
    mesh = shardings.make_mesh(devices=jax.local_devices()[:1])
    _, state = experiment.restore(workdir, config, num_classes=spec.num_classes, mesh=mesh)
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
        **experiment.model_options(config)[name],
    )
    console(f"{config[name].model} after step {int(state.step)} as {format} in {directory}")


def card_details(config, workdir: Path, spec, name: str, step: int) -> dict:
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


def scored(how) -> str:
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
