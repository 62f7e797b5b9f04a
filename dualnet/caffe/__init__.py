"""Caffe's semantics in PyTorch: layers, losses, fillers, solvers and learning-rate policies.

Arguments have the names of the prototxt fields.  Checked against arrays that BVLC Caffe 1.0 wrote
(`tests/golden/caffe`; `results/caffe_fidelity.md` has the differences).  Bad arguments raise
ValueError.

Prototxt files come in through `definition.read_net`, `net.CaffeNet` and `solver_file.read_solver`,
which raise PrototxtError with the line.
"""

from dualnet.caffe.fillers import ZERO, Filler, constant, filler, gaussian, xavier
from dualnet.caffe.layers import LRN, Convolution, InnerProduct, Pooling, max_pool, relu
from dualnet.caffe.loss_layers import Accuracy, EuclideanLoss, SoftmaxWithLoss
from dualnet.caffe.rates import Rate, rate
from dualnet.caffe.solvers import SGD, SOLVERS, Solver, solver

__all__ = ["LRN", "SGD", "SOLVERS", "ZERO", "Accuracy", "Convolution", "EuclideanLoss", "Filler",
           "InnerProduct", "Pooling", "Rate", "SoftmaxWithLoss", "Solver", "constant", "filler",
           "gaussian", "max_pool", "rate", "relu", "solver", "xavier"]
