"""What a pickle would build, read off its instructions before anything runs them. Builds nothing itself."""

import pickletools
from typing import BinaryIO

MAX_WEIGHT, MAX_NESTED, MAX_INSTRUCTIONS = 2**24, 100, 2**22
ONE = (1, 0)
MARK, SLICE = pickletools.markobject, pickletools.stackslice


def check_pickle(file: BinaryIO) -> None:
    """Raise ValueError for tuples nested 100 deep, or of more than 2^24 values once what they share is counted anew.

    Hashing or showing them would fail or go on for ever, and no signal ends that: where each of 60 tuples holds the one
    before twice, 250 bytes make 2^60 values. And for tensors without values, and for more than 2^22 instructions. Reads
    one pickle of a file and stays after it; raises what `pickletools` does for what is none.
    """
    stack: list[tuple[int, int] | None] = []  # how many values each holds, how deep tuples nest in it; None for a mark
    memo: dict[int, tuple[int, int]] = {}
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if count == MAX_INSTRUCTIONS:
            raise ValueError(f"a pickle of more than {MAX_INSTRUCTIONS} instructions")
        name, takes, gives = instruction.name, instruction.stack_before, list(instruction.stack_after)
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else int(argument or 0)] = stack[-1] or ONE
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
            continue
        if name == "GLOBAL" and "meta_tensor" in str(argument):
            raise ValueError("a tensor on the meta device, which has no values")
        taken: list[tuple[int, int]] = []
        for kind in reversed(takes):
            if kind is SLICE:
                while stack[-1] is not None:
                    taken.append(stack.pop() or ONE)
            elif kind is MARK:
                if stack.pop() is not None:
                    raise ValueError(f"{name} finds no mark")
            else:
                taken.append(stack.pop() or ONE)
        is_tuple = "TUPLE" in name
        weight = min(1 + sum(weight for weight, _ in taken), MAX_WEIGHT + 1)
        nested = is_tuple + max((nested for _, nested in taken), default=0)
        if is_tuple and (weight > MAX_WEIGHT or nested > MAX_NESTED):
            raise ValueError(f"tuples that hold one another, {nested} deep or more than {MAX_WEIGHT} values in all")
        stack += [None if kind is MARK else (weight, nested) for kind in gives]
