"""Which groups do not survive being cut: found among all of them in few trials."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hwprune.network.deadline import Deadline
from hwprune.network.network import ChannelGroup

Failure = Callable[[Sequence[ChannelGroup], int], str | None]
"""Why groups cannot be cut together, in the draw of this number; None if they can."""


class Culprits:
    """Finds the groups that cannot be cut, and why.

    All groups are cut at once, in one draw after the other. If a draw fails, the first kind of groups with which it
    does is found by halving, counterparts in repeated blocks together, and left out; so n culprits among k kinds cost
    about n·log(k) trials. Of counterparts, one culprit tells: if all fail with the same words, numbers apart, so does
    each. In the end, all that is left has survived every draw as a whole.

    Args:
        groups: to be tried.
        failure: tries some of them.
        deadline: when to give up.
        sound: groups that are known to survive it, with which the others are tried.
        draws: how many there are.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        failure: Failure,
        deadline: Deadline,
        *,
        sound: Sequence[ChannelGroup] = (),
        draws: int,
    ) -> None:
        kinds: dict[frozenset[tuple[object, ...]], list[ChannelGroup]] = {}
        for group in groups:
            kinds.setdefault(_pattern(group), []).append(group)
        self._kinds = list(kinds.values())
        self._failure, self._deadline, self._sound = failure, deadline, sound
        self._good = [0] * draws  # so many of the first kinds have survived this draw together

    def reasons(self) -> dict[str, str]:
        """Group name → why it cannot be cut; of those that can, nothing.

        Raises:
            ModelError: time is up.
        """
        found: dict[str, str] = {}
        draw = survived = 0
        while self._kinds and survived < len(self._good):
            why = None if self._good[draw] == len(self._kinds) else self._try(self._before(len(self._kinds)), draw)
            if why is None:
                self._good[draw], survived = len(self._kinds), survived + 1
                draw = (draw + 1) % len(self._good)
            else:
                found |= self._first(why, draw)
                survived = 0
        return found

    def _first(self, why: str, draw: int) -> dict[str, str]:
        """The first culprits, which are left out from now on; all kinds together fail with these words."""
        bad = len(self._kinds)
        while True:
            while bad - self._good[draw] > 1:
                middle = (self._good[draw] + bad) // 2
                reason = self._try(self._before(middle), draw)
                if reason is None:
                    self._good[draw] = middle
                else:
                    bad, why = middle, reason
            groups = self._kinds[bad - 1]
            if len(groups) == 1 or (alike := self._alike(bad - 1, draw)) is not None:
                del self._kinds[bad - 1]
                self._good = [good if good < bad else 0 for good in self._good]
                return {group.name: f"cutting it fails: {why if len(groups) == 1 else alike}" for group in groups}
            half = len(groups) // 2
            self._kinds[bad - 1 : bad] = [groups[:half], groups[half:]]
            self._good = [good + (good >= bad) for good in self._good]
            bad += 1

    def _alike(self, index: int, draw: int) -> str | None:
        """Why every counterpart of a kind fails, if they all do for one reason."""
        groups, before = self._kinds[index], self._before(index)
        alone = self._try([*before, *groups[:1]], draw)
        again = self._try([*before, *groups[1:]], draw) if alone else None
        return alone if alone and again and _in_words(alone) == _in_words(again) else None

    def _before(self, count: int) -> list[ChannelGroup]:
        return [*self._sound, *(group for kind in self._kinds[:count] for group in kind)]

    def _try(self, groups: Sequence[ChannelGroup], draw: int) -> str | None:
        self._deadline.check(f"trying to cut {groups[-1].name}")
        return self._failure(groups, draw)


def _in_words(failure: str) -> str:
    return re.sub(r"[\d.e+-]+", "#", failure)


def _pattern(group: ChannelGroup) -> frozenset[tuple[object, ...]]:
    """Equal for counterparts in repeated blocks: the same tensors but for the numbers in their names."""
    return frozenset((re.sub(r"\d+", "#", member.tensor), member.dim, member.role) for member in group.members)
