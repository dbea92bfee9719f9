r"""A token reads the past of its own request
============================================

A server holds requests of different lengths in the slots of one cache. In pages of :math:`P` tokens
a request of :math:`\ell_b` tokens fills :math:`\lceil \ell_b / P \rceil` pages, and the next token
of every request reads

.. math:: \sum_b \left\lceil \frac{\ell_b + 1}{P} \right\rceil P \text{ tokens in all}.

That is neither slots × the longest, which a batch with one length reads, nor slots × the capacity.

**What you will see.** Left, twelve requests on four slots: those that are done leave, those that
wait come in, and no slot waits for another. Right, the tokens that are read at each step, and what
they would be with one length for all. Every output equals that of its request alone, although all
pages that are no request's own are filled with NaN.
"""

# %%
import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import attention, plot

slots, page, capacity, size = 4, 8, 128, (2, 8)
draw = np.random.default_rng(0)
lengths = draw.geometric(0.03, 12).clip(4, capacity - 1)  # most are short, some long
prompts = np.minimum(draw.integers(1, 12, 12), lengths - 2)
streams = [jnp.asarray(draw.normal(size=(3, n, *size)), jnp.float32) for n in lengths]

cache = attention.init_cache(capacity, *size, batch=(slots,), page_size=page, num_pages=40)
poison = jnp.full_like(cache.key, jnp.nan)
cache = dataclasses.replace(cache, key=poison, value=poison)
step = jax.jit(attention.decode_step, donate_argnums=0)


def advance(cache, busy, done):
    """The next tokens of each slot: a prompt where it is new, otherwise one."""
    counts = {slot: prompts[i] if done[i] == 0 else 1 for slot, i in busy.items()}
    width = 12 if max(counts.values()) > 1 else 1
    new, entries = np.zeros((3, slots, width, *size), np.float32), np.full(slots, -1)
    for slot, i in busy.items():
        entries[slot] = slot
        new[:, slot, : counts[slot]] = streams[i][:, done[i] : done[i] + counts[slot]]
    given = np.array([counts.get(slot, 0) for slot in range(slots)])
    cache = attention.reserve_pages(cache, given, entries=entries)
    cache, y = step(cache, *new, entries=entries, lengths=given)
    return cache, y, counts


# %%
waiting, busy = collections.deque(range(12)), {}
done, found = np.zeros(12, int), [[] for _ in lengths]
held, read, of_longest = [], [], []
while waiting or busy:
    for slot in set(range(slots)) - set(busy):
        if waiting:
            busy[slot] = waiting.popleft()
    cache, y, counts = advance(cache, busy, done)
    for slot, i in busy.items():
        found[i].append(np.asarray(y[slot, : counts[slot]]))
        done[i] += counts[slot]
    tokens = np.asarray(cache.length)
    held.append([busy.get(slot, -1) for slot in range(slots)])
    read.append(sum(-(-tokens // page) * page))
    of_longest.append(slots * max(-(-tokens // page) * page))
    over = [slot for slot, i in busy.items() if done[i] == lengths[i]]
    busy = {slot: i for slot, i in busy.items() if slot not in over}
    leaving = [slot if slot in over else -1 for slot in range(slots)]
    cache = attention.evict_from_cache(cache, np.array(leaving))

# %%
with plot.styled():
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    picture = np.ma.masked_less(np.array(held).T, 0)
    left.imshow(picture, aspect="auto", cmap="tab20", interpolation="nearest")
    left.set(xlabel="step", ylabel="slot", yticks=range(slots))
    left.set_title("Twelve requests on four slots")
    left.grid(visible=False)
    right.plot(of_longest, label="slots × the longest")
    right.plot(read, label="sum of the lengths")
    right.axhline(slots * capacity, color="gray", linestyle="--", label="slots × capacity")
    right.set(xlabel="step", ylabel="tokens read", ylim=(0, 1.5 * slots * capacity))
    right.set_title(f"{1 - sum(read) / sum(of_longest):.0%} fewer tokens are read")
    right.legend(loc="upper left")

# %%
# Every claim above.
for stream, rows in zip(streams, found, strict=True):
    alone = attention.dot_product_attention(*stream, is_causal=True)
    np.testing.assert_allclose(np.concatenate(rows), alone, rtol=0, atol=2e-6)
assert np.all(np.array(read) <= of_longest)
assert 1.3 * sum(read) < sum(of_longest) < slots * capacity * len(read)
# No slot is empty while a request waits.
last_arrival = max(np.flatnonzero((np.array(held) == i).any(1))[0] for i in range(12))
assert np.all(np.array(held)[: last_arrival + 1] >= 0)
