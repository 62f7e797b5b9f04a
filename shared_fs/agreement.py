"""What must be equal on all sides, checked before any file is touched."""

import re
from collections.abc import Mapping, Set
from typing import Any

from .peer_text import parse_object
from .records import HELLO_LIMIT, canonical

_NAME = re.compile(r"[a-z0-9_]{1,32}")
_HOME = re.compile(r"[0-9a-f]{32}")
OPTIONAL = "optional"  # settings below this key count only between roles that both have them
MOST_CHANNELS = 16  # of one role: their numbers must fit into its status block


def check_names(role: str, roles: tuple[str, ...], channels: Mapping[str, tuple[str, str]]) -> None:
    """Raise ValueError unless roles and channels are well named and fit together."""
    for name in (role, *roles, *channels):
        if not _NAME.fullmatch(name):
            raise ValueError(f"role and channel names match [a-z0-9_]{{1,32}}, got {name!r}")
    if len(set(roles)) != len(roles) or len(roles) < 2:
        raise ValueError(f"expected at least two different roles, got {roles}")
    if role not in roles:
        raise ValueError(f"role {role!r} is none of the roles {roles}")
    for each in roles:
        count = sum(each in ends for ends in channels.values())
        if count > MOST_CHANNELS:
            raise ValueError(f"at most {MOST_CHANNELS} channels of a role, got {count} of {each}")
    for channel, (sender, receiver) in channels.items():
        if sender == receiver or not {sender, receiver} <= set(roles):
            raise ValueError(
                f"channel {channel!r} must lead from one of {roles} to another, "
                f"got {sender!r} to {receiver!r}"
            )


_POLICIES = {
    "transport": ("auto", "rename", "mapped"),
    "fsync": ("auto", "never", "always"),
    "fs_profile": ("auto", "local", "network"),
    "nonfinite": ("error", "warn", "allow"),
}


def check_policies(
    window: int, transport: str, fsync: str, fs_profile: str, nonfinite: str, home: str
) -> None:
    """Raise ValueError for a value that no exchange knows."""
    given = {"transport": transport, "fsync": fsync, "fs_profile": fs_profile}
    for name, value in {**given, "nonfinite": nonfinite}.items():
        if value not in _POLICIES[name]:
            raise ValueError(f"{name} must be one of {', '.join(_POLICIES[name])}, got {value!r}")
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    if home and not _HOME.fullmatch(home):
        raise ValueError(f"home must be 32 hex digits or empty, got {home!r}")


def full_agreement(
    roles: tuple[str, ...],
    channels: Mapping[str, tuple[str, str]],
    policies: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The caller's settings with roles, channels and policies, as the peers see them.

    Raises ValueError for settings that are not JSON-able, too long, or named like one of those.
    """
    own: dict[str, Any] = {"roles": roles, "channels": channels, **policies}
    optional = settings.get(OPTIONAL, {})
    if not isinstance(optional, Mapping) or optional.keys() & settings.keys():
        raise ValueError(f"agreement[{OPTIONAL!r}] must hold settings that stand nowhere else")
    taken = sorted({*settings, *optional} & {*own, "protocol"})
    if taken:
        raise ValueError(f"agreement must not name {taken}: they are agreed upon anyway")
    try:
        text = canonical({**settings, **own})
        # As it will stand in a hello, where the peers read it.
        agreement: dict[str, Any] = parse_object(b'{"agreement": %s}' % text)["agreement"]
    except (TypeError, ValueError) as error:
        raise ValueError(f"agreement must be JSON-able: {error}") from error
    if len(text) > HELLO_LIMIT // 2:
        raise ValueError(f"agreement of {len(text)} bytes, at most {HELLO_LIMIT // 2}")
    return agreement


def comparable(
    mine: Mapping[str, Any], peer: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both agreements with their optional settings among the others, but without those that only
    one of the two has: another implementation of a role need not know them."""
    optional = [side.get(OPTIONAL) for side in (mine, peer)]
    first, second = (each if isinstance(each, dict) else {} for each in optional)
    both = first.keys() & second.keys()
    return _flat(mine, first, both), _flat(peer, second, both)


def _flat(
    agreement: Mapping[str, Any], optional: Mapping[str, Any], names: Set[str]
) -> dict[str, Any]:
    rest = {name: value for name, value in agreement.items() if name != OPTIONAL}
    return {**rest, **{name: optional[name] for name in names}}
