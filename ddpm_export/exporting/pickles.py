"""What a pickle would build, told from its instructions before anything follows them. Builds nothing itself."""

import pickletools
from typing import BinaryIO

__all__ = ["check_pickle"]

MAX_WEIGHT = 2**24
MARK, SLICE = pickletools.markobject, pickletools.stackslice


def check_pickle(file: BinaryIO) -> None:
    """Raise ValueError for a pickle whose tuples hold more than 2^24 values once what they share is counted anew.

    Hashing or comparing them would go on for ever, and no signal ends it: each of 60 tuples holds the one before
    twice, and 250 bytes make 2^60 values. Reads one pickle of a file and stays after it; raises whatever `pickletools`
    does for what is none.
    """
    stack: list[int | None] = []  # how many values each holds; None for a mark
    memo: dict[int, int] = {}
    for instruction, argument, _ in pickletools.genops(file):
        name, takes, gives = instruction.name, instruction.stack_before, list(instruction.stack_after)
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1] or 1  # type: ignore[call-overload]
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])  # type: ignore[call-overload]
            continue
        taken: list[int] = []
        for kind in reversed(takes):
            if kind is SLICE:
                while stack[-1] is not None:
                    taken.append(stack.pop() or 1)
            elif kind is MARK:
                if stack.pop() is not None:
                    raise ValueError(f"{name} finds no mark")
            else:
                taken.append(stack.pop() or 1)
        weight = min(1 + sum(taken), MAX_WEIGHT + 1)
        if weight > MAX_WEIGHT and "TUPLE" in name:
            raise ValueError(f"tuples that hold one another, more than {MAX_WEIGHT} values in all")
        stack += [None if kind is MARK else weight for kind in gives]
