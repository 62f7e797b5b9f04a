"""The kind of file system is read from mountinfo by the longest prefix."""

import pytest

from shared_fs import detect
from shared_fs.profile import LOCAL, LOCAL_KINDS, NETWORK, kind_of

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /data rw shared:2 - nfs4 server:/data rw
31 30 0:41 / /data/fast rw - tmpfs tmpfs rw
32 22 0:42 / /with\\040space rw - fuse.sshfs me@host: rw
33 22 0:43 / /twice rw - ext4 /dev/sdb1 rw
34 33 0:44 / /twice rw - cifs //server/share rw
garbage
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/run", "ext4"),
        ("/data", "nfs4"),
        ("/data/run", "nfs4"),
        ("/data/fast/run", "tmpfs"),
        ("/database", "ext4"),  # a prefix of the text, not of the path
        ("/with space/run", "fuse.sshfs"),
        ("/twice/run", "cifs"),  # mounted over the first
    ],
)
def test_the_longest_mount_point_that_holds_the_path_decides(tmp_path, path, kind):
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert kind_of(path, table) == kind


def test_without_a_mount_table_the_kind_is_unknown(tmp_path):
    assert kind_of("/", tmp_path / "absent") == "unknown"


def test_only_kinds_that_are_known_to_be_coherent_are_local(tmp_path):
    assert detect("/proc") is NETWORK
    assert detect(tmp_path) is (LOCAL if kind_of(tmp_path) in LOCAL_KINDS else NETWORK)
    assert not LOCAL_KINDS & {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "unknown"}
    assert LOCAL.longest_sleep_s == 0.001
