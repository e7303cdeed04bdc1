"""Where a pretraining step's time goes, beside what the machine could do.

    python tests/benchmarks/step_profile.py [default|paper]

Profiles one step of row a (or b) of the speed table after two that warm up, groups torch's operations, and prints the machine's
matrix-product rate and memory bandwidth taken right after it.
"""

import sys
from collections import Counter

import torch
from speed_rows.training import machine_limits, prepare_ours
from torch.profiler import ProfilerActivity, profile

GROUPS = {
    "convolutions by loops, forward and to the volume": ("odiff::convolution",),
    "gradients of weights by loops": ("odiff::weight_gradient",),
    "norm and SiLU by loops": ("odiff::norm_silu",),
    "convolution forward": ("mkldnn_convolution", "slow_conv3d", "convolution_overrideable", "thnn_conv"),
    "convolution backward": ("convolution_backward",),
    "normalisation": ("group_norm",),
    "SiLU": ("silu",),
    "optimiser and average": ("adamw", "lerp", "clip", "foreach", "norm"),
    "copies and layout": ("copy_", "cat", "clone", "contiguous", "fill_", "zero_"),
    "noise and masks": ("normal_", "uniform_", "random_", "repeat_interleave", "where", "index"),
    "additions and products": ("add", "mul", "sub", "div", "sum", "mean"),
}


def main() -> None:
    """Profile, group, print."""
    kind = sys.argv[1] if len(sys.argv) > 1 else "default"
    info, step = prepare_ours(kind)
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    seconds: Counter[str] = Counter()
    for event in found.key_averages():
        group = next((name for name, words in GROUPS.items() if any(w in event.key for w in words)), "other")
        seconds[group] += event.self_cpu_time_total / 1e6
    total = sum(seconds.values())
    print(f"{info}\n\n| part | seconds | share |\n|---|---|---|")
    for name, value in seconds.most_common():
        print(f"| {name} | {value:.2f} | {100 * value / total:.0f} % |")
    limits = machine_limits(torch.device("cpu"))
    rate = 6 * info["multiply_adds_g"] / total
    product, copy = limits["matrix_product_gflops"], limits["copy_gb_per_s"]
    print(f"\n{total:.2f} s, {rate:.0f} GFLOP/s of {product:.0f} of a matrix product; a copy moves {copy} GB/s")


if __name__ == "__main__":
    main()
