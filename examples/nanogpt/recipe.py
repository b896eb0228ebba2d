"""The adapter: what train.py has, under the names a recipe needs."""

import torch
from model import GPT, GPTConfig
from train import estimate_loss, get_batch, load_data


class Recipe:
    def __init__(self, options, inputs):
        self.train_data, self.val_data, vocab_size = load_data(inputs["corpus"].read_text(encoding="utf-8"))
        self.config = GPTConfig(vocab_size=vocab_size, **options)
        self.num_examples = len(self.train_data) - self.config.block_size
        self.tokens_per_example = self.config.block_size

    def build(self):
        return GPT(self.config)

    def loss(self, model, examples):
        return model(*get_batch(self.train_data, torch.tensor(examples), self.config.block_size))[1]

    def evaluate(self, model):
        return {"heldout_loss": estimate_loss(model, self.val_data, self.config.block_size)}
