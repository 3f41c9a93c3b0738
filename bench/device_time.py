"""How long work on a GPU takes by its own clock."""

import statistics

import torch

# Loads read each of several buffers in turn, which together are larger than any cache.
BUFFERS = 4
REPLAYS = 5


def seconds_per_launch(work, buffers, launches):
    """Of `work(buffer)`, recorded `launches` times in one CUDA graph and replayed: almost without what launching costs
    the CPU. The median of several replays."""
    # Directly first: compilers run, and libraries take their memory.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for turn in range(max(3, launches // 10)):
            work(buffers[turn % len(buffers)])
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for turn in range(launches):
            work(buffers[turn % len(buffers)])
    # The first one finds cold caches and a clock that has not risen.
    graph.replay()
    samples = []
    for _ in range(REPLAYS):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        graph.replay()
        ended.record()
        torch.cuda.synchronize()
        samples.append(begun.elapsed_time(ended) / 1e3 / launches)
    return statistics.median(samples)
