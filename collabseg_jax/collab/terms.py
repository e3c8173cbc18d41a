"""The table of losses between the students: the arrays that each takes, and what it needs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from collabseg_jax import losses
from collabseg_jax.collab import custom
from collabseg_jax.collab.view import View
from collabseg_jax.errors import InputError, unknown
from collabseg_jax.models.bridges import KINDS


@dataclasses.dataclass(frozen=True)
class Term:
    """One row of the table; it has either `loss` or `unreduced`.

    Attributes:
      arrays: from a View to the positional arguments of the function.
      loss: a pure loss of one student, a scalar.
      unreduced: the values of such a loss at each pixel and where they count, [B, H, W] both. It
        depends on single pixels alone and is given strips of rows; the objective takes the mean.
      needs: the kinds of cross features among the arrays, of `models.KINDS`.
      takes: further keyword arguments that the objective hands over: "teacher_correct" and "rng"
        (for a selector), "num_classes".
    """

    arrays: Callable[[View], tuple]
    loss: Callable[..., jax.Array] | None = None
    unreduced: Callable[..., tuple[jax.Array, jax.Array]] | None = None
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Choice:
    """A row of which one option says what is compared; the first is the default."""

    option: str
    terms: Mapping[str, Term]


_SELECTS = ("teacher_correct", "rng")

TERMS: dict[str, Term | Choice] = {
    "hfd": Term(lambda v: (v.crossed["hfd"], v.peer.f2), losses.hfd, needs=("hfd",)),
    "bsd_region": Choice(
        "space",
        {
            "common": Term(
                lambda v: (
                    *(v.crossed["common"], v.peer.crossed["common"]),
                    *(v.ce, v.peer.ce, v.valid),
                ),
                losses.bsd_region,
                needs=("common",),
                takes=_SELECTS,
            ),
            "teacher": Term(
                lambda v: (v.crossed["to_peer"], v.peer.f4, v.ce, v.peer.ce, v.valid),
                losses.bsd_region,
                needs=("to_peer",),
                takes=_SELECTS,
            ),
        },
    ),
    "bsd_pixel": Term(
        lambda v: (v.logits, v.peer.logits, v.ce, v.peer.ce, v.valid),
        unreduced=losses.bsd_pixel_map,
        takes=_SELECTS,
    ),
    "dml": Term(lambda v: (v.logits, v.peer.logits, v.valid), unreduced=losses.dml_map),
    "kd_mutual": Term(lambda v: (v.head_logits, v.peer.head_logits, v.valid), losses.kd_mutual),
    "kdcl": Term(
        lambda v: (v.logits, v.peer.logits, v.ce, v.peer.ce, v.labels, v.valid),
        unreduced=losses.kdcl_map,
    ),
    "dist": Term(lambda v: (v.logits, v.peer.logits, v.valid), losses.dist),
    "cwd": Choice(
        "on",
        {
            "logits": Term(lambda v: (v.logits, v.peer.logits, v.valid), losses.cwd),
            "features": Term(
                lambda v: (v.crossed["to_peer"], v.peer.f4, v.valid),
                losses.cwd,
                needs=("to_peer",),
            ),
        },
    ),
    "at": Term(lambda v: (v.f4, v.peer.f4, v.valid), losses.at),
    "fitnet": Term(
        lambda v: (v.crossed["to_peer"], v.peer.f4, v.valid), losses.fitnet, needs=("to_peer",)
    ),
    "mgd": Term(lambda v: (v.crossed["mgd"], v.peer.f4, v.valid), losses.mgd, needs=("mgd",)),
    "skd": Term(lambda v: (v.f4, v.peer.f4, v.valid), losses.skd),
    "ifvd": Term(
        lambda v: (v.f4, v.peer.f4, v.labels, v.valid), losses.ifvd, takes=("num_classes",)
    ),
    "cirkd": Term(
        lambda v: (v.f4, v.peer.f4, v.labels, v.valid), losses.cirkd, takes=("num_classes",)
    ),
}
NAMES = (*TERMS, "custom")


def find_term(name: str, options: Mapping[str, Any]) -> tuple[Term, dict[str, Any]]:
    """The term of one of `NAMES`, and its options without the one that chose it.

    Raises:
      InputError: an unknown choice; a custom loss without a name, or whose needs are unknown.
    """
    options = dict(options)
    if name == "custom":
        return _custom(**options), {}
    row = TERMS[name]
    if isinstance(row, Term):
        return row, options
    chosen = options.pop(row.option, next(iter(row.terms)))
    if chosen not in row.terms:
        raise unknown(f"losses.{name}.{row.option}", chosen, row.terms)
    return row.terms[chosen], options


def _custom(fn: str, needs: str = "") -> Term:
    """The user's own loss; imported when it is first called, for only training needs it."""
    kinds = tuple(kind.strip() for kind in needs.split(",") if kind.strip())
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("losses.custom.needs", kind, KINDS)
    if not fn:
        raise InputError(
            "losses.custom.fn is empty, expected package.module:function or "
            "path/to/file.py:function, or losses.custom.weight=0"
        )

    def loss(view: View) -> jax.Array:
        value = custom.load(fn)(view)
        if not hasattr(value, "dtype") or jnp.ndim(value) != 0:
            what = f"an array of shape {value.shape}" if hasattr(value, "shape") else repr(value)
            raise InputError(f"losses.custom.fn={fn} returned {what}, expected a scalar array")
        return value.astype(jnp.promote_types(value.dtype, jnp.float32))

    return Term(lambda view: (view,), loss, needs=kinds)
