"""What teaching consists of and whether the features it compares still tell anything apart.

Observations only: nothing here is minimised, and no gradient flows through it.
"""

import jax
import jax.numpy as jnp

from collabseg_jax import losses


def spread(features: jax.Array) -> dict[str, jax.Array]:
    """How much a map still tells apart: a collapse of the projections shows here first.

    Args:
      features: [B, h, w, C].

    Returns:
      "std": mean over channels of the standard deviation over positions; "rank": the effective
      rank tr(S)^2 / tr(S^2) of the channel covariance S, in [1, C]; 0 of a map that is constant.
    """
    flat = jax.lax.stop_gradient(features).reshape(-1, features.shape[-1]).astype(jnp.float32)
    centred = flat - flat.mean(0)
    covariance = centred.T @ centred / flat.shape[0]
    trace = jnp.trace(covariance)
    share = covariance / jnp.where(trace > 0, trace, 1.0)  # whose square does not underflow
    rank = jnp.where(trace > 0, 1 / jnp.sum(share**2), 0.0)
    return {"std": jnp.sqrt(jnp.diag(covariance)).mean(), "rank": rank}


def teaching(
    ce: jax.Array,
    peer_ce: jax.Array,
    correct: jax.Array,
    peer_correct: jax.Array,
    valid: jax.Array,
    *,
    grid: tuple[int, ...],
) -> dict[str, jax.Array]:
    """Where the peer teaches by the rule `lower_ce`, and who is right there.

    Args:
      ce: the learner's cross-entropy, [B, H, W] float32, nats.
      peer_ce: the peer's.
      correct: [B, H, W] bool, the learner's most probable class is the label.
      peer_correct: the same of the peer.
      valid: [B, H, W] bool.
      grid: (h, w) of the regions, as in `losses.bsd_region`.

    Returns:
      scalars: "taught", the share of valid pixels where the peer's cross-entropy is lower; of just
      these pixels the share where the teacher is right ("teacher_correct"), and the four shares
      "taught_right_wrong" (teacher right, learner wrong), "taught_right_right",
      "taught_wrong_wrong", "taught_wrong_right", which sum to 1; "regions_taught", the share of
      regions with a valid pixel whose mean cross-entropy is lower for the peer; of the valid pixels
      of an average one of them, the shares that are right: "regions_teacher_correct",
      "regions_learner_correct". A share of nothing is 0.
    """
    taught = losses.select_where("lower_ce", ce, peer_ce, valid)
    observed = {
        "taught": losses.masked_mean(taught, valid),
        "teacher_correct": losses.masked_mean(peer_correct, taught),
    }
    for teacher, right in (("right", peer_correct), ("wrong", ~peer_correct)):
        for learner, too in (("wrong", ~correct), ("right", correct)):
            observed[f"taught_{teacher}_{learner}"] = losses.masked_mean(right & too, taught)
    own, has_valid = losses.cell_mean(ce, valid, grid)
    peers, _ = losses.cell_mean(peer_ce, valid, grid)
    regions = losses.select_where("lower_ce", own, peers, has_valid)
    observed["regions_taught"] = losses.masked_mean(regions, has_valid)
    for who, right in (("teacher", peer_correct), ("learner", correct)):
        share, _ = losses.cell_mean(right, valid, grid)
        observed[f"regions_{who}_correct"] = losses.masked_mean(share, regions)
    return observed
