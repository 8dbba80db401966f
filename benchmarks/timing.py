"""What the benchmarks share: command lines, and ratios of what takes turns in one run."""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def parse(
    doc: str | None, *positional: str, opts: bool = False, **options: Any
) -> argparse.Namespace:
    """Parse the command line of a benchmark.

    Args:
        doc: its docstring, printed as it is.
        positional: names of arguments.
        opts: whether a config's ``KEY VALUE …`` follow.
        options: by name, the default, which also gives the type; a list takes several values, and
            False makes a flag.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=formatter)
    for name in positional:
        parser.add_argument(name)
    for name, default in options.items():
        flag = "--" + name.replace("_", "-")
        text = f"default {default}"
        if default is False:
            parser.add_argument(flag, action="store_true")
        elif isinstance(default, list):
            kind = type(default[0])
            parser.add_argument(flag, type=kind, nargs="+", default=default, help=text)
        else:
            parser.add_argument(flag, type=type(default), default=default, help=text)
    if opts:
        parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    return parser.parse_intermixed_args()


def wait() -> None:
    """Wait for the GPU, if one is used."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds by name, one value per round."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median seconds of one of them."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, base: str) -> tuple[float, float, float]:
        """Return first quartile, median and third quartile of the ratios within each round."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        ratios = sorted(first / other for first, other in pairs)
        count = len(ratios)
        return ratios[count // 4], statistics.median(ratios), ratios[3 * count // 4]

    def show(self, name: str, base: str) -> None:
        """Print the medians of two, in milliseconds, and their ratio."""
        for each in (base, name):
            count = len(self.seconds[each])
            print(f"  {each:8s} {1000 * self.median(each):8.1f} ms (median of {count})")
        low, ratio, high = self.ratio(name, base)
        print(f"  {name} / {base} = {ratio:.3f} (median; quartiles {low:.3f}, {high:.3f})")


def take_turns(
    work: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Time all work in turn, in rounds, so that a machine that slows down slows all of it."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(warmup + rounds):
        for name, run in work.items():
            start = clock()
            run()
            wait()
            if number >= warmup:
                seconds[name].append(clock() - start)
    return Times(seconds)
