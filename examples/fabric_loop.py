"""Meter a loop of Lightning Fabric, in mixed precision."""

import torch
from lightning.fabric import Fabric
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from computemeter import Meter


def main(examples: int = 1000, epochs: int = 2) -> None:
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    fabric.launch()
    net = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
    model, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters()))
    rows = torch.randn(examples, 64)
    data = TensorDataset(rows, rows.sum(1, keepdim=True))
    loader = fabric.setup_dataloaders(DataLoader(data, batch_size=32))

    with Meter() as meter:
        for _ in range(epochs):
            for inputs, targets in loader:
                with meter.step(inputs):
                    fabric.backward(mse_loss(model(inputs), targets))
                    optimizer.step()
                    optimizer.zero_grad()

    # An example's forward 2*(64*256 + 256), backward the same for the weights and 2*256 for the
    # inputs of the second layer; the last batch of an epoch is smaller, and counts as it is.
    summary = meter.summary()
    assert summary.model_flops == epochs * examples * 2 * (2 * (64 * 256 + 256) + 256)
    assert summary.by_dtype == {"bfloat16": summary.model_flops}


if __name__ == "__main__":
    main()
