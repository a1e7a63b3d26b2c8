"""One generation stage of a replica: collected while it happens, and its record afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from taper_policy.decision.correction import Correction
from taper_policy.decision.pricing import Prices
from taper_policy.forecast.forecast import LiveRequest
from taper_policy.review.remaining import RemainingRequest, remaining_seconds
from taper_rollout.events import BatchSample, RequestRecord, StageProgress, StageRecord, SwitchRecord
from taper_rollout.replica.progress_throttle import ProgressThrottle
from taper_rollout.shared_memory.rank_record import LiveRecord, RecordReader, new_group_steps
from taper_rollout.switching.figures import MovedRequest

log = logging.getLogger("taper.stage")


def prompt_digest(prompt_ids: list[int]) -> str:
    """A short name for a prompt, equal for equal token ids."""
    return hashlib.blake2b(repr(prompt_ids).encode(), digest_size=8).hexdigest()


def request_seed(seed: int, step: int, prompt: str, sample: int) -> int:
    """A request's sampling seed: a pure function of the job's seed, step, prompt and sample."""
    digest = hashlib.blake2b(f"{seed}/{step}/{prompt}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A request that has ended, and the group that it ended in; None where that is not known."""

    record: RequestRecord
    group: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A switch and its live requests."""

    record: SwitchRecord
    live: Sequence[MovedRequest]


class Stage:
    """Collects what happens between the first request and the end of a stage."""

    def __init__(self, num_ranks: int, base_degree: int) -> None:
        self.num_ranks, self.base_degree = num_ranks, base_degree
        self.started_at = time.time()
        self.requests: list[RequestRecord] = []
        self.switches: list[SwitchRecord] = []
        self.failed_attempts = 0
        self.longest_tokens = 0
        self.prefilled_tokens = 0
        self.correction = Correction()
        self.throttle = ProgressThrottle()
        self.samples: list[BatchSample] = []
        self.ended: dict[str, Ended] = {}
        self._moments: list[Moment] = []
        self._prefilled_before: tuple[int, ...] | None = None
        self._live: dict[int, tuple[str, int]] = {}
        self._siblings: Counter[str] = Counter()

    def open(self, degree: int) -> None:
        """The first layout is in place: samples from before are dropped."""
        self.base_degree = degree
        self.samples.clear()

    def next_sample(self, prompt: str) -> int:
        """The index of this request among those of its prompt."""
        self._siblings[prompt] += 1
        return self._siblings[prompt] - 1

    @contextlib.contextmanager
    def live(self, number: int, *, prompt: str, prompt_tokens: int) -> Iterator[None]:
        """While the body runs, the engine serves a request of this stage under `number`."""
        self._live[number] = (prompt, prompt_tokens)
        try:
            yield
        finally:
            del self._live[number]

    def progress(self, sample: BatchSample, *, replica: int, step: int) -> StageProgress:
        """The stage's progress at the time of `sample`."""
        return StageProgress(
            replica=replica,
            step=step,
            running=sum(sample.running),
            finished=len(self.requests),
            degree=sample.degree,
            num_ranks=self.num_ranks,
        )

    def live_requests(self, groups: Iterable[Iterable[LiveRecord]]) -> tuple[LiveRequest, ...] | None:
        """The requests that the ranks' records list, group after group, in the predictor's terms.

        None where a record lists a request that is not of this stage.
        """
        rows = [(group, one) for group, records in enumerate(groups) for one in records]
        if any(one.number not in self._live for _, one in rows):
            return None
        return tuple(
            LiveRequest(
                rid=str(one.number),
                prompt=self._live[one.number][0],
                group=group,
                prompt_tokens=self._live[one.number][1],
                decoded_tokens=one.decoded_tokens,
            )
            for group, one in rows
        )

    def observe(self, sample: BatchSample, *, longest_tokens: int) -> None:
        """Keep a sample where something changed."""
        self.longest_tokens = longest_tokens
        last = self.samples[-1] if self.samples else None
        if last is None or dataclasses.replace(sample, at=last.at) != last:
            self.samples.append(sample)

    def start_counting(self, readers: Sequence[RecordReader]) -> None:
        """What the ranks did before the stage's first request, such as a profile's, does not count."""
        records = [reader.read() for reader in readers]
        self.count_prefills([record.prefilled_tokens_total for record in records])
        new_group_steps(readers, records)

    def count_prefills(self, totals: Sequence[int]) -> None:
        """Each rank's `prefilled_tokens_total`; call it first before the stage's first request.

        `prefilled_tokens` is the most that any rank prefilled in the stage's first layout: what a switch
        makes the ranks prefill again is part of its pause.
        """
        if self._prefilled_before is None:
            self._prefilled_before = tuple(totals)
        if not any(moment.record.outcome == "committed" for moment in self._moments):
            pairs = zip(totals, self._prefilled_before, strict=True)
            self.prefilled_tokens = max(now - before for now, before in pairs)

    def add_request(self, record: RequestRecord, *, engine_id: str, group: int | None = None) -> None:
        """A request has ended, in `group` where that is known; `engine_id`: its name in the engine."""
        self.requests.append(record)
        self.ended[engine_id] = Ended(record=record, group=group)

    def add_switch(self, record: SwitchRecord, *, requests: Sequence[MovedRequest]) -> None:
        """`requests` are those that lived through the switch."""
        self.switches.append(record)
        self._moments.append(Moment(record=record, live=requests))

    def switches_made(self) -> list[Moment]:
        """The switches that requests lived through."""
        return [moment for moment in self._moments if moment.record.outcome == "committed" and moment.live]

    def made_tokens(self, live: MovedRequest) -> int:
        """Tokens of its response that a request had made by a switch. Call it when all have ended."""
        if not live.kv_tokens:
            return 0
        ended = self.ended.get(live.engine_id)
        # The last sampled token of a live request has no KV yet.
        return max(0, live.kv_tokens + 1 - (ended.record.prompt_tokens if ended else 0))

    def record(self, replica: int, step: int, prices: Prices | None) -> StageRecord:
        """The finished stage, each switch with its gain over staying, by the true lengths and by `prices`."""
        ended_at = max(request.ended_at for request in self.requests)
        return StageRecord(
            replica=replica,
            step=step,
            num_ranks=self.num_ranks,
            started_at=self.started_at,
            ended_at=ended_at,
            idle_rank_seconds=self._idle_rank_seconds(ended_at),
            requests=tuple(self.requests),
            batch=tuple(self.samples),
            switches=tuple(self._judge(moment, ended_at, prices) for moment in self._moments),
        )

    def _idle_rank_seconds(self, ended_at: float) -> float:
        total = 0.0
        for sample, following in itertools.pairwise([*self.samples, None]):
            assert sample is not None
            until = following.at if following is not None else ended_at
            idle_groups = sum(running == 0 for running in sample.running)
            total += idle_groups * sample.degree * max(0.0, until - sample.at)
        return total

    def _judge(self, moment: Moment, ended_at: float, prices: Prices | None) -> SwitchRecord:
        """What the rest of the stage took, and would have taken in the old layout.

        Not judged where requests arrived after the switch: how they would have been served
        in the old layout is not known.
        """
        record = moment.record
        if record.outcome not in ("committed", "advised") or not moment.live:
            return record
        if any(request.started_at > record.at for request in self.requests):
            return record
        staying = self._staying_seconds(moment, prices)
        actual = ended_at - record.at
        return dataclasses.replace(
            record,
            staying_seconds=staying,
            actual_seconds=actual,
            gain_seconds=None if staying is None else staying - actual,
        )

    def _staying_seconds(self, moment: Moment, prices: Prices | None) -> float | None:
        """What the rest of the stage would have taken without a switch; None where it has no price."""
        if prices is None:
            return None
        remaining = [self._remaining(one) for one in moment.live]
        degree = moment.record.from_degree
        try:
            return remaining_seconds(remaining, prices, footprint=self.num_ranks, degree=degree)
        except ValueError as error:
            log.warning("the gain of a switch is not known: %s", error)
            return None

    def _remaining(self, live: MovedRequest) -> RemainingRequest:
        """A request as it was at a switch, with the tokens that it generated afterwards."""
        ended, made = self.ended.get(live.engine_id), self.made_tokens(live)
        return RemainingRequest(
            group=live.old_group,
            context_tokens=made + (ended.record.prompt_tokens if ended else 0),
            remaining_tokens=max(0, (ended.record.response_tokens if ended else 0) - made),
        )
