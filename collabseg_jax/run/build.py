"""From a config to the objects of a run. Below it nothing sees the config."""

import dataclasses
import functools
import json

import jax

from collabseg_jax import data, interop
from collabseg_jax.collab import objective as objectives
from collabseg_jax.collab import optim, state
from collabseg_jax.collab import pair as pairs
from collabseg_jax.collab import sharding as shardings
from collabseg_jax.collab.inference import Inference
from collabseg_jax.collab.pair import STUDENTS
from collabseg_jax.data import balance
from collabseg_jax.data.transforms import MIN_SIDE
from collabseg_jax.errors import InputError, RunError, unknown
from collabseg_jax.run import distributed
from collabseg_jax.run.checkpoint import Checkpoints
from collabseg_jax.run.console import console

# Sections and keys that do not change what is trained.
FREE_KEYS = (
    *("eval", "predict", "export", "describe", "compile", "checkpoint", "log", "mesh"),
    *("max_skipped", "loss_rows", "remat"),
    *("data.workers", "data.raw_dir", "data.dir", "data.cache"),
    "data.subset",  # compared by the records it chooses, in the fingerprint of the data
)
STRIP_FLOATS = 2**22  # of one student's enlarged logits of one image: 16 MiB
_OPTIMIZER_KEYS = (
    *("optimizer", "lr", "momentum", "weight_decay", "power"),
    *("head_lr_mult", "clip_norm", "warmup_steps"),
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config describes, without data or weights."""

    pair: pairs.Pair
    objective: objectives.Objective
    optimizers: dict
    jitter: dict[str, float]


def is_free(key: str) -> bool:
    """Whether a dotted key may differ between a run and its continuation."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def _steps_or_share(value: int, steps: int, share: int) -> int:
    return steps // share if value < 0 else value


def _strip_rows(config, num_classes: int) -> int:
    """`objective.Objective.strip_rows` of a config."""
    height, width = config.data.crop
    if config.loss_rows >= 0:
        return config.loss_rows
    if config.mesh.space != 1:  # the devices share the rows; strips would take them from each other
        return 0
    rows = max(8, STRIP_FLOATS // (width * num_classes) // 8 * 8)
    return rows if rows < height else 0


def build(config, *, num_classes: int) -> Experiment:
    """Students, objective and optimizers of a config.

    Raises:
      ValueError: one line that names the key, what was found and what was expected.
    """
    for key, least in (
        ("steps", 1),
        ("max_skipped", 1),
        ("loss_rows", -1),
        ("log.every", 1),
        ("checkpoint.every", 1),
        ("checkpoint.keep", 1),
        ("eval.every", 0),
        ("eval.batch_size", 1),
        ("eval.max_shapes", 1),
        ("eval.short_side", 0),
        ("predict.long_side", MIN_SIDE),
    ):
        value = flatten(config)[key]
        if value < least:
            raise InputError(f"config.{key} is {value}, expected at least {least}")
    if config.batch_size < 2:
        raise InputError(
            f"config.batch_size is {config.batch_size}, expected at least 2: the BatchNorm after "
            "image pooling sees one value per image"
        )
    crop = tuple(config.data.crop)
    if len(crop) != 2 or min(crop) < MIN_SIDE:
        raise InputError(
            f"config.data.crop is {crop}, expected (height, width), both at least {MIN_SIDE}"
        )
    if not 0 <= config.data.oversample <= 1:
        raise InputError(
            f"config.data.oversample is {config.data.oversample}, expected a share of the images "
            "in 0..1, 0 for no oversampling"
        )
    if not 0 <= config.data.hue <= 0.5:
        raise InputError(
            f"config.data.hue is {config.data.hue}, expected turns of the colour circle in 0..0.5"
        )
    if config.data.cache and config.data.workers:
        raise InputError(
            f"config.data.workers is {config.data.workers}, expected 0 with config.data.cache: "
            "each worker would keep all images"
        )
    balance.check_class_weights(config.losses.ce.class_weights, num_classes)
    inference(config)
    frozen = tuple(s for s in STUDENTS if config[s].frozen)
    if len(frozen) == len(STUDENTS):
        raise InputError(
            "config.cnn.frozen and config.vit.frozen are both true, expected a student that learns"
        )
    objective = objectives.build(
        {name: dict(row) for name, row in config.losses.items()},
        ramp_steps=_steps_or_share(config.ramp_steps, config.steps, 4),
        strip_rows=_strip_rows(config, num_classes),
        frozen=frozen,
    )
    rows = {}
    for part in (*STUDENTS, "bridges"):
        rows[part] = dict(config[part])
    warmup = _steps_or_share(config.warmup_steps, config.steps, 20)
    rows["cnn"]["warmup_steps"] = 0
    rows["vit"]["warmup_steps"] = rows["bridges"]["warmup_steps"] = warmup
    optimizers = {
        part: optim.build(steps=config.steps, **{k: row[k] for k in _OPTIMIZER_KEYS if k in row})
        for part, row in rows.items()
        if part not in frozen
    }
    options = {s: row | {"remat": config.remat} for s, row in model_options(config).items()}
    pair = pairs.build(
        config.cnn.model,
        config.vit.model,
        num_classes=num_classes,
        needs=objective.needs,
        precision=config.precision,
        cnn_options=options["cnn"],
        vit_options=options["vit"],
        frozen=frozen,
        borrowed_grad=config.bridges.borrowed_grad,
        mask_ratio=config.bridges.mask_ratio,
    )
    jitter = {k: config.data[k] for k in ("brightness", "contrast", "saturation", "hue")}
    return Experiment(pair, objective, optimizers, jitter)


def model_options(config) -> dict[str, dict]:
    """{student: options of `models.build`} of a config."""
    other = (*_OPTIMIZER_KEYS, "model", "pretrained", "frozen")
    return {s: {k: v for k, v in config[s].items() if k not in other} for s in STUDENTS}


def inference(config) -> Inference:
    """How `config.eval` applies students to images, in evaluation and for predictions.

    Raises:
      ValueError: a value that cannot be.
    """
    return Inference(
        window=tuple(config.eval.window),
        stride=tuple(config.eval.stride),
        scales=tuple(config.eval.scales),
        flip=config.eval.flip,
    )


def _key(config, i: int):
    return jax.random.fold_in(jax.random.key(config.seed), i)


def initial_state(config, experiment: Experiment, mesh):
    """A state at step 0 on every device of the mesh, pretrained weights loaded."""
    # On a CPU, optimising the machine code of what runs once takes longer than it saves.
    on_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 1} if on_cpu else None
    variables = {}
    for part in pairs.PARTS:
        # A program for each part: what a student begins with cannot depend on the bridges, not even
        # in its roundings. On the host, for a process can place only its own part of the mesh's
        # arrays.
        init = functools.partial(pairs.init_part, experiment.pair, part)
        init = jax.jit(init, compiler_options=options)
        variables[part] = jax.device_get(init(_key(config, 0)))
    for name in STUDENTS:
        path = config[name].pretrained
        if path:
            variables[name], summary = interop.load_pretrained(
                path,
                name=config[name].model,
                model=getattr(experiment.pair, name),
                variables=variables[name],
            )
            console(f"{name}: {summary}")
        if name in experiment.pair.frozen:
            console(f"{name}: frozen" + ("" if path else ", at random weights: none were given"))
    return jax.jit(
        lambda v, key: state.create(v, experiment.optimizers, key),
        out_shardings=shardings.replicated(mesh),
    )(variables, _key(config, 1))


def abstract_state(config, experiment: Experiment, mesh):
    """Shapes, types and shardings of `initial_state`, without making it: what to restore into."""

    def create():
        variables = pairs.init(experiment.pair, _key(config, 0))
        return state.create(variables, experiment.optimizers, _key(config, 1))

    everywhere = shardings.replicated(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        jax.eval_shape(create),
    )


def find_spec(config) -> data.DatasetSpec:
    """What the data set of a config is; nothing is prepared."""
    return data.get_spec(config.data.name, raw_dir=config.data.raw_dir, data_dir=config.data.dir)


def prepare_data(config, *, verify: bool = False) -> data.Prepared:
    """The data set of a config, prepared on first use; see `data.prepare`."""
    places = {"raw_dir": config.data.raw_dir, "data_dir": config.data.dir}
    return data.prepare(config.data.name, **places, verify=verify)


def restore(workdir, config, *, num_classes: int, mesh):
    """(Experiment, CollabState) of a trained workdir, at config.eval.checkpoint."""
    if config.eval.checkpoint not in ("latest", "best"):
        raise unknown("eval.checkpoint", config.eval.checkpoint, ("latest", "best"))
    experiment = build(config, num_classes=num_classes)
    checkpoints = Checkpoints(workdir)
    try:
        like = abstract_state(config, experiment, mesh)
        if config.eval.checkpoint == "latest":
            state = restore_newest(checkpoints, like)
            if state is None:
                raise InputError(f"{checkpoints.directory} holds no finished checkpoint to use")
            return experiment, state
        step = checkpoints.best_step()
        if step is None:
            raise InputError(
                f"{checkpoints.directory} holds no checkpoint with a score, expected one for "
                "config.eval.checkpoint=best"
            )
        return experiment, checkpoints.restore(step, like)
    finally:
        checkpoints.close()


def restore_newest(checkpoints: Checkpoints, like, *, set_aside: bool = False):
    """The state of the newest checkpoint that is whole; says which ones are not.

    Args:
      like: as for `Checkpoints.restore`; on the mesh of all processes, or of this one alone.
      set_aside: move the damaged ones away, for a run that will save these steps again.
    Returns:
      the state; None if there is no checkpoint at all.
    Raises:
      RunError: there are checkpoints, but none is whole (nothing is moved then), or the processes
        see different ones.
    """
    steps, damaged, problem = checkpoints.steps(), [], ""
    # Process 0 says how many there are and which is next, so that all do the same.
    if distributed.any_process(distributed.from_first(len(steps)) != len(steps)):
        raise RunError(
            f"the processes see different checkpoints in {checkpoints.directory} (here: {steps}), "
            "expected one workdir that all hosts share"
        )
    for step in reversed(steps):
        try:
            state, problem = checkpoints.restore(step, like), ""
        except InputError as error:
            state, problem = None, str(error)
        if not distributed.any_process(bool(problem)):
            break
        console(problem or f"checkpoint {step} is damaged where another process reads it")
        damaged.append(step)
    else:
        if not steps:
            return None
        raise RunError(
            f"{checkpoints.directory} holds no checkpoint that can be used; to start anew, move "
            "that folder away"
        )
    if damaged:
        console(f"falling back to the checkpoint of step {step}")
    if damaged and set_aside:
        if jax.process_index() == 0:
            console(f"the damaged ones now lie in {checkpoints.set_aside(damaged)}")
        distributed.any_process(False)  # wait for process 0
        checkpoints.reload()
    return state


def flatten(config) -> dict:
    """{dotted key: value} of a config, tuples as lists, as JSON would give them."""
    return flatten_tree(json.loads(json.dumps(config.to_dict())))


def flatten_tree(tree: dict, prefix: str = "") -> dict:
    """{dotted key: value} of nested dictionaries."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten_tree(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
