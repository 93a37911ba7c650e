"""A network cable with a delay, for kernels without `tc netem`: what a TUN device of one namespace sends comes out of another's, some time later.

Run by `benchmarks.scaling_network` as root, with the path of this file, so that nothing but Python's own library is loaded. The rate is not its
business: the kernel's tbf on each device sees to that. Prints "ready" when all devices are there, and works until it is ended.
"""

import argparse
import collections
import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys
import time

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_PR_SET_TIMERSLACK, _PR_SET_PDEATHSIG = 29, 1
_MOST = 65535
_AT_ONCE = 64
"""Packets taken from a device before the others have their turn."""


def main(argv=None):
    """Relay packets until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--delay", type=float, required=True, help="seconds, one way")
    parser.add_argument("--device", required=True, help="name of the TUN device in each namespace")
    parser.add_argument("namespaces", nargs="+", help="the namespace at place i has the IPv4 address that ends with i + 1")
    options = parser.parse_args(argv)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, 15)
    libc.prctl(_PR_SET_TIMERSLACK, 1)
    devices = [_open(libc, name, options.device) for name in options.namespaces]
    with contextlib.suppress(OSError):  # the ranks keep all cores busy, and the delay is to be right all the same
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    relay(devices, options.delay)


def relay(devices, delay):
    """Hand packets on between file descriptors: each read is one IPv4 packet, whose address's last byte tells the device, from 1 on."""
    waiting = collections.deque()  # (when it is due, device, packet); the delay is the same for all, so the first is due first
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for device in select.select(devices, [], [], pause)[0]:
            for _ in range(_AT_ONCE):
                try:
                    packet = os.read(device, _MOST)
                except BlockingIOError:
                    break
                if len(packet) >= 20 and packet[0] >> 4 == 4 and 1 <= packet[19] <= len(devices):
                    waiting.append((time.monotonic() + delay, devices[packet[19] - 1], packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, device, packet = waiting.popleft()
            with contextlib.suppress(BlockingIOError):  # a full queue loses packets, as any network does
                os.write(device, packet)


def _open(libc, namespace, device):
    """Return the file descriptor of a new TUN device in a namespace."""
    with open("/run/netns/" + namespace, "rb") as inside, open("/proc/self/ns/net", "rb") as home:
        _enter(libc, inside)
        try:
            found = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(found, _TUNSETIFF, struct.pack("16sH22x", device.encode("ascii"), _IFF_TUN | _IFF_NO_PI))
        finally:
            _enter(libc, home)
    return found


def _enter(libc, namespace):
    if libc.setns(namespace.fileno(), _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main()
