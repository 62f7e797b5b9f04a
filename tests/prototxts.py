"""Prototxt files as people wrote them over the years, in our own words, for the tests."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEGACY = ROOT / "legacy_caffe"

# LeNet as of 2015: a Data layer per phase, lr_mult 1 and 2, xavier.
LENET = """
name: "digits"
layer {
  name: "mnist" type: "Data" top: "data" top: "label"
  include { phase: TRAIN }
  transform_param { scale: 0.00390625 }
  data_param { source: "train_lmdb" batch_size: 64 backend: LMDB }
}
layer {
  name: "mnist" type: "Data" top: "data" top: "label"
  include { phase: TEST }
  transform_param { scale: 0.00390625 }
  data_param { source: "test_lmdb" batch_size: 100 backend: LMDB }
}
layer {
  name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param { lr_mult: 1 }
  param { lr_mult: 2 }
  convolution_param {
    num_output: 20 kernel_size: 5 stride: 1
    weight_filler { type: "xavier" } bias_filler { type: "constant" }
  }
}
layer {
  name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 }
}
layer {
  name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  param { lr_mult: 1 }
  param { lr_mult: 2 }
  convolution_param {
    num_output: 50 kernel_size: 5 stride: 1
    weight_filler { type: "xavier" } bias_filler { type: "constant" }
  }
}
layer {
  name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 }
}
layer {
  name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
  param { lr_mult: 1 }
  param { lr_mult: 2 }
  inner_product_param {
    num_output: 500 weight_filler { type: "xavier" } bias_filler { type: "constant" }
  }
}
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer {
  name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  param { lr_mult: 1 }
  param { lr_mult: 2 }
  inner_product_param {
    num_output: 10 weight_filler { type: "xavier" } bias_filler { type: "constant" }
  }
}
layer {
  name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""

# A small net for CIFAR-10 in the form of 2014: `layers`, types in capitals, blobs_lr.
QUICK = """
name: "quick"
layers {
  name: "cifar" type: DATA top: "data" top: "label"
  data_param { source: "cifar-leveldb" mean_file: "mean.binaryproto" batch_size: 100 }
  include: { phase: TRAIN }
}
layers {
  name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
  blobs_lr: 1 blobs_lr: 2
  convolution_param {
    num_output: 32 pad: 2 kernel_size: 5 stride: 1
    weight_filler { type: "gaussian" std: 0.0001 } bias_filler { type: "constant" }
  }
}
layers {
  name: "pool1" type: POOLING bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 }
}
layers { name: "relu1" type: RELU bottom: "pool1" top: "pool1" }
layers {
  name: "conv2" type: CONVOLUTION bottom: "pool1" top: "conv2"
  blobs_lr: 1 blobs_lr: 2
  convolution_param {
    num_output: 32 pad: 2 kernel_size: 5
    weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" }
  }
}
layers { name: "relu2" type: RELU bottom: "conv2" top: "conv2" }
layers {
  name: "pool2" type: POOLING bottom: "conv2" top: "pool2"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 }
}
layers {
  name: "conv3" type: CONVOLUTION bottom: "pool2" top: "conv3"
  blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param {
    num_output: 64 pad: 2 kernel_size: 5
    weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" }
  }
}
layers { name: "relu3" type: RELU bottom: "conv3" top: "conv3" }
layers {
  name: "pool3" type: POOLING bottom: "conv3" top: "pool3"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 }
}
layers {
  name: "ip1" type: INNER_PRODUCT bottom: "pool3" top: "ip1"
  blobs_lr: 1 blobs_lr: 2
  inner_product_param { num_output: 64 weight_filler { type: "gaussian" std: 0.1 } }
}
layers {
  name: "ip2" type: INNER_PRODUCT bottom: "ip1" top: "ip2"
  blobs_lr: 1 blobs_lr: 2
  inner_product_param { num_output: 10 weight_filler { type: "gaussian" std: 0.1 } }
}
layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip2" bottom: "label" }
"""


def _deploy_conv(name: str, bottom: str, sizes: str) -> str:
    return (f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"\n'
            f"  convolution_param {{ {sizes} }} }}\n"
            f'layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}\n')


def _deploy_pool(name: str, bottom: str) -> str:
    return (f'layer {{ name: "{name}" type: "Pooling" bottom: "{bottom}" top: "{name}"\n'
            "  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }\n")


def _deploy_norm(name: str, bottom: str) -> str:
    return (f'layer {{ name: "{name}" type: "LRN" bottom: "{bottom}" top: "{name}"\n'
            "  lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 } }\n")


def _deploy_fc(name: str, bottom: str, outputs: int) -> str:
    return (f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"\n'
            f"  inner_product_param {{ num_output: {outputs} }} }}\n")


def _deploy_drop(name: str, blob: str) -> str:
    return (f'layer {{ name: "relu_{blob}" type: "ReLU" bottom: "{blob}" top: "{blob}" }}\n'
            f'layer {{ name: "{name}" type: "Dropout" bottom: "{blob}" top: "{blob}"\n'
            "  dropout_param { dropout_ratio: 0.5 } }\n")


# CaffeNet for use: input_dim, two groups, LRN behind the pooling, eight layers of weights.
CAFFENET = (
    'name: "CaffeNet"\ninput: "data"\ninput_dim: 10 input_dim: 3 input_dim: 227 input_dim: 227\n'
    + _deploy_conv("conv1", "data", "num_output: 96 kernel_size: 11 stride: 4")
    + _deploy_pool("pool1", "conv1") + _deploy_norm("norm1", "pool1")
    + _deploy_conv("conv2", "norm1", "num_output: 256 pad: 2 kernel_size: 5 group: 2")
    + _deploy_pool("pool2", "conv2") + _deploy_norm("norm2", "pool2")
    + _deploy_conv("conv3", "norm2", "num_output: 384 pad: 1 kernel_size: 3")
    + _deploy_conv("conv4", "conv3", "num_output: 384 pad: 1 kernel_size: 3 group: 2")
    + _deploy_conv("conv5", "conv4", "num_output: 256 pad: 1 kernel_size: 3 group: 2")
    + _deploy_pool("pool5", "conv5")
    + _deploy_fc("fc6", "pool5", 4096) + _deploy_drop("drop6", "fc6")
    + _deploy_fc("fc7", "fc6", 4096) + _deploy_drop("drop7", "fc7")
    + _deploy_fc("fc8", "fc7", 1000)
    + 'layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }\n')

SOLVER = """
# the solver of the digits
net: "digits.prototxt"
test_iter: 100
test_interval: 500
base_lr: 0.01
momentum: 0.9
weight_decay: 0.0005
lr_policy: "inv"
gamma: 0.0001
power: 0.75
display: 100
max_iter: 10000
snapshot: 5000
snapshot_prefix: "examples/digits"
solver_mode: CPU
"""


def _layer(name: str, type: str, bottom: str, top: str, words: str) -> str:
    return f'layer {{ name: "{name}" type: "{type}" bottom: "{bottom}" top: "{top}"\n  {words} }}\n'


_TWICE = "param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }\n  "
_FILL = 'weight_filler { type: "xavier" }'


def _conv(name: str, bottom: str, maps: int, side: int) -> str:
    sizes = f"num_output: {maps} kernel_size: {side} pad: {side // 2} {_FILL}"
    return (_layer(name, "Convolution", bottom, name, f"{_TWICE}convolution_param {{ {sizes} }}")
            + _layer(name.replace("conv", "relu"), "ReLU", name, name, ""))


def _pool(number: int) -> str:
    return _layer(f"pool{number}", "Pooling", f"conv{number}", f"pool{number}",
                  "pooling_param { kernel_size: 3 stride: 2 }")


def _memory(top: str, shape: tuple[int, int, int]) -> str:
    sizes = " ".join(f"{name}: {size}" for name, size in
                     zip(("channels", "height", "width"), shape, strict=True))
    return (f'layer {{ name: "{top}" type: "MemoryData" top: "{top}" top: "{top}_label"\n'
            f"  memory_data_param {{ batch_size: 20 {sizes} }} }}\n")


# The two halves of a net as large as caffenet-small, at a batch of 20.
NET1 = ('name: "front"\n' + _memory("conv3p", (64, 8, 8)) + _memory("data", (3, 32, 32))
        + _conv("conv1", "data", 32, 5) + _pool(1) + _conv("conv2", "pool1", 32, 5) + _pool(2)
        + _conv("conv3", "pool2", 64, 3)
        + 'layer { name: "loss" type: "Python" bottom: "conv3" bottom: "conv3p" top: "loss"\n'
          '  loss_weight: 1\n'
          '  python_param { module: "losses" layer: "EuclideanLossLayer" } }\n')
NET2 = ('name: "back"\n' + _memory("pool2", (32, 8, 8)) + _conv("conv3p", "pool2", 64, 3)
        + _conv("conv4", "conv3p", 64, 3) + _pool(4)
        + _layer("fc5", "InnerProduct", "pool4", "fc5",
                 f"{_TWICE}inner_product_param {{ num_output: 64 {_FILL} }}")
        + _layer("relu5", "ReLU", "fc5", "fc5", "")
        + _layer("fc6", "InnerProduct", "fc5", "fc6",
                 f"{_TWICE}inner_product_param {{ num_output: 10 {_FILL} }}")
        + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc6" bottom: "pool2_label"\n'
          '  top: "loss" }\n')
SINGLE = (NET1.split('layer { name: "conv3p"')[0] + NET1[NET1.index('layer { name: "data"'):
          NET1.index('layer { name: "loss"')] + NET2[NET2.index('layer { name: "conv4"'):]
          ).replace("conv3p", "conv3").replace("pool2_label", "data_label")


def solver(net: str, base_lr: float, words: str = "") -> str:
    """A solver of three iterations whose rate falls in each."""
    return (f'net: "{net}"\nbase_lr: {base_lr}\nlr_policy: "step"\ngamma: 0.5\nstepsize: 1\n'
            f"momentum: 0.9\nweight_decay: 0.01\nmax_iter: 3\n{words}")
