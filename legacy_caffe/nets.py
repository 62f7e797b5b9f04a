"""net1, net2 and the undivided net in pycaffe: forward, backward, update.

Written against pycaffe's habits:
- Parameter diffs add up over backward passes until somebody clears them.
- `set_input_arrays` feeds layer 0 alone, copies nothing and lets go of nothing: it is called once,
  and the array is overwritten in place.  The array holds one batch, so no forward pass moves on.
- What a MemoryData layer shows is the array it was given, from its first forward pass on.
- The test net of a solver has weights of its own until it is told to share.
- `forward(end=...)` also takes the name as that of a blob, so it ends at layers whose blob has
  their name, and not at a ReLU in place.
"""

import importlib
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from legacy_caffe.settings import LOSSES, BadSetting, Settings

FOLDER = Path(__file__).resolve().parent


class NoCaffe(Exception):
    """pycaffe cannot be imported, or lacks what is needed."""


class Options(NamedTuple):
    """How one side trains; the other does not need to know.

    folder       of the prototxts: a folder beside this file, or any other
    lr           learning rate; None: base_lr of the solver
    update       "hand": w -= lr dw with this one rate (eq. 7.1); "solver": Caffe's own update
    accumulate   leave the diffs of earlier iterations in place
    builtin      Caffe's own EuclideanLoss in place of the Python layer
    gpu          number of the GPU; None: CPU
    """

    folder: Path
    lr: float | None = None
    update: str = "hand"
    accumulate: bool = False
    builtin: bool = False
    gpu: int | None = None


def import_caffe() -> Any:
    """The module `caffe`.  Raises NoCaffe."""
    try:
        return importlib.import_module("caffe")
    except Exception as error:  # a half-built one may raise almost anything
        raise NoCaffe(f"pycaffe cannot be imported ({error}): build BVLC Caffe 1.0 with "
                      "WITH_PYTHON_LAYER=1 and put its folder 'python' on PYTHONPATH; 'dualnet' "
                      "trains the same nets without it") from None


def folder_of(name: str) -> Path:
    """The prototxts of `--net NAME`.  Raises BadSetting if there are none."""
    folder = FOLDER / name if (FOLDER / name).is_dir() else Path(name)
    if not (folder / "net1.prototxt").is_file():
        known = ", ".join(sorted(path.parent.name for path in FOLDER.glob("*/net1.prototxt")))
        raise BadSetting(f"--net: expected one of {known}, or a folder with net1.prototxt, found "
                         f"{name}")
    return folder


class Trainer:
    """A Caffe solver whose net was fitted to the data; the base of the three nets below.

    image_shape  (C, H, W) of the data
    num_classes  outputs of fc6
    Raises NoCaffe; Caffe itself ends the process if a prototxt is wrong.
    """

    role: str

    def __init__(self, options: Options, settings: Settings, image_shape: tuple[int, ...],
                 num_classes: int) -> None:
        self.caffe = import_caffe()
        self._options, self._settings = options, settings
        self._image_shape, self._num_classes = image_shape, num_classes
        self.caffe.set_random_seed(settings.seed)
        if options.gpu is None:
            self.caffe.set_mode_cpu()
        else:
            self.caffe.set_device(options.gpu)
            self.caffe.set_mode_gpu()
        self.solver = self._make_solver()
        self.net = self.solver.net
        if options.update == "solver" and not hasattr(self.solver, "apply_update"):
            raise NoCaffe("this pycaffe has no solver.apply_update: take --update hand")

    def learn(self) -> None:
        """Backward pass, and one update of the weights."""
        if not self._options.accumulate:
            self._clear_diffs()
        self.net.backward()
        if self._options.update == "solver":
            self.solver.apply_update()
            return
        for blob in self._weights():
            blob.data[...] -= self.lr * blob.diff

    def _clear_diffs(self) -> None:
        if hasattr(self.net, "clear_param_diffs"):
            self.net.clear_param_diffs()
        else:
            for blob in self._weights():
                blob.diff[...] = 0

    def _weights(self) -> list[Any]:
        return [blob for blobs in self.net.params.values() for blob in blobs]

    def _make_solver(self) -> Any:
        """Read the solver's and the net's prototxt, fit the net to the data, and build both."""
        messages = importlib.import_module("caffe.proto.caffe_pb2")
        text_format = importlib.import_module("google.protobuf.text_format")
        solver = messages.SolverParameter()
        text_format.Merge((self._options.folder / f"{self.role}_solver.prototxt").read_text(),
                          solver)
        net = solver.net_param
        text_format.Merge((self._options.folder / Path(solver.net).name).read_text(), net)
        solver.ClearField("net")
        solver.random_seed = self._settings.seed
        if self._options.gpu is not None:
            solver.solver_mode = messages.SolverParameter.GPU
        if self._options.lr is not None:
            solver.base_lr = self._options.lr
        self.lr = solver.base_lr
        self._fit(net)
        with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
            file.write(text_format.MessageToString(solver))
            file.flush()
            return self.caffe.get_solver(file.name)

    def _fit(self, net: Any) -> None:
        """Batch size, image shape and number of classes, in the layers that state them."""
        for layer in net.layer:
            if layer.type == "MemoryData":
                layer.memory_data_param.batch_size = self._settings.batch_size
                if layer.name == "data":
                    memory = layer.memory_data_param
                    memory.channels, memory.height, memory.width = self._image_shape
            elif layer.type == "Input":
                layer.input_param.shape[0].dim[:] = [self._settings.batch_size, *self._image_shape]
            elif layer.name == "fc6":
                layer.inner_product_param.num_output = self._num_classes


