"""The table of the rollout's metrics. `collector.RolloutMetrics` registers it, and the docs show it. Pure.

Names follow Prometheus: the prefix `taper_`, base units in the name, `_total` for counters. Each label
has a closed set of values, and any other value is counted as `other`; `replica` has up to `MAX_REPLICAS`
numbers. No label names a request, a prompt or a step, so the number of series does not grow with the
length of a run.

A gain can be negative, and a counter cannot fall: gains are counted by `sign`. Their sum is the positive
part minus the negative one.

Invariants (asserted by `tests/rollout/metrics/test_definitions.py`):
- names follow those conventions and are unique;
- a replica has at most `MAX_SERIES_PER_REPLICA` series.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

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
# An upper bound: it counts `other` for each label, and switches to the same degree.
MAX_SERIES_PER_REPLICA = 3_300

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

    @property
    def max_values(self) -> int:
        """How many values the label can have within the series of one replica."""
        return len(self.values) + 1 if self.values else 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. `buckets` are the upper bounds of a histogram, without the infinite one."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def max_series_per_replica(self) -> int:
        """Series of one replica when every label takes every value."""
        each = {"histogram": len(self.buckets) + 3, "summary": 2}.get(self.kind, 1)
        return math.prod(label.max_values for label in self.labels) * each


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

RUNNING_REQUESTS = Metric(
    name="taper_running_requests",
    kind="gauge",
    meaning="Requests in the running batch; 0 between stages.",
    labels=(REPLICA,),
)
BATCH_SHRINK_RATIO = Metric(
    name="taper_batch_shrink_ratio",
    kind="gauge",
    meaning="Running requests divided by their maximum in this stage: 1 for a full batch, 0 at its end.",
    labels=(REPLICA,),
)
LAYOUT_DEGREE = Metric(
    name="taper_layout_degree",
    kind="gauge",
    meaning="TP degree of the current layout, as last reported.",
    labels=(REPLICA,),
)
FOOTPRINT_RANKS = Metric(
    name="taper_footprint_ranks",
    kind="gauge",
    meaning="Number of ranks of the replica.",
    labels=(REPLICA,),
)
GENERATION_STEP = Metric(
    name="taper_generation_step",
    kind="gauge",
    meaning="Training step of the current stage, or of the last one between stages.",
    labels=(REPLICA,),
)
TRAINING_STEP = Metric(
    name="taper_training_step",
    kind="gauge",
    meaning="Last finished training step; missing if the trainer does not report its steps.",
)
STAGE_SECONDS = Metric(
    name="taper_stage_seconds",
    kind="histogram",
    meaning="Wall time of a generation stage, from its first request to its last response.",
    labels=(REPLICA,),
    buckets=STAGE_BUCKETS_SECONDS,
)
IDLE_RANK_SECONDS = Metric(
    name="taper_idle_rank_seconds_total",
    kind="counter",
    meaning="Idle time of ranks during stages, in groups without a running request, summed over ranks.",
    labels=(REPLICA,),
)
RESPONSES = Metric(
    name="taper_responses_total",
    kind="counter",
    meaning="Responses generated in finished stages.",
    labels=(REPLICA,),
)
RESPONSE_TOKENS = Metric(
    name="taper_response_tokens_total",
    kind="counter",
    meaning="Tokens of the responses of finished stages.",
    labels=(REPLICA,),
)
SWITCHES = Metric(
    name="taper_switches_total",
    kind="counter",
    meaning="Switches by outcome.",
    labels=(REPLICA, FROM_DEGREE, TO_DEGREE, OUTCOME, KV),
)
PAUSE_SECONDS = Metric(
    name="taper_pause_seconds",
    kind="histogram",
    meaning="Wall time between the last decode step before a committed switch and the first after it, "
    "of switches with running requests.",
    labels=(REPLICA, FROM_DEGREE, TO_DEGREE, KV),
    buckets=PAUSE_BUCKETS_SECONDS,
)
PAUSE_PHASE_SECONDS = Metric(
    name="taper_pause_phase_seconds_total",
    kind="counter",
    meaning="Total time of these pauses, split by phase.",
    labels=(REPLICA, PHASE),
)
PREDICTED_PAUSE_SECONDS = Metric(
    name="taper_predicted_pause_seconds",
    kind="summary",
    meaning="Predicted durations of these pauses, of switches by the predictor.",
    labels=(REPLICA, FROM_DEGREE, TO_DEGREE, KV),
)
PAUSE_ERROR_RATIO = Metric(
    name="taper_pause_error_ratio",
    kind="histogram",
    meaning="Absolute difference between predicted and measured pause, divided by the measured one.",
    labels=(REPLICA,),
    buckets=ERROR_BUCKETS_RATIO,
)
MOVED_BYTES = Metric(
    name="taper_moved_bytes_total",
    kind="counter",
    meaning="Bytes of KV cache that switches moved between ranks.",
    labels=(REPLICA,),
)
RECOMPUTED_TOKENS = Metric(
    name="taper_recomputed_tokens_total",
    kind="counter",
    meaning="Tokens prefilled again after switches: all of a recomputed request, one of a migrated request.",
    labels=(REPLICA,),
)
PREDICTED_GAIN_SECONDS = Metric(
    name="taper_predicted_gain_seconds_total",
    kind="counter",
    meaning="Predicted gain of switches; outcome `advised` for those that were recommended but not made.",
    labels=(REPLICA, OUTCOME, SIGN),
)
GAIN_SECONDS = Metric(
    name="taper_gain_seconds_total",
    kind="counter",
    meaning="Measured gain of committed switches: how long the rest of the stage would have taken in the old "
    "layout, by the profile and the true lengths, minus how long it took. Counted at the end of the stage, "
    "if the replica has a profile.",
    labels=(REPLICA, SIGN),
)
REGRET_RATIO = Metric(
    name="taper_regret_ratio",
    kind="histogram",
    meaning="Simulated time of a stage divided by that of the best plan, minus 1; below 0 counts as 0.",
    labels=(REPLICA,),
    buckets=REGRET_BUCKETS_RATIO,
)
LAST_REGRET_RATIO = Metric(
    name="taper_last_regret_ratio",
    kind="gauge",
    meaning="Regret of the last stage; negative if the time of the best plan was overestimated.",
    labels=(REPLICA,),
)

METRICS = (
    RUNNING_REQUESTS,
    BATCH_SHRINK_RATIO,
    LAYOUT_DEGREE,
    FOOTPRINT_RANKS,
    GENERATION_STEP,
    TRAINING_STEP,
    STAGE_SECONDS,
    IDLE_RANK_SECONDS,
    RESPONSES,
    RESPONSE_TOKENS,
    SWITCHES,
    PAUSE_SECONDS,
    PAUSE_PHASE_SECONDS,
    PREDICTED_PAUSE_SECONDS,
    PAUSE_ERROR_RATIO,
    MOVED_BYTES,
    RECOMPUTED_TOKENS,
    PREDICTED_GAIN_SECONDS,
    GAIN_SECONDS,
    REGRET_RATIO,
    LAST_REGRET_RATIO,
)
