"""P4, Keras 3: compile() and fit() as they come, on the backend that KERAS_BACKEND names (torch or jax).

Images lie as the backend likes them: channels first for torch, last for JAX. The layers and their initializers are
set to what torch's are. Keras's running variance is the biased one, and its Adam adds eps before the correction.
"""

import architectures
import keras  # pyright: ignore[reportMissingImports]
import numpy as np
from contract import Clock, Job, Result, main
from keras import layers  # pyright: ignore[reportMissingImports]

BACKEND = keras.backend.backend()
LAST = BACKEND != "torch"


def convolution(job: Job, channels: int, size: int, padding: int = 0, stride: int = 1):
    uniform = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    normal = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    initial = normal if architectures.he_convolutions(job.model) else uniform
    conv = layers.Conv2D(channels, size, strides=stride, use_bias=False, kernel_initializer=initial)
    return (lambda x: conv(layers.ZeroPadding2D(padding)(x))) if padding else conv


def bn():
    return layers.BatchNormalization(
        axis=-1 if LAST else 1, momentum=1 - architectures.BN_MOMENTUM, epsilon=architectures.BN_EPS
    )


def block(job: Job, x, channels: int, stride: int):
    branch = bn()(convolution(job, channels, 3, 1, stride)(x))
    branch = bn()(convolution(job, channels, 3, 1)(layers.ReLU()(branch)))
    new = channels - x.shape[-1 if LAST else 1]
    if stride > 1:
        x = x[:, ::stride, ::stride] if LAST else x[:, :, ::stride, ::stride]
    if new:
        x = keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, new]] if LAST else [[0, 0], [0, new], [0, 0], [0, 0]])
    return layers.ReLU()(layers.Add()([x, branch]))


def make(job: Job) -> keras.Model:
    channels, height, width = job.data.shape
    inputs = x = keras.Input((height, width, channels) if LAST else job.data.shape)
    for kind, *numbers in architectures.layers(job.model, job.data.classes):
        if kind == "conv":
            x = convolution(job, *numbers)(x)
        elif kind == "linear":
            initial = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
            bound = x.shape[-1] ** -0.5
            bias = keras.initializers.RandomUniform(-bound, bound)
            x = layers.Dense(numbers[0], use_bias=numbers[1], kernel_initializer=initial, bias_initializer=bias)(x)
        elif kind == "bn":
            x = bn()(x) if len(x.shape) == 4 else layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        elif kind == "block":
            x = block(job, x, *numbers)
        else:
            its = {"relu": layers.ReLU, "pool": lambda: layers.MaxPooling2D(2), "flatten": layers.Flatten}
            x = its.get(kind, layers.GlobalAveragePooling2D)()(x)
    return keras.Model(inputs, x)


class Timer(keras.callbacks.Callback):
    """The clock stands still while Keras validates; a row is written after that."""

    def __init__(self, job: Job, clock: Clock):
        super().__init__()
        self.job, self.clock = job, clock

    def on_epoch_begin(self, epoch, logs=None):
        self.clock.go()

    def on_test_begin(self, logs=None):
        self.clock.halt()

    def on_epoch_end(self, epoch, logs=None):
        self.clock.lap()
        found = logs or {}
        self.job.row(epoch=epoch + 1, train_loss=found["loss"], val_acc=found["val_accuracy"])


def done() -> None:
    """JAX goes on computing after fit has handed the steps of an epoch out."""
    if BACKEND == "jax":
        import jax  # pyright: ignore[reportMissingImports]

        jax.block_until_ready(jax.live_arrays())


def placed(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if LAST else images


def train(job: Job) -> Result:
    keras.utils.set_random_seed(job.seed)
    keras.config.set_image_data_format("channels_last" if LAST else "channels_first")
    parts = {name: (placed(x), y) for name, (x, y) in ((n, job.data.floats(n)) for n in job.data.parts)}
    model = make(job)
    model.compile(
        optimizer=keras.optimizers.Adam(job.lr, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    clock = Clock(done)
    if job.start:
        losses = from_start(job, job.start, model, *parts["train"])
        val_acc = model.evaluate(*parts["val"], batch_size=1000, verbose=0)[1]
        clock.lap()
    else:
        images, labels = (a[: job.steps_per_epoch * job.batch_size] for a in parts["train"])
        decay = keras.callbacks.LearningRateScheduler(lambda epoch: job.lr * job.gamma**epoch)
        found = model.fit(
            images, labels, batch_size=job.batch_size, epochs=job.epochs, shuffle=True, verbose=0,
            validation_data=parts["val"], validation_batch_size=1000, callbacks=[decay, Timer(job, clock)],
        )  # fmt: skip
        val_acc, losses = found.history["val_accuracy"][-1], []
    test_acc = model.evaluate(*parts["test"], batch_size=1000, verbose=0)[1]
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return Result(trainable, clock.epochs, val_acc, test_acc, losses)


def from_start(job: Job, start, model: keras.Model, images: np.ndarray, labels: np.ndarray) -> list[float]:
    """The loss of each step on the start's batches, from its weights."""
    arrays = architectures.channels_last(job.model, start.arrays, job.data.shape)  # Keras flattens as H, W, C always
    owners = [layer for layer in model.layers if isinstance(layer, (layers.Dense, layers.Conv2D))]
    its = [v for layer in owners for v in layer.trainable_weights]
    for variable, array in zip(its, arrays, strict=True):
        variable.assign(array)
    losses = []
    for index in start.order:
        model.reset_metrics()  # the loss that it gives is a mean since then
        losses.append(float(model.train_on_batch(images[index], labels[index])[0]))
    return losses


def versions() -> dict[str, str]:
    backend = __import__(BACKEND)
    return {"keras": keras.__version__, BACKEND: backend.__version__}


if __name__ == "__main__":
    if BACKEND == "torch":
        import torch

        torch.set_num_threads(1)
    main(train, versions)
