"""The table of the rollout's metrics. `collector.RolloutMetrics` registers it, and the docs show it. Pure.

Names follow Prometheus: the prefix `taper_`, base units in the name, `_total` for counters. Each label
has a closed set of values, and any other value is counted as `other`; `replica` has up to `MAX_REPLICAS`
numbers. No label names a request, a prompt or a step, so the number of series does not grow with the
length of a run.

A gain can be negative, and a counter cannot fall: gains are counted by `sign`. Their sum is the positive
part minus the negative one.

Invariants (asserted by `tests/rollout/metrics/test_definitions.py`):
- names follow those conventions and are unique;
- a replica has at most 3,300 series.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

from taper_api.job.rollout_spec import DEGREES
from taper_policy.profile.kv_choice import AUTO
from taper_rollout.events import StageProgress, StageRecord, Step, SwitchDone
from taper_rollout.switching.kv_mode import MIXED
from taper_rollout.switching.pause_phases import PHASES

# The kinds of events that metrics are computed from. Others need not be sent to the metrics host.
COUNTED_EVENTS = (StageProgress, SwitchDone, StageRecord, Step)

Kind = Literal["counter", "gauge", "histogram", "summary"]

OTHER = "other"
MAX_REPLICAS = 128

PAUSE_BUCKETS_SECONDS = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.15,
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    30.0,
)
STAGE_BUCKETS_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)
ERROR_BUCKETS_RATIO = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
REGRET_BUCKETS_RATIO = (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.2, 0.5, 1.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A label and its values. Without `values` it is the number of a replica."""

    name: str
    meaning: str
    values: tuple[str, ...] = ()


class Metric(NamedTuple):
    """One metric. `buckets` are the upper bounds of a histogram, without the infinite one."""

    kind: Kind
    name: str
    meaning: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()


_DEGREES = tuple(str(degree) for degree in DEGREES)

REPLICA = Label(name="replica", meaning=f"Number of the replica in the run; `{OTHER}` beyond {MAX_REPLICAS}")
FROM_DEGREE = Label(name="from_degree", meaning="TP degree before the switch", values=_DEGREES)
TO_DEGREE = Label(name="to_degree", meaning="TP degree after the switch", values=_DEGREES)
KV = Label(
    name="kv",
    meaning="How KV caches were handled; `auto`: undecided, as no request had any or no switch was made",
    values=("migrate", "recompute", MIXED, AUTO),
)
OUTCOME = Label(
    name="outcome",
    meaning="Outcome of the switch; `refused`: a rank refused, or the ranks' plans differed; `aborted`: a "
    "rank was late or failed; `advised`: recommended but not made (`mode: advise`)",
    values=("committed", "refused", "aborted", "advised"),
)
PHASE = Label(name="phase", meaning="Phase of the pause, in this order", values=PHASES)
SIGN = Label(
    name="sign", meaning="`positive` for a gain, `negative` for a loss", values=("positive", "negative")
)
LABELS = (REPLICA, FROM_DEGREE, TO_DEGREE, KV, OUTCOME, PHASE, SIGN)

# Of a switch, as far as its duration depends on it.
WAY = (REPLICA, FROM_DEGREE, TO_DEGREE, KV)

RUNNING_REQUESTS = Metric(
    "gauge", "taper_running_requests", "Requests in the running batch; 0 between stages.", (REPLICA,)
)
BATCH_SHRINK_RATIO = Metric(
    "gauge",
    "taper_batch_shrink_ratio",
    "Running requests divided by their maximum in this stage: 1 for a full batch, 0 at its end.",
    (REPLICA,),
)
LAYOUT_DEGREE = Metric(
    "gauge", "taper_layout_degree", "TP degree of the current layout, as last reported.", (REPLICA,)
)
FOOTPRINT_RANKS = Metric("gauge", "taper_footprint_ranks", "Number of ranks of the replica.", (REPLICA,))
GENERATION_STEP = Metric(
    "gauge",
    "taper_generation_step",
    "Training step of the current stage, or of the last one between stages.",
    (REPLICA,),
)
TRAINING_STEP = Metric(
    "gauge",
    "taper_training_step",
    "Last finished training step; missing if the trainer does not report its steps.",
)
STAGE_SECONDS = Metric(
    "histogram",
    "taper_stage_seconds",
    "Wall time of a generation stage, from its first request to its last response.",
    (REPLICA,),
    STAGE_BUCKETS_SECONDS,
)
IDLE_RANK_SECONDS = Metric(
    "counter",
    "taper_idle_rank_seconds_total",
    "Idle time of ranks during stages, in groups without a running request, summed over ranks.",
    (REPLICA,),
)
RESPONSES = Metric("counter", "taper_responses_total", "Responses generated in finished stages.", (REPLICA,))
RESPONSE_TOKENS = Metric(
    "counter", "taper_response_tokens_total", "Tokens of the responses of finished stages.", (REPLICA,)
)
SWITCHES = Metric(
    "counter", "taper_switches_total", "Switches by outcome.", (REPLICA, FROM_DEGREE, TO_DEGREE, OUTCOME, KV)
)
PAUSE_SECONDS = Metric(
    "histogram",
    "taper_pause_seconds",
    "Wall time between the last decode step before a committed switch and the first after it, "
    "of switches with running requests.",
    WAY,
    PAUSE_BUCKETS_SECONDS,
)
PAUSE_PHASE_SECONDS = Metric(
    "counter",
    "taper_pause_phase_seconds_total",
    "Total time of these pauses, split by phase.",
    (REPLICA, PHASE),
)
PREDICTED_PAUSE_SECONDS = Metric(
    "summary",
    "taper_predicted_pause_seconds",
    "Predicted durations of these pauses, of switches by the predictor.",
    WAY,
)
PAUSE_ERROR_RATIO = Metric(
    "histogram",
    "taper_pause_error_ratio",
    "Absolute difference between predicted and measured pause, divided by the measured one.",
    (REPLICA,),
    ERROR_BUCKETS_RATIO,
)
MOVED_BYTES = Metric(
    "counter", "taper_moved_bytes_total", "Bytes of KV cache that switches moved between ranks.", (REPLICA,)
)
RECOMPUTED_TOKENS = Metric(
    "counter",
    "taper_recomputed_tokens_total",
    "Tokens prefilled again after switches: all of a recomputed request, one of a migrated request.",
    (REPLICA,),
)
PREDICTED_GAIN_SECONDS = Metric(
    "counter",
    "taper_predicted_gain_seconds_total",
    "Predicted gain of switches; outcome `advised` for those that were recommended but not made.",
    (REPLICA, OUTCOME, SIGN),
)
GAIN_SECONDS = Metric(
    "counter",
    "taper_gain_seconds_total",
    "Measured gain of committed switches: how long the rest of the stage would have taken in the old "
    "layout, by the profile and the true lengths, minus how long it took. Counted at the end of the stage, "
    "if the replica has a profile.",
    (REPLICA, SIGN),
)
REGRET_RATIO = Metric(
    "histogram",
    "taper_regret_ratio",
    "Simulated time of a stage divided by that of the best plan, minus 1; below 0 counts as 0.",
    (REPLICA,),
    REGRET_BUCKETS_RATIO,
)
LAST_REGRET_RATIO = Metric(
    "gauge",
    "taper_last_regret_ratio",
    "Regret of the last stage; negative if the time of the best plan was overestimated.",
    (REPLICA,),
)

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
