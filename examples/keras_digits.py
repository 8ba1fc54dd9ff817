"""Train the net of `lightning_digits.py` with Keras 3, metered, into MLflow.

KERAS_BACKEND=jax python examples/keras_digits.py    # or tensorflow, or torch
"""

import sys
from pathlib import Path

import keras
import mlflow
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from computemeter.keras import ComputeMeter

STORE = "sqlite:///mlflow.db"


def digits_net() -> keras.Model:
    """Three convolutions on 8x8 grey images, ten classes."""
    net = keras.Sequential([keras.Input((8, 8, 1))], name="digits")
    for filters in (32, 64, 64):
        net.add(layers.Conv2D(filters, 3, padding="same"))
        net.add(layers.BatchNormalization())
        net.add(layers.ReLU())
    net.add(layers.Dropout(0.2))
    net.add(layers.Flatten())
    net.add(layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile("adam", loss, metrics=["accuracy"])
    return net


def main(epochs: int = 30) -> None:
    keras.utils.set_random_seed(0)
    digits = load_digits()  # 1,797 real images, shipped in the package
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = digits.images[order, :, :, None].astype("float32") / 16
    labels = digits.target[order]
    train, rest = slice(1500), slice(1500, None)
    mlflow.set_tracking_uri(STORE)
    mlflow.set_experiment("digits")
    with mlflow.start_run():
        digits_net().fit(images[train], labels[train], batch_size=32, epochs=epochs, verbose=2,
                         validation_data=(images[rest], labels[rest]),
                         callbacks=[ComputeMeter(settle_seconds=10)])  # fmt: skip
    command = Path(sys.executable).parent / "mlflow"
    print(f"\nTo see it in MLflow:  {command} ui --backend-store-uri {STORE}")


if __name__ == "__main__":
    main()
