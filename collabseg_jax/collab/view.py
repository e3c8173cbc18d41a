"""What one student sees of itself and of its peer when a loss is computed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from collabseg_jax.collab.pair import STUDENTS, PairOutput, peer_of
from collabseg_jax.labels import IGNORE


class Peer(NamedTuple):
    """What a learner sees of its teacher; no gradient flows into any of it.

    Attributes: as those of `View`, of the peer.
    """

    logits: jax.Array
    ce: jax.Array
    correct: jax.Array
    head_logits: jax.Array | None = None
    f2: jax.Array | None = None
    f4: jax.Array | None = None
    crossed: Mapping[str, jax.Array] = {}


class View(NamedTuple):
    """What one student (the learner) sees of itself and of its peer (the teacher).

    The losses of single pixels are given strips of rows, and of these the first six attributes.

    Attributes:
      logits: [B, H, W, K] float32, at label resolution.
      ce: [B, H, W] float32, cross-entropy in nats, 0 where not valid.
      correct: [B, H, W] bool, the most probable class is the label.
      labels: [B, H, W] integer, 255 where not valid.
      valid: [B, H, W] bool.
      peer: the teacher, stopped.
      head_logits: [B, h, w, K] float32, at the head's own resolution; those of the peer at the
        learner's.
      f2: second features, [B, h, w, C].
      f4: last features, [B, h, w, C]; each student's with its own grid and channels.
      crossed: {kind: features} of the kinds that some term needs, see `PairOutput.crossed`.
    """

    logits: jax.Array
    ce: jax.Array
    correct: jax.Array
    labels: jax.Array
    valid: jax.Array
    peer: Peer
    head_logits: jax.Array | None = None
    f2: jax.Array | None = None
    f4: jax.Array | None = None
    crossed: Mapping[str, jax.Array] = {}


def make_views(output: PairOutput, pixels: Mapping[str, Any], labels: jax.Array) -> dict[str, View]:
    """{learner: its View}.

    Args:
      output: of `pair.forward`.
      pixels: {"ce": {student: [B, H, W]}, "correct": {student: [B, H, W] bool}}.
      labels: [B, H, W] integer, 255 = ignore.
    """
    size = labels.shape[1:3]
    # Whole only if some term takes them; else the compiler leaves them out.
    logits = {name: output.students[name].logits_at(size) for name in STUDENTS}
    crossed = {
        name: {kind: features[name] for kind, features in output.crossed.items()}
        for name in STUDENTS
    }
    views = {}
    for name, peer in ((name, peer_of(name)) for name in STUDENTS):
        own, other = output.students[name], output.students[peer]
        teacher = Peer(
            logits=logits[peer],
            ce=pixels["ce"][peer],
            correct=pixels["correct"][peer],
            head_logits=other.logits_at(own.logits.shape[1:3]),
            f2=other.stages[1],
            f4=other.stages[3],
            crossed=crossed[peer],
        )
        views[name] = View(
            logits=logits[name],
            ce=pixels["ce"][name],
            correct=pixels["correct"][name],
            labels=labels,
            valid=labels != IGNORE,
            peer=jax.lax.stop_gradient(teacher),
            head_logits=own.logits,
            f2=own.stages[1],
            f4=own.stages[3],
            crossed=crossed[name],
        )
    return views
