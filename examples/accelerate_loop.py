"""Meter a loop of Hugging Face Accelerate, with gradient accumulation."""

import torch
from accelerate import Accelerator
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from computemeter import Meter


def main(examples: int = 1000, epochs: int = 2) -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    net = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
    rows = torch.randn(examples, 64)
    data = TensorDataset(rows, rows.sum(1, keepdim=True))
    model, optimizer, loader = accelerator.prepare(
        net, torch.optim.AdamW(net.parameters()), DataLoader(data, batch_size=32)
    )

    with Meter() as meter:
        for _ in range(epochs):
            for inputs, targets in loader:
                with meter.step(inputs), accelerator.accumulate(model):
                    accelerator.backward(mse_loss(model(inputs), targets))
                    optimizer.step()
                    optimizer.zero_grad()

    # An example's forward 2*(64*256 + 256), backward the same for the weights and 2*256 for the
    # inputs of the second layer; the last batch of an epoch is smaller, and counts as it is.
    flops = epochs * examples * 2 * (2 * (64 * 256 + 256) + 256)
    assert meter.summary().model_flops == flops


if __name__ == "__main__":
    main()
