"""Meter any PyTorch loop: two lines more."""

import torch
from torch.nn.functional import mse_loss

from computemeter import Meter


def main(steps: int = 200) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Meter() as meter:
        for _ in range(steps):
            inputs = torch.randn(128, 64)
            with meter.step(inputs):
                loss = mse_loss(model(inputs), inputs.sum(1, keepdim=True))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    # Forward 2*128*(64*256 + 256), backward the same for the weights and 2*128*256 for the
    # inputs of the second layer.
    assert meter.summary().model_flops == steps * 2 * 128 * (2 * (64 * 256 + 256) + 256)


if __name__ == "__main__":
    main()
