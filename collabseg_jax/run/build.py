"""From a config to the objects of a run. Below this room nothing sees the config."""

import dataclasses
import functools
from typing import Any

import jax
import optax
from clu import parameter_overview
from jax.sharding import Mesh

from collabseg_jax import data, interop
from collabseg_jax.collab.inference import Inference
from collabseg_jax.collab.objective import Objective, build_objective
from collabseg_jax.collab.optim import build_optimizer
from collabseg_jax.collab.pair import PARTS, STUDENTS, Pair, build_pair, init, init_part
from collabseg_jax.collab.programs import jit_gradient_norms, jit_train_step
from collabseg_jax.collab.sharding import Layout, make_mesh, replicated, train_layout
from collabseg_jax.collab.state import CollabState, create_state
from collabseg_jax.data import balance
from collabseg_jax.errors import InputError
from collabseg_jax.run.checkpoint import Checkpoints, restore_newest
from collabseg_jax.run.config import check
from collabseg_jax.run.console import console

_STRIP_FLOATS = 2**22  # of one student's enlarged logits of one image: 16 MiB
_OPTIMIZER_KEYS = (
    *("optimizer", "lr", "momentum", "weight_decay", "power"),
    *("head_lr_mult", "clip_norm", "warmup_steps"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A config as objects. Making one reads no data and no weights, and compiles nothing.

    Attributes:
      config: of the run, checked.
      spec: what the data set is.
      pair: the two students and the bridges between them.
      objective: the losses with their weights.
      optimizers: {part that learns: its optimizer}.
      jitter: strengths of the colour jitter, keyword arguments of `augment.color_jitter`.
      inference: how the students are applied to whole images.
      given_mesh: the devices, if they are not those of config.mesh.
    """

    config: Any
    spec: data.DatasetSpec
    pair: Pair
    objective: Objective
    optimizers: dict[str, optax.GradientTransformation]
    jitter: dict[str, float]
    inference: Inference
    given_mesh: Mesh | None = None

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices; InputError if config.mesh does not fit them."""
        return self.given_mesh or make_mesh(**self.config.mesh)

    @functools.cached_property
    def layout(self) -> Layout:
        """How training batches lie on the mesh.

        Raises:
          InputError: batch or crop cannot be split evenly.
        """
        crop = tuple(self.config.data.crop)
        return train_layout(self.mesh, batch_size=self.config.batch_size, crop=crop)

    def weigh_classes(self, weights: tuple[float, ...] | None) -> "Run":
        """The same run with these weights of classes in the supervised loss."""
        return dataclasses.replace(
            self, objective=dataclasses.replace(self.objective, class_weights=weights)
        )

    def jit_train_step(self) -> Any:
        """`step.train_step` of this run: (state, batch) -> (state, logs), the state donated."""
        return jit_train_step(self.layout, optimizers=self.optimizers, **self._stepped)

    def jit_gradient_norms(self) -> Any:
        """`step.gradient_norms` of this run: (state, batch) -> norms; compiled when called."""
        return jit_gradient_norms(self.layout, **self._stepped)

    @property
    def _stepped(self) -> dict[str, Any]:
        return {"pair": self.pair, "objective": self.objective, "jitter": self.jitter}

    def initial_state(self) -> CollabState:
        """A state at step 0 on every device of the mesh, pretrained weights loaded."""
        # On a CPU, optimising the machine code of what runs once takes longer than it saves.
        on_cpu = jax.default_backend() == "cpu"
        options = {"xla_backend_optimization_level": 1} if on_cpu else None
        variables = {}
        for part in PARTS:
            # A program for each part: what a student begins with cannot depend on the bridges, not
            # even in its roundings. On the host, for a process can place only its own part of the
            # mesh's arrays.
            program = jax.jit(
                functools.partial(init_part, self.pair, part), compiler_options=options
            )
            variables[part] = jax.device_get(program(self._key(0)))
        for name in STUDENTS:
            variables[name] = self._pretrained(name, variables[name])
        return jax.jit(
            lambda v, key: create_state(v, self.optimizers, key),
            out_shardings=replicated(self.mesh),
        )(variables, self._key(1))

    def _pretrained(self, name: str, variables: Any) -> Any:
        """A student's variables with the weights that its section names; says so in a line."""
        model, path = self.config[name].model, self.config[name].pretrained
        count = parameter_overview.count_parameters(variables["params"])
        notes = [f"{model}, {count / 1e6:.2f} M parameters"]
        if path:
            variables, summary = interop.load_pretrained(
                path, name=model, model=getattr(self.pair, name), variables=variables
            )
            notes.append(summary)
        if name in self.pair.frozen:
            notes.append("frozen" + ("" if path else ", at random weights: none were given"))
        console(f"{name}: {'; '.join(notes)}")
        return variables

    def abstract_state(self) -> CollabState:
        """Shapes, types and shardings of `initial_state`: what to restore into."""

        def create() -> CollabState:
            return create_state(init(self.pair, self._key(0)), self.optimizers, self._key(1))

        everywhere = replicated(self.mesh)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
            jax.eval_shape(create),
        )

    def restore(self, workdir: Any) -> CollabState:
        """The trained state in a workdir, at config.eval.checkpoint.

        Raises:
          InputError: there is no such checkpoint.
          RunError: none is whole.
        """
        checkpoints = Checkpoints(workdir)
        try:
            like = self.abstract_state()
            if self.config.eval.checkpoint == "latest":
                state = restore_newest(checkpoints, like)
                if state is None:
                    raise InputError(f"{checkpoints.directory} holds no finished checkpoint to use")
                return state
            step = checkpoints.best_step()
            if step is None:
                raise InputError(
                    f"{checkpoints.directory} holds no checkpoint with a score, expected one for "
                    "config.eval.checkpoint=best"
                )
            return checkpoints.restore(step, like)
        finally:
            checkpoints.close()

    def _key(self, i: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.config.seed), i)


