"""Somebody's own training loop, as it runs on his desk: `python train.py`.

Nothing here knows of stannary; recipe.py beside it turns `load_data`, `get_batch` and `GPT` into a
recipe and leaves the loop to the nodes.
"""

import sys

import torch
from model import GPT, GPTConfig

batch_size, learning_rate, max_iters, eval_interval, eval_iters = 16, 1e-3, 200, 50, 8


def load_data(text):
    """Return character ids of both splits, and the number of characters known."""
    alphabet = sorted(set(text))
    ids = {char: index for index, char in enumerate(alphabet)}
    data = torch.tensor([ids[char] for char in text])
    cut = int(0.9 * len(data))
    return data[:cut], data[cut:], len(alphabet)


def get_batch(data, starts, block_size):
    """Return inputs and targets of the windows that begin at `starts`."""
    window = torch.as_tensor(starts)[:, None] + torch.arange(block_size + 1)
    ids = data[window]
    return ids[:, :-1], ids[:, 1:]


@torch.no_grad()
def estimate_loss(model, data, block_size):
    """Return the mean loss over evenly spaced windows."""
    model.eval()
    starts = torch.linspace(0, len(data) - block_size - 1, eval_iters * batch_size).long()
    losses = [model(*get_batch(data, part, block_size))[1].item() for part in starts.split(batch_size)]
    model.train()
    return sum(losses) / len(losses)


def main():
    """Train on this interpreter's own documentation and print the held-out loss now and then."""
    from pydoc_data.topics import topics

    train_data, val_data, vocab_size = load_data("".join(topics[key] for key in sorted(topics)))
    config = GPTConfig(vocab_size=vocab_size)
    model = GPT(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for it in range(max_iters):
        starts = torch.randint(len(train_data) - config.block_size, (batch_size,))
        _, loss = model(*get_batch(train_data, starts, config.block_size))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if it % eval_interval == 0 or it == max_iters - 1:
            print(f"iter {it}: val loss {estimate_loss(model, val_data, config.block_size):.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
