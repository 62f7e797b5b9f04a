"""All targets by name."""

from dualnet.reproduce import bidart, dun, partition, solomatov, thesis
from dualnet.reproduce.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*thesis.TARGETS, *partition.TARGETS, *solomatov.TARGETS,
                                       *bidart.TARGETS, *dun.TARGETS)}

# Compares the port with arrays that Caffe wrote, and keeps a table of its own.
CAFFE_FIDELITY = "caffe-fidelity"
FIDELITY_TABLE = "caffe_fidelity.md"
