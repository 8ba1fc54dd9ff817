"""The same nets under Lightning, as plain modules, and under Keras on PyTorch."""

import pytest
import torch
from backend_nets import CNN_SAME, LSTM, MLP
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from computemeter import keras as for_keras
from computemeter import lightning as for_lightning

pl = pytest.importorskip("lightning.pytorch")

OPTIONS = {"ledger": None, "trackers": None, "verbose": 0}
STEPS = 2


class Module(pl.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        outputs, _state = self.lstm(x)
        return self.head(outputs[:, -1])


def mlp():
    return nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def under_lightning(module, shape, tmp_path):
    meter = for_lightning.ComputeMeter(**OPTIONS)
    examples = 32 * STEPS
    data = TensorDataset(torch.randn(examples, *shape), torch.randint(10, (examples,)))
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[meter],
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=False,
        max_epochs=1,
    )
    trainer.fit(Module(module), DataLoader(data, batch_size=32))
    return meter.summary()


def under_keras(net):
    meter = for_keras.ComputeMeter(**OPTIONS)
    net.fit(meter, examples=net.batch * STEPS)
    return meter.summary()


# PyTorch has the channels of an image first.
@pytest.mark.parametrize(
    ("module", "shape", "net"),
    [(mlp, (784,), MLP), (cnn, (3, 32, 32), CNN_SAME)],
    ids=["MLP", "CNN"],
)
def test_a_step_costs_the_same_under_both(module, shape, net, tmp_path):
    lightning, keras = under_lightning(module(), shape, tmp_path), under_keras(net)
    assert lightning.model_flops == keras.model_flops == STEPS * net.flops
    assert lightning.hardware_flops == keras.hardware_flops == STEPS * net.flops
    assert lightning.samples == keras.samples == STEPS * 32
    assert lightning.by_dtype == keras.by_dtype
    assert lightning.uncounted_ops == keras.uncounted_ops == {}
    assert lightning.parameters == keras.parameters


def test_an_lstm_of_pytorch_is_one_operator_and_spares_itself_nothing(tmp_path):
    lightning, keras = under_lightning(Recurrent(), (20, 16), tmp_path), under_keras(LSTM)
    assert set(lightning.by_op) == {
        "aten::mkldnn_rnn_layer",
        "aten::mkldnn_rnn_layer_backward",
        "aten::addmm",
        "aten::mm",
    }
    assert set(keras.by_op) == {"aten::mm"}
    assert keras.model_flops == STEPS * LSTM.flops
    # oneDNN's backward also computes the gradient of the data, 20 steps of 16 inputs to 4 gates of
    # 32 units, and that of the first state, 32 to as many.
    unasked = 2 * 32 * (20 * 16 * 4 * 32 + 32 * 4 * 32)
    assert lightning.model_flops - keras.model_flops == STEPS * unasked
    assert lightning.uncounted_ops == keras.uncounted_ops == {}
    # nn.LSTM has two biases per gate.
    assert lightning.parameters - keras.parameters == 4 * 32
