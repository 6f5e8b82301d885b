"""Which profile this machine is, and figures of a machine that is measured where it stands."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass

from recrl.errors import UserError
from recrl.hardware.profiles import Profile, known_devices, load_profile


@dataclass(frozen=True)
class Detected:
    """What was found.

    Attributes:
        device: type, as torch names it.
        reported: the names of its devices, as torch gives them; of a CPU, its architecture.
        profile: the profile that describes them, or None where none is known.
        why: how the profile was found, or why there is none and what to do.
    """

    device: str
    reported: list[str]
    profile: str | None
    why: str


def detect() -> Detected:
    """Look at the devices that torch would use here."""
    import torch

    from recrl.device.runtime import choose_device

    device = choose_device("auto").type
    if device == "cpu":
        return match(device, [platform.machine()])
    count = torch.accelerator.device_count()
    module = torch.get_device_module(device)
    return match(device, [str(module.get_device_name(number)) for number in range(count)])


def match(device: str, reported: Sequence[str]) -> Detected:
    """The profile of devices by their names; a name that no profile lists is never guessed at."""
    names = list(reported)

    def found(profile: str | None, why: str) -> Detected:
        return Detected(device, names, profile, why)

    if device == "cpu":
        return found("cpu", "no accelerator answers; a CPU is measured where it stands")
    if len(set(names)) > 1:
        return found(None, "the devices differ, and a profile describes devices of one kind; hide some of them")
    known = [load_profile(name) for name in known_devices()]
    base = next((profile for profile in known if names[0] in profile.reported_as), None)
    if base is None:
        return found(None, f"no profile lists {names[0]!r}; write one (`recrl profile show h100` prints an example)")
    if len(names) <= base.node_devices:
        layout = base.name if len(names) == 1 else f"{base.name}-{len(names)}"
        return found(layout, f"torch reports {len(names)} x {names[0]}")
    return found(
        base.name,
        f"torch reports {len(names)} x {names[0]}, and a node has {base.node_devices}: this is the profile of one; "
        f'for all, write a file with base = "{base.name}" and devices_per_node = {len(names)}',
    )


def this_machine() -> Profile:
    """The profile of this machine.

    Raises:
        UserError: none is known for its devices.
    """
    found = detect()
    if found.profile is None:
        raise UserError(f"{len(found.reported)} x {found.reported[0]}", why=found.why, fix="or name a profile")
    return load_profile(found.profile)


def with_figures(profile: Profile) -> Profile:
    """The profile itself, or one with this machine's figures where it says that they are to be measured."""
    if not profile.measured:
        return profile
    import psutil
    import torch

    from recrl.device.copy_speed import copy_speed
    from recrl.device.matmul_speed import product_flops

    device = torch.device(profile.device)
    speed = copy_speed(device) / 1e9
    figures = {
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "bf16_tflops": product_flops(device, "bfloat16") / 1e12,
        "fp32_tflops": product_flops(device, "float32") / 1e12,
        "memory_bandwidth_gbps": speed,
        # One device sends nothing to another; its own memory is as near as it gets.
        "intra_node_gbps": speed,
        "inter_node_gbps": speed,
    }
    sources = dict.fromkeys(figures, "measured on this machine")
    stated = profile.model_dump(exclude_unset=True)
    return Profile.model_validate(stated | figures | {"measured": False, "sources": sources})
