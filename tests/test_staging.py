"""Copies beside the computations of a GPU.  Runs where there is one."""

import threading

import numpy as np
import pytest
import torch

from dualnet.channel import FileChannel
from shared_fs import Exchange

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CHANNELS = {"there": ("net1", "net2"), "back": ("net2", "net1")}
SHAPE = (64, 32, 16, 16)


@pytest.fixture
def both(tmp_path):
    """The two ends of an exchange in this process."""
    ends = {role: Exchange(tmp_path, role, channels=CHANNELS, final_barrier=False)
            for role in ("net1", "net2")}
    threads = [threading.Thread(target=end.open) for end in ends.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    yield ends["net1"], ends["net2"]
    for end in ends.values():
        end.close()


def test_what_a_gpu_computes_crosses_whole_however_busy_it_is(both):
    device = torch.device("cuda:0")
    near, far = (FileChannel(end, device) for end in both)
    factor = torch.randn(4096, 4096, device=device) / 64
    for sequence in range(20):
        x = torch.randn(SHAPE, device=device)
        busy = factor
        for _ in range(10):
            busy = busy @ factor        # queued before what is sent
        expected = x + 0 * busy.sum()
        near.send("there", sequence, expected)
        near.flush()
        assert torch.equal(far.recv("there", sequence, SHAPE, torch.float32), expected)
        far.send("back", sequence, expected)
        far.flush()
        assert torch.equal(near.recv("back", sequence, SHAPE, torch.float32), expected)


def test_a_message_leaves_with_the_next_call(both):
    near, out = FileChannel(both[0], torch.device("cuda:0")), np.empty(SHAPE, np.float32)
    first, second = (torch.randn(SHAPE, device="cuda:0") for _ in range(2))
    near.send("there", 0, first)
    assert near.bytes_sent == 0
    near.send("there", 1, second)
    np.testing.assert_array_equal(both[1].recv("there", 0, out), first.cpu().numpy())
    near.flush()
    np.testing.assert_array_equal(both[1].recv("there", 1, out), second.cpu().numpy())