class Fed:
    """The array and labels behind the MemoryData layer `top` of a net, one batch large."""

    def __init__(self, net: Any, top: str) -> None:
        self.array = np.zeros(net.blobs[top].data.shape, np.float32)
        self.labels = np.zeros(len(self.array), np.float32)
        net.set_input_arrays(self.array, self.labels)
        net.forward(end=top)  # from now on the blob is the array

    def fill(self, array: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Overwrite the first len(array) samples; the rest of the batch is nobody's."""
        self.array[:len(array)] = array
        if labels is not None:
            self.labels[:len(labels)] = labels


class Net1(Trainer):
    """data, conv1..conv3 and the distance of conv3 to conv3p."""

    role = "net1"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._conv3p = Fed(self.net, "conv3p")
        self._used = 0

    def _fit(self, net: Any) -> None:
        super()._fit(net)
        loss = LOSSES[self._settings.loss]
        layer = next(layer for layer in net.layer if layer.name == "loss")
        if self._options.builtin:
            layer.type = "EuclideanLoss"
            layer.ClearField("python_param")
        else:
            layer.python_param.layer = loss.layer
            if loss.layer != "EuclideanLossLayer":
                layer.python_param.param_str = f'{{"denominator": "{self._settings.denominator}"}}'
        if not loss.has_weight:
            layer.ClearField("loss_weight")

    def forward(self, images: np.ndarray) -> np.ndarray:
        """pool2 of images [n, C, H, W], n at most a batch."""
        self._used = len(images)
        self.net.blobs["data"].data[:self._used] = images
        self.net.forward(start="conv1", end="pool2")
        return self.net.blobs["pool2"].data[:self._used]

    def compared(self) -> np.ndarray:
        """conv3 of those images, after its ReLU.  The loss that comes with it is discarded."""
        self.net.forward(start="conv3")
        return self.net.blobs["conv3"].data[:self._used]

    def loss(self, answer: np.ndarray) -> float:
        """The distance to `answer`, computed anew, because the layer remembers the old one."""
        self._conv3p.fill(answer)
        self.net.forward(start="loss")
        return float(self.net.blobs["loss"].data.ravel()[0])


class Net2(Trainer):
    """conv3p..fc6 and the softmax loss, on the pool2 that net1 sent."""

    role = "net2"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pool2 = Fed(self.net, "pool2")
        self._test = _test_net(self.solver)
        self._test_pool2 = Fed(self._test, "pool2")
        self.boundary = tuple(self.net.blobs["pool2"].data.shape[1:])
        self.compared = tuple(self.net.blobs["conv3p"].data.shape[1:])

    def forward(self, boundary: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss of a batch, and its scores."""
        self._pool2.fill(boundary, labels)
        self.net.forward()
        return float(self.net.blobs["loss"].data), self.net.blobs["fc6"].data

    def answer(self) -> np.ndarray:
        """conv3p of that batch, after its ReLU; the update of the weights does not touch it."""
        return self.net.blobs["conv3p"].data

    def scores(self, boundary: np.ndarray) -> np.ndarray:
        """fc6 of test activations, without dropout."""
        self._test_pool2.fill(boundary)
        self._test.forward()
        return self._test.blobs["fc6"].data[:len(boundary)]

    def scores_of_compared(self, compared: np.ndarray) -> np.ndarray:
        """fc6 with net1's conv3 in the place of conv3p."""
        self._test.blobs["conv3p"].data[:len(compared)] = compared
        self._test.forward(start="conv4")
        return self._test.blobs["fc6"].data[:len(compared)]


class Single(Trainer):
    """The undivided net."""

    role = "single"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._data = Fed(self.net, "data")
        self._test = _test_net(self.solver)
        self._test_data = Fed(self._test, "data")

    def forward(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss of a batch, and its scores."""
        self._data.fill(images, labels)
        self.net.forward()
        return float(self.net.blobs["loss"].data), self.net.blobs["fc6"].data

    def scores(self, images: np.ndarray) -> np.ndarray:
        """fc6 of test images, without dropout."""
        self._test_data.fill(images)
        self._test.forward()
        return self._test.blobs["fc6"].data[:len(images)]


NETS = {"net1": Net1, "net2": Net2, "single": Single}


def _test_net(solver: Any) -> Any:
    """The solver's test net, with the weights of its training net instead of random ones."""
    net = solver.test_nets[0]
    net.share_with(solver.net)
    return net
