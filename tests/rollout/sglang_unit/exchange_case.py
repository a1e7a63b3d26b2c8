"""A switch's KV exchange in miniature: arenas in which every element is unique."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import torch

from taper_policy import layout
from taper_policy.profile.kv_choice import HeldKv, KvCosts, KvMode
from taper_rollout.sglang import kv_exchange
from taper_rollout.switching.plans import SwitchPlan, plan_switch

NUM_LAYERS = 3
HEAD_DIM = 2
POISON = -1
WAYS: tuple[KvMode, ...] = (
    "migrate",
    KvCosts(
        exchange_seconds=0.0,
        migrated_request_seconds=0.01,
        migrated_token_seconds=0.0,
        recomputed_token_seconds=0.001,
    ),
)

Layers = list[tuple[torch.Tensor, torch.Tensor]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeCase:
    """Requests as (group at the old degree, KV tokens); `seed` chooses slots, and who finds no room."""

    footprint: int
    base_degree: int
    from_degree: int
    to_degree: int
    num_kv_heads: int
    requests: tuple[tuple[int, int], ...]
    seed: int

    @classmethod
    def random(cls, seed: int, footprint: int) -> ExchangeCase:
        dice = random.Random(seed)
        degrees = layout.uniform_degrees(footprint)
        base, *_ = low, high = sorted(dice.sample(degrees, 2))
        base = dice.choice([d for d in degrees if d <= low])
        old, new = (low, high) if dice.random() < 0.5 else (high, low)
        sizes = [0, *(dice.randrange(1, 40) for _ in range(3)), dice.randrange(40, 200)]
        return cls(
            footprint=footprint,
            base_degree=base,
            from_degree=old,
            to_degree=new,
            num_kv_heads=high * dice.choice((1, 2, 3)),
            requests=tuple(
                (dice.randrange(footprint // old), dice.choice(sizes)) for _ in range(dice.randrange(0, 12))
            ),
            seed=seed,
        )

    def plan(self) -> SwitchPlan:
        live = [HeldKv(id=f"r{i}", group=g, num_tokens=n) for i, (g, n) in enumerate(self.requests)]
        kv = WAYS[self.seed % len(WAYS)]
        return plan_switch(live, self.footprint, self.from_degree, self.to_degree, self.num_kv_heads, kv)

    def num_slots(self) -> int:
        """Slots of a rank's arena at the base degree: scarcely enough, so that old and new overlap."""
        plan = self.plan()
        wanted = [0] * (self.footprint // self.to_degree)
        for request in plan.requests:
            wanted[plan.target_group[request.id]] += request.num_tokens
        return 2 + max(*wanted, *kv_exchange.source_tokens(plan))

    def staging_bytes(self) -> int:
        heads = self.num_kv_heads // self.base_degree
        return 2 * 2 * (self.num_slots() + 1) * heads * HEAD_DIM * 8 * self.footprint


class RankArena:
    """One rank's arena before and after. Slots of a group are chosen by a die that its ranks share."""

    def __init__(self, case: ExchangeCase, rank: int) -> None:
        self.case, self.rank, self.plan = case, rank, case.plan()
        heads = case.num_kv_heads // case.base_degree
        self._arena = [
            tuple(
                torch.full((case.num_slots(), heads, HEAD_DIM), POISON, dtype=torch.int64) for _ in range(2)
            )
            for _ in range(NUM_LAYERS)
        ]
        self.old, self.new = self._view(case.from_degree), self._view(case.to_degree)
        group = layout.group_of(rank, case.from_degree)
        mine = {r.id: r.num_tokens for r in self.plan.requests if r.group == group and r.num_tokens}
        self.old_slots = self._deal(mine, case.from_degree, f"old{group}")
        dice = random.Random(f"{case.seed}")
        without_room = {r.id for r in self.plan.requests if dice.random() < 0.1}
        group = layout.group_of(rank, case.to_degree)
        wanted = {r.id: r.num_tokens for r in self.plan.migrated if self.plan.target_group[r.id] == group}
        wanted = {name: tokens for name, tokens in wanted.items() if name not in without_room}
        self.new_slots = self._deal(wanted, case.to_degree, f"new{group}")
        for name, slots in self.old_slots.items():
            self._write(name, slots)

    def _view(self, degree: int) -> Layers:
        widening = degree // self.case.base_degree
        views = []
        for key, value in self._arena:
            slots, heads, dim = key.shape
            shape = (slots * widening, heads // widening, dim)
            views.append((key.view(shape), value.view(shape)))
        return views

    def _deal(self, tokens: dict[str, int], degree: int, salt: str) -> dict[str, torch.Tensor]:
        free = list(range(1, self.case.num_slots() * degree // self.case.base_degree))
        random.Random(f"{self.case.seed}/{salt}").shuffle(free)
        dealt = {}
        for name, count in tokens.items():
            dealt[name], free = torch.tensor(free[:count]), free[count:]
            assert len(dealt[name]) == count
        return dealt

    def _truth(self, name: str, degree: int, layer: int, part: int) -> torch.Tensor:
        """What a request's slots hold: `[tokens, this rank's heads, dim]`, each element its own name."""
        tokens = next(r.num_tokens for r in self.plan.requests if r.id == name)
        heads = layout.shard_rows(self.rank, degree, self.case.num_kv_heads)
        request = torch.tensor(int(name[1:]))
        grid = torch.cartesian_prod(
            request.view(1),
            torch.arange(tokens),
            torch.tensor(list(heads)),
            torch.tensor([layer * 2 + part]),
            torch.arange(HEAD_DIM),
        )
        weights = torch.tensor([10**12, 10**7, 10**4, 10**2, 1])
        return (grid * weights).sum(1).view(tokens, len(heads), HEAD_DIM)

    def _write(self, name: str, slots: torch.Tensor) -> None:
        for layer, parts in enumerate(self.old):
            for part, tensor in enumerate(parts):
                tensor[slots] = self._truth(name, self.case.from_degree, layer, part)

    def exchange(self, staging: kv_exchange.Staging) -> None:
        old = [self.old_slots[r.id] for r in self.plan.migrated if r.id in self.old_slots]
        kv_exchange.exchange(
            staging,
            kv_exchange.picks(self.plan, self.rank, self.new_slots),
            torch.cat(old) if old else torch.empty(0, dtype=torch.int64),
            self.old,
            self.new,
        )

    def wrong(self) -> list[str]:
        """Requests whose new slots do not hold exactly what the plan says."""
        found = []
        for name, slots in self.new_slots.items():
            for layer, parts in enumerate(self.new):
                for part, tensor in enumerate(parts):
                    if not torch.equal(tensor[slots], self._truth(name, self.case.to_degree, layer, part)):
                        found.append(f"{name} layer {layer} part {part}")
        return found

    @property
    def like(self) -> torch.Tensor:
        return self.old[0][0]


def move(arena: RankArena, staging: Callable[[RankArena], kv_exchange.Staging]) -> list[str]:
    """One rank's part of the exchange; what is wrong afterwards."""
    if arena.plan.slices:
        arena.exchange(staging(arena))
    return arena.wrong()
