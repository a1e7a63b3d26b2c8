"""The metrics of the rollout, as a table: `metrics.RolloutMetrics` registers it and the docs show it. Pure.

Names follow Prometheus: the prefix `taper_`, base units in the name, `_total` for what only
grows. A label has a closed set of values, and what is not among them is counted as `other`;
`replica` has the values that it has, up to `MAX_REPLICAS`. No label ever names a request, a
prompt or a step, so that a run of any length has the series of its first hours.

A gain can be a loss, and a counter cannot fall: gains are counted by `sign`, and their sum
is the positive part minus the negative one.

Invariants (asserted by `tests/rollout/metrics/test_definitions.py`):
- names keep to those conventions, and no two metrics share one;
- a replica has at most `MAX_SERIES_PER_REPLICA` series, whatever happens to it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from taper_api.job.rollout_spec import DEGREES
from taper_policy.profile.kv_choice import AUTO
from taper_rollout.switching.kv_mode import MIXED
from taper_rollout.switching.pause_phases import PHASES

# The kinds of events that metrics are made of: others need not be sent to whoever keeps them.
COUNTED_EVENTS = frozenset({"StageProgress", "SwitchDone", "StageRecord", "Step"})

Kind = Literal["counter", "gauge", "histogram", "summary"]

OTHER = "other"
MAX_REPLICAS = 128
# Counted with `other` at each label and with switches to the same degree: half of it is in reach.
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
    """A label and its values; without `values` it is a replica's number."""

    name: str
    meaning: str
    values: tuple[str, ...] = ()

    @property
    def max_values(self) -> int:
        """How many values a replica's series can have of it."""
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

REPLICA = Label(name="replica", meaning=f"Number of the replica in the run; past {MAX_REPLICAS}: `{OTHER}`")
FROM_DEGREE = Label(name="from_degree", meaning="TP degree before the switch", values=_DEGREES)
TO_DEGREE = Label(name="to_degree", meaning="TP degree after it", values=_DEGREES)
KV = Label(
    name="kv",
    meaning="What became of the KV cache; `auto`: nothing was chosen, as no request had any or no switch was "
    "made",
    values=("migrate", "recompute", MIXED, AUTO),
)
OUTCOME = Label(
    name="outcome",
    meaning="What became of the switch; `advised`: it was only said, as `mode: advise` asks",
    values=("committed", "refused", "aborted", "advised"),
)
PHASE = Label(name="phase", meaning="Part of the pause, in this order", values=PHASES)
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
    meaning="Running requests over the largest number of this stage: 1 for a full batch, near 0 in the tail.",
    labels=(REPLICA,),
)
LAYOUT_DEGREE = Metric(
    name="taper_layout_degree",
    kind="gauge",
    meaning="TP degree of the layout that was last told.",
    labels=(REPLICA,),
)
FOOTPRINT_RANKS = Metric(
    name="taper_footprint_ranks",
    kind="gauge",
    meaning="Ranks of the replica.",
    labels=(REPLICA,),
)
GENERATION_STEP = Metric(
    name="taper_generation_step",
    kind="gauge",
    meaning="Training step of the present stage, or of the last one.",
    labels=(REPLICA,),
)
TRAINING_STEP = Metric(
    name="taper_training_step",
    kind="gauge",
    meaning="Training step that was finished last; only where the trainer tells its steps.",
)
STAGE_SECONDS = Metric(
    name="taper_stage_seconds",
    kind="histogram",
    meaning="Wall time of a generation stage, from its first request to the end of its last.",
    labels=(REPLICA,),
    buckets=STAGE_BUCKETS_SECONDS,
)
IDLE_RANK_SECONDS = Metric(
    name="taper_idle_rank_seconds_total",
    kind="counter",
    meaning="Time that ranks spent in groups without a running request during a stage, added over ranks.",
    labels=(REPLICA,),
)
RESPONSES = Metric(
    name="taper_responses_total",
    kind="counter",
    meaning="Responses of finished stages.",
    labels=(REPLICA,),
)
RESPONSE_TOKENS = Metric(
    name="taper_response_tokens_total",
    kind="counter",
    meaning="Tokens of these responses.",
    labels=(REPLICA,),
)
SWITCHES = Metric(
    name="taper_switches_total",
    kind="counter",
    meaning="Switches, whatever became of them.",
    labels=(REPLICA, FROM_DEGREE, TO_DEGREE, OUTCOME, KV),
)
PAUSE_SECONDS = Metric(
    name="taper_pause_seconds",
    kind="histogram",
    meaning="Wall time between the last decode step before a committed switch and the first after it, "
    "where requests lived through it.",
    labels=(REPLICA, FROM_DEGREE, TO_DEGREE, KV),
    buckets=PAUSE_BUCKETS_SECONDS,
)
PAUSE_PHASE_SECONDS = Metric(
    name="taper_pause_phase_seconds_total",
    kind="counter",
    meaning="The same pauses, split by phase.",
    labels=(REPLICA, PHASE),
)
PREDICTED_PAUSE_SECONDS = Metric(
    name="taper_predicted_pause_seconds",
    kind="summary",
    meaning="What was predicted for these pauses, where it was.",
    labels=(REPLICA, FROM_DEGREE, TO_DEGREE, KV),
)
PAUSE_ERROR_RATIO = Metric(
    name="taper_pause_error_ratio",
    kind="histogram",
    meaning="Distance between predicted and measured pause over the measured one.",
    labels=(REPLICA,),
    buckets=ERROR_BUCKETS_RATIO,
)
MOVED_BYTES = Metric(
    name="taper_moved_bytes_total",
    kind="counter",
    meaning="KV cache that switches moved between ranks.",
    labels=(REPLICA,),
)
RECOMPUTED_TOKENS = Metric(
    name="taper_recomputed_tokens_total",
    kind="counter",
    meaning="Tokens that requests prefilled again after a switch: all of theirs where they are recomputed, "
    "one where they migrate.",
    labels=(REPLICA,),
)
PREDICTED_GAIN_SECONDS = Metric(
    name="taper_predicted_gain_seconds_total",
    kind="counter",
    meaning="What switches were predicted to save of their stages; `advised` ones are those not made.",
    labels=(REPLICA, OUTCOME, SIGN),
)
GAIN_SECONDS = Metric(
    name="taper_gain_seconds_total",
    kind="counter",
    meaning="What committed switches saved: what staying would have taken, by the profile and the true "
    "lengths, minus what the rest of the stage took. Counted at its end, where it could be measured.",
    labels=(REPLICA, SIGN),
)
REGRET_RATIO = Metric(
    name="taper_regret_ratio",
    kind="histogram",
    meaning="Time of a stage over that of the best possible plan, minus 1; one below 0 is counted as 0.",
    labels=(REPLICA,),
    buckets=REGRET_BUCKETS_RATIO,
)
LAST_REGRET_RATIO = Metric(
    name="taper_last_regret_ratio",
    kind="gauge",
    meaning="The regret of the last stage, as it was measured; below 0 the best plan was priced too high.",
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