def make_run(config: Any, *, spec: data.DatasetSpec | None = None, mesh: Mesh | None = None) -> Run:
    """The run that a config describes.

    Args:
      config: every key of configs/base.py.
      spec: of the data set; None for what config.data names.
      mesh: None for that of config.mesh, over all devices.

    Raises:
      InputError: one line that names the key, what was found and what was expected.
    """
    check(config)
    spec = find_spec(config) if spec is None else spec
    balance.check_class_weights(config.losses.ce.class_weights, spec.num_classes)
    frozen = tuple(s for s in STUDENTS if config[s].frozen)
    objective = build_objective(
        {name: dict(row) for name, row in config.losses.items()},
        ramp_steps=_steps_or_share(config.ramp_steps, config.steps, 4),
        strip_rows=_strip_rows(config, spec.num_classes),
        frozen=frozen,
    )
    options = {s: row | {"remat": config.remat} for s, row in model_options(config).items()}
    pair = build_pair(
        config.cnn.model,
        config.vit.model,
        num_classes=spec.num_classes,
        needs=objective.needs,
        precision=config.precision,
        cnn_options=options["cnn"],
        vit_options=options["vit"],
        frozen=frozen,
        borrowed_grad=config.bridges.borrowed_grad,
        mask_ratio=config.bridges.mask_ratio,
    )
    return Run(
        config=config,
        spec=spec,
        pair=pair,
        objective=objective,
        optimizers=_optimizers(config, frozen),
        jitter={k: config.data[k] for k in ("brightness", "contrast", "saturation", "hue")},
        inference=Inference(
            window=tuple(config.eval.window),
            stride=tuple(config.eval.stride),
            scales=tuple(config.eval.scales),
            flip=config.eval.flip,
        ),
        given_mesh=mesh,
    )


def _optimizers(config: Any, frozen: tuple[str, ...]) -> dict[str, optax.GradientTransformation]:
    rows = {part: dict(config[part]) for part in PARTS}
    warmup = _steps_or_share(config.warmup_steps, config.steps, 20)
    rows["cnn"]["warmup_steps"] = 0
    for row in rows.values():
        row["momentum"] = None if row.get("momentum", -1) < 0 else row["momentum"]
    rows["vit"]["warmup_steps"] = rows["bridges"]["warmup_steps"] = warmup
    return {
        part: build_optimizer(
            steps=config.steps, **{k: row[k] for k in _OPTIMIZER_KEYS if k in row}
        )
        for part, row in rows.items()
        if part not in frozen
    }


def _steps_or_share(value: int, steps: int, share: int) -> int:
    return steps // share if value < 0 else value


def _strip_rows(config: Any, num_classes: int) -> int:
    """`Objective.strip_rows` of a config."""
    height, width = config.data.crop
    if config.loss_rows >= 0:
        return config.loss_rows
    if config.mesh.space != 1:  # the devices share the rows; strips would take them from each other
        return 0
    rows = max(8, _STRIP_FLOATS // (width * num_classes) // 8 * 8)
    return rows if rows < height else 0


def model_options(config: Any) -> dict[str, dict[str, Any]]:
    """{student: options of `models.build`} of a config."""
    other = (*_OPTIMIZER_KEYS, "model", "pretrained", "frozen")
    return {s: {k: v for k, v in config[s].items() if k not in other} for s in STUDENTS}


def find_spec(config: Any) -> data.DatasetSpec:
    """What the data set of a config is; nothing is prepared."""
    return data.get_spec(config.data.name, raw_dir=config.data.raw_dir, data_dir=config.data.dir)


def prepare_data(config: Any, *, verify: bool = False) -> data.Prepared:
    """The data set of a config, prepared on first use; see `data.prepare`."""
    places = {"raw_dir": config.data.raw_dir, "data_dir": config.data.dir}
    return data.prepare(config.data.name, **places, verify=verify)
