"""What rows of logits say (entropy, arg-max, log-sum-exp, margins), in every way that is compared, and the oracle.

All take `[rows, vocabulary]` logits and give `(ids, columns)`: the arg-max of each row, and `[5, rows]` of the largest
probability, its lead over the second one, the lead of the largest logit, the log-sum-exp and the entropy in nats.
"""

import torch
import triton
import triton.language as tl

COLUMNS = ("max_probability", "margin_probability", "margin_logit", "log_sum_exp", "entropy")
# A logit below all others whose differences are still finite.
NEVER = tl.constexpr(-1e30)


def oracle(logits):
    """By the definitions, in float64."""
    x = logits.double()
    ordered = x.sort(dim=-1, descending=True).values
    first, second = ordered[:, 0], ordered[:, 1]
    probabilities = torch.softmax(x, dim=-1)
    log_sum = torch.logsumexp(x, dim=-1)
    entropy = torch.special.entr(probabilities).sum(dim=-1)
    most = torch.exp(first - log_sum)
    lead = most - torch.exp(second - log_sum)
    return x.argmax(dim=-1), torch.stack([most, lead, first - second, log_sum, entropy])


def two_by_topk(x):
    top = x.topk(2, dim=-1)
    return top.indices[:, 0], top.values[:, 0], top.values[:, 1]


def two_by_mask(x):
    """The second one as the largest beside the first: reductions that a compiler can fuse."""
    first, ids = x.max(dim=-1)
    places = torch.arange(x.shape[-1], device=x.device)
    second = x.masked_fill(places == ids[:, None], float("-inf")).amax(dim=-1)
    return ids, first, second


def chain(logits, two):
    """The straightforward chain of operations, in float32; `two` finds the two largest logits."""
    x = logits.float()
    ids, first, second = two(x)
    log_sum = torch.logsumexp(x, dim=-1)
    below = x - log_sum[:, None]
    entropy = -(below.exp() * below).sum(dim=-1)
    most = torch.exp(first - log_sum)
    lead = most - torch.exp(second - log_sum)
    return ids, torch.stack([most, lead, first - second, log_sum, entropy])


@triton.jit
def join(first, second, place, total, weighted):
    """One of several disjoint parts: the two largest logits, the place of the first, and of e^(x - first) the sum and
    that of its products with x - first."""
    most = tl.max(first, axis=0)
    at = tl.min(tl.where(first == most, place, 2147483647), axis=0)
    beside = tl.max(tl.where(place == at, second, first), axis=0)
    below = first - most
    scale = tl.exp(below)
    return most, beside, at, tl.sum(total * scale, axis=0), tl.sum(scale * (weighted + total * below), axis=0)


@triton.jit
def summarize_parts(logits, partials, places, vocabulary, length, BLOCK: tl.constexpr):
    """Reads `length` logits of a row once, and writes what `join` says of them."""
    row, part = tl.program_id(0), tl.program_id(1)
    lanes = tl.arange(0, BLOCK)
    first = tl.full([BLOCK], NEVER, tl.float32)
    second = tl.full([BLOCK], NEVER, tl.float32)
    place = lanes + part * length
    total = tl.zeros([BLOCK], tl.float32)
    weighted = tl.zeros([BLOCK], tl.float32)
    begin = part * length
    end = tl.minimum(begin + length, vocabulary)
    for start in range(begin, end, BLOCK):
        ids = start + lanes
        x = tl.load(logits + row.to(tl.int64) * vocabulary + ids, mask=ids < end, other=NEVER).to(tl.float32)
        second = tl.maximum(second, tl.minimum(first, x))
        place = tl.where(x > first, ids, place)
        most = tl.maximum(first, x)
        fall, below = first - most, x - most
        scale, term = tl.exp(fall), tl.exp(below)
        weighted = scale * (weighted + total * fall) + term * below
        total = total * scale + term
        first = most
    most, beside, at, total_of_all, weighted_of_all = join(first, second, place, total, weighted)
    out = row * tl.num_programs(1) + part
    tl.store(places + out, at)
    tl.store(partials + out * 4, most)
    tl.store(partials + out * 4 + 1, beside)
    tl.store(partials + out * 4 + 2, total_of_all)
    tl.store(partials + out * 4 + 3, weighted_of_all)


@triton.jit
def summarize_rows(partials, places, ids, columns, rows, parts, PARTS: tl.constexpr):
    """Joins the parts of a row."""
    row = tl.program_id(0)
    part = tl.arange(0, PARTS)
    known = part < parts
    at = row * parts + part
    first = tl.load(partials + at * 4, mask=known, other=NEVER)
    second = tl.load(partials + at * 4 + 1, mask=known, other=NEVER)
    total = tl.load(partials + at * 4 + 2, mask=known, other=0.0)
    weighted = tl.load(partials + at * 4 + 3, mask=known, other=0.0)
    place = tl.load(places + at, mask=known, other=2147483647)
    most, beside, best, total_of_all, weighted_of_all = join(first, second, place, total, weighted)
    log_total = tl.log(total_of_all)
    probability = 1.0 / total_of_all
    tl.store(ids + row, best)
    tl.store(columns + row, probability)
    tl.store(columns + rows + row, probability * (1.0 - tl.exp(beside - most)))
    tl.store(columns + 2 * rows + row, most - beside)
    tl.store(columns + 3 * rows + row, most + log_total)
    tl.store(columns + 4 * rows + row, log_total - weighted_of_all / total_of_all)


class Fused:
    """The Triton kernels: each row in `parts` parts, each read once in blocks of `block` logits by `warps` warps."""

    def __init__(self, rows, vocabulary, device, parts, block, warps):
        # A part begins where a block does, and none is empty.
        self.length = triton.cdiv(triton.cdiv(vocabulary, parts), block) * block
        self.parts = triton.cdiv(vocabulary, self.length)
        self.block, self.warps = block, warps
        self.partials = torch.empty(rows * self.parts * 4, dtype=torch.float32, device=device)
        self.places = torch.empty(rows * self.parts, dtype=torch.int32, device=device)
        self.ids = torch.empty(rows, dtype=torch.int32, device=device)
        self.columns = torch.empty((len(COLUMNS), rows), dtype=torch.float32, device=device)

    def __call__(self, logits):
        rows, vocabulary = logits.shape
        summarize_parts[(rows, self.parts)](
            logits, self.partials, self.places, vocabulary, self.length, BLOCK=self.block, num_warps=self.warps
        )
        padded = max(2, triton.next_power_of_2(self.parts))
        summarize_rows[(rows,)](
            self.partials, self.places, self.ids, self.columns, rows, self.parts, PARTS=padded, num_warps=1
        )
        return self.ids, self.columns


def difference(logits, found):
    """The largest difference from the oracle: of any column, infinite where an id is not that of a largest logit."""
    ids, columns = found
    expected = oracle(logits)[1]
    best = logits.double().gather(1, ids.long()[:, None])[:, 0]
    if not torch.equal(best, logits.double().amax(dim=-1)):
        return float("inf")
    off = (columns.double() - expected).abs().max().item()
    return off if off == off else float("inf")
