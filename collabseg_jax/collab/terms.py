"""The table of losses between the students: the arrays that each takes, and what it needs."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collabseg_jax import losses
from collabseg_jax.collab import custom
from collabseg_jax.errors import InputError, unknown


class Pixels(NamedTuple):
    """What a learner sees of some rows of pixels; the fields are those of `View`."""

    logits: jax.Array
    peer_logits: jax.Array
    ce: jax.Array
    peer_ce: jax.Array
    labels: jax.Array
    valid: jax.Array
    peer_correct: jax.Array


class View(NamedTuple):
    """What one student (the learner) sees of itself and of its peer (the teacher).

    The losses stop what is the peer's; for a custom loss it is stopped already. The last five are
    None unless some term needs their kind (named in brackets).

    Attributes:
      logits, peer_logits: [B, H, W, K] float32, at label resolution.
      head_logits, peer_head_logits: [B, h, w, K] float32, at the learner's head's own resolution.
      ce, peer_ce: [B, H, W] float32, cross-entropy in nats, 0 where not valid.
      labels: [B, H, W] integer, 255 where not valid.
      valid: [B, H, W] bool.
      peer_correct: [B, H, W] bool, the peer's most probable class is the label.
      f4, peer_f4: last features, [B, h, w, C] each with its own grid and channels.
      peer_f2: the peer's second features.
      borrowed: the learner's first features through the peer's second stage, like peer_f2 ["hfd"].
      common, peer_common: last features in one shape, float32 ["common"].
      to_peer: the learner's last features in the shape of peer_f4 ["to_peer"].
      generated: the same, masked at random and completed by a generator ["mgd"].
    """

    logits: jax.Array
    peer_logits: jax.Array
    head_logits: jax.Array
    peer_head_logits: jax.Array
    ce: jax.Array
    peer_ce: jax.Array
    labels: jax.Array
    valid: jax.Array
    peer_correct: jax.Array
    f4: jax.Array
    peer_f4: jax.Array
    peer_f2: jax.Array
    borrowed: jax.Array | None = None
    common: jax.Array | None = None
    peer_common: jax.Array | None = None
    to_peer: jax.Array | None = None
    generated: jax.Array | None = None


KINDS = ("common", "hfd", "mgd", "to_peer")  # of what crosses between the students


@dataclasses.dataclass(frozen=True)
class Term:
    """One row of the table.

    Attributes:
      loss: a pure loss of one student; None if there is `unreduced`.
      arrays: from a View (from Pixels for `unreduced`) to its positional arguments.
      unreduced: the values of a loss and where they count; it is given strips of rows.
      needs: the kinds of cross features among them, of `KINDS`.
      takes: further keyword arguments that the objective hands over: "teacher_correct" and "rng"
        (for a selector), "num_classes".
      of_pair: keys of its config row that `pair.build` takes instead of the loss.
    """

    loss: Callable | None
    arrays: Callable[[View], tuple]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    of_pair: tuple[str, ...] = ()
    unreduced: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """A row of which one option says what is compared; the first is the default."""

    option: str
    terms: dict[str, Term]


_SELECTS = ("teacher_correct", "rng")


def _region(arrays, kind) -> Term:
    return Term(losses.bsd_region, arrays, (kind,), _SELECTS)


TERMS = {
    "hfd": Term(
        losses.hfd, lambda v: (v.borrowed, v.peer_f2), ("hfd",), of_pair=("borrowed_grad",)
    ),
    "bsd_region": Choice(
        "space",
        {
            "common": _region(
                lambda v: (v.common, v.peer_common, v.ce, v.peer_ce, v.valid), "common"
            ),
            "teacher": _region(
                lambda v: (v.to_peer, v.peer_f4, v.ce, v.peer_ce, v.valid), "to_peer"
            ),
        },
    ),
    "bsd_pixel": Term(
        None,
        lambda v: (v.logits, v.peer_logits, v.ce, v.peer_ce, v.valid),
        takes=_SELECTS,
        unreduced=losses.bsd_pixel_map,
    ),
    "dml": Term(None, lambda v: (v.logits, v.peer_logits, v.valid), unreduced=losses.dml_map),
    "kd_mutual": Term(losses.kd_mutual, lambda v: (v.head_logits, v.peer_head_logits, v.valid)),
    "kdcl": Term(
        None,
        lambda v: (v.logits, v.peer_logits, v.ce, v.peer_ce, v.labels, v.valid),
        unreduced=losses.kdcl_map,
    ),
    "dist": Term(losses.dist, lambda v: (v.logits, v.peer_logits, v.valid)),
    "cwd": Choice(
        "on",
        {
            "logits": Term(losses.cwd, lambda v: (v.logits, v.peer_logits, v.valid)),
            "features": Term(losses.cwd, lambda v: (v.to_peer, v.peer_f4, v.valid), ("to_peer",)),
        },
    ),
    "at": Term(losses.at, lambda v: (v.f4, v.peer_f4, v.valid)),
    "fitnet": Term(losses.fitnet, lambda v: (v.to_peer, v.peer_f4, v.valid), ("to_peer",)),
    "mgd": Term(
        losses.mgd, lambda v: (v.generated, v.peer_f4, v.valid), ("mgd",), of_pair=("mask_ratio",)
    ),
    "skd": Term(losses.skd, lambda v: (v.f4, v.peer_f4, v.valid)),
    "ifvd": Term(
        losses.ifvd, lambda v: (v.f4, v.peer_f4, v.labels, v.valid), takes=("num_classes",)
    ),
    "cirkd": Term(
        losses.cirkd, lambda v: (v.f4, v.peer_f4, v.labels, v.valid), takes=("num_classes",)
    ),
}


NAMES = (*TERMS, "custom")
OF_PAIR = {name: term.of_pair for name, term in TERMS.items() if isinstance(term, Term)}


def find(name: str, options: dict) -> tuple[Term, dict]:
    """The term of one of `NAMES`, and its options without the one that chose it.

    Raises:
      ValueError: an unknown choice; a custom loss without a name, or whose needs are unknown.
    """
    if name == "custom":
        return _custom(**options), {}
    row = TERMS[name]
    if isinstance(row, Term):
        return row, options
    options = dict(options)
    chosen = options.pop(row.option, next(iter(row.terms)))
    if chosen not in row.terms:
        raise unknown(f"losses.{name}.{row.option}", chosen, row.terms)
    return row.terms[chosen], options


def _custom(fn: str, needs: str = "") -> Term:
    """The user's own loss; imported when it is first called, for only training needs it."""
    needs = tuple(kind.strip() for kind in needs.split(",") if kind.strip())
    for kind in needs:
        if kind not in KINDS:
            raise unknown("losses.custom.needs", kind, KINDS)
    if not fn:
        raise InputError(
            "losses.custom.fn is empty, expected package.module:function or "
            "path/to/file.py:function, or losses.custom.weight=0"
        )

    def call(view):
        view = view._replace(
            **{k: jax.lax.stop_gradient(v) for k, v in view._asdict().items() if k[:5] == "peer_"}
        )
        value = custom.load(fn)(view)
        if not hasattr(value, "dtype") or jnp.ndim(value) != 0:
            found = f"an array of shape {value.shape}" if hasattr(value, "shape") else repr(value)
            raise InputError(f"losses.custom.fn={fn} returned {found}, expected a scalar array")
        return value.astype(jnp.float32)

    return Term(call, lambda view: (view,), needs)
