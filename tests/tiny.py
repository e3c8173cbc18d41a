"""The smallest pair that has all parts of a real one, so that whole steps compile in seconds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from collabseg_jax import models
from collabseg_jax.collab import objective, optim, pair, programs, sharding, state
from collabseg_jax.configs import quickstart
from collabseg_jax.models.bridges import Bridges
from collabseg_jax.models.layers import Conv, ConvNorm, LayerNorm, drop_path
from collabseg_jax.models.outputs import SegOutput
from collabseg_jax.report import charts
from collabseg_jax.run import build

CLASSES = 3
CHANNELS = {"cnn": (4, 6, 6, 8), "vit": (5, 7, 7, 9)}
FULL = {
    "ce": {"weight": 1.0},
    "hfd": {"weight": 0.3, "divergence": "cosine"},
    "bsd_region": {"weight": 0.5, "divergence": "kl_ln", "select": "lower_ce"},
    "bsd_pixel": {"weight": 0.3, "temperature": 1.0, "select": "lower_ce"},
}


class Student(nn.Module):
    """Four stages at strides 4, 8, 16, 16 or 32, with the contract and options of a student."""

    encoder: str
    num_classes: int = CLASSES
    output_stride: int = 16
    decoder: str = "paper"
    atrous_rates: tuple = ()
    separable: bool = True
    stem: str = "7x7"
    stride_in: str = "3x3"
    head: str = "folded"
    width: int = 0
    align_corners: bool = False
    layer_norm_eps: float = 1e-5
    bn_eps: float = 1e-5
    bn_momentum: float = 0.9
    dropout: float = 0.1
    dropout_kind: str = "channel"
    drop_path: float = 0.1
    remat: bool = False
    dtype: object = jnp.float32

    @property
    def stage_channels(self):
        return CHANNELS[self.encoder]

    def setup(self):
        strides = (4, 2, 2, 1 if self.encoder == "cnn" else 2)
        made = []
        for i, (channels, stride) in enumerate(zip(self.stage_channels, strides, strict=True)):
            if self.encoder == "cnn":
                made.append(ConvNorm(channels, 3, stride, name=f"stage{i + 1}"))
            else:
                made.append(
                    Conv(channels, 3, stride, use_bias=True, dtype=self.dtype, name=f"stage{i + 1}")
                )
        self.made = made
        self.norm = LayerNorm(1e-6)
        self.classifier = Conv(self.num_classes, use_bias=True)

    def stage(self, i, features, *, batch_stats=True, drop=False):
        if self.encoder == "cnn":
            return self.made[i - 1](features, batch_stats=batch_stats)
        y = jnp.tanh(self.made[i - 1](features))
        return drop_path(y, self.drop_path, self.make_rng("dropout")) if drop else y

    def __call__(self, images, *, train):
        x, stages = images, []
        for i in range(1, 5):
            x = self.stage(i, x, batch_stats=train, drop=train)
            stages.append(x)
        embedding = self.norm(stages[0])
        return SegOutput(tuple(stages), embedding, self.classifier(embedding))


def make_pair(needs=("common", "hfd"), **options):
    cnn, vit = Student("cnn"), Student("vit")
    bridges = None
    if needs:
        bridges = Bridges(cnn.stage_channels, vit.stage_channels, tuple(needs), common_channels=6)
    return pair.Pair(cnn, vit, bridges, tuple(needs), **options)


def init(made):
    """`pair.init` as one program, compiled in a tenth of the time that optimising it takes."""
    fn = functools.partial(pair.init, made, size=(32, 32))
    quick = {"xla_backend_optimization_level": 0}
    return jax.jit(fn, compiler_options=quick)(jax.random.key(0))


def make_optimizers(kind="sgd", lr=0.1, clip_norm=1.0):
    return {
        name: optim.build_optimizer(kind, lr=lr, steps=100, clip_norm=clip_norm)
        for name in ("cnn", "vit", "bridges")
    }


def make_batch(size=4, shape=(32, 48), seed=0):
    """Images whose class is their colour, with some ignored pixels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, (size, shape[0] // 8, shape[1] // 8)).astype(np.uint8)
    label = label.repeat(8, 1).repeat(8, 2)
    image = (label[..., None] * 80 + rng.integers(0, 40, (*label.shape, 3))).astype(np.uint8)
    label[rng.random(label.shape) < 0.05] = 255
    return {"image": image, "label": label, "valid": np.ones(size, bool)}


def make_run(
    table=None, *, batch_size=4, data=1, space=1, optimizer="sgd", lr=0.1, ramp_steps=0, frozen=()
):
    """(state, jitted step, layout of batches) of a tiny run."""
    goal = objective.build_objective(table or FULL, ramp_steps=ramp_steps, frozen=frozen)
    made = make_pair(goal.needs, frozen=frozen)
    optimizers = {k: tx for k, tx in make_optimizers(optimizer, lr).items() if k not in frozen}
    mesh = sharding.make_mesh(data, space, devices=jax.devices()[: data * space])
    layout = sharding.train_layout(mesh, batch_size=batch_size, crop=(32, 48))
    variables = init(made)
    created = jax.device_put(
        state.create_state(variables, optimizers, jax.random.key(1)), sharding.replicated(mesh)
    )
    fn = programs.jit_train_step(
        layout, pair=made, objective=goal, optimizers=optimizers, jitter={}
    )
    return created, fn, layout


def install(monkeypatch=None, *, teaching=False):
    """Make "tiny_cnn" and "tiny_vit" known by name, for whole runs from a config.

    And leave teaching.png of these runs empty unless asked: to draw it takes longer than a run.
    """
    setitem = monkeypatch.setitem if monkeypatch else dict.__setitem__
    setitem(models.MODELS, "tiny_cnn", (Student, "cnn"))
    setitem(models.MODELS, "tiny_vit", (Student, "vit"))
    if not teaching:
        (monkeypatch.setattr if monkeypatch else setattr)(
            charts, "draw_teaching", lambda path, logs: path.touch()
        )


def make_config(data_dir, **overrides):
    """The quickstart with tiny students and a dozen steps."""
    config = quickstart.get_config()
    config.steps, config.batch_size = 12, 4
    config.data.dir, config.data.crop = str(data_dir), (32, 32)
    config.cnn.model, config.vit.model = "tiny_cnn", "tiny_vit"
    config.eval.every, config.checkpoint.every, config.log.every = 6, 4, 2
    config.log.samples = 1
    config.update_from_flattened_dict(overrides)
    return config


def trained_arrays(workdir, config):
    """All that is trained, and the step, from the newest checkpoint."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    trained = build.make_run(config, mesh=mesh).restore(workdir)
    return jax.device_get({k: getattr(trained, k) for k in ("cnn", "vit", "bridges", "step")})
