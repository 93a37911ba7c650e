"""Networks with a delay and a rate on one machine: a network namespace for each rank, joined by a switch in a namespace of its own.

The switch is a bridge, and each rank's cable a pair of veth devices, whose sending end in the rank's namespace is shaped: tbf gives the rate, netem
the delay. Where the kernel has no netem, `benchmarks.scaling_relay` stands in for switch and cables of networks with a delay: TUN devices, tbf on
them, and a process that hands packets on when their time has come. All of it lives in namespaces named after this process, so that nothing of the
machine's own network changes and the end of the namespaces is the end of it all; what a killed process has left is removed by the next.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple, Optional

from mtc.errors import UserError

DEVICE = "mtc0"
_PREFIX = "mtc-scaling-"
_SWITCH = "switch"
_BRIDGE_MTU = 9000
_PACKETS_A_SECOND = 10000
"""As many as the relay takes without being felt; faster networks have larger packets."""


class Link(NamedTuple):
    """What a rank's cable is like."""

    name: str
    rate: Optional[float]
    """Bit/s that a rank can send; None: as fast as the machine goes."""
    delay: float
    """Seconds one way."""


class Network:
    """Namespaces that see each other. Use as a context manager: its end ends what runs in them, and removes them."""

    def __init__(self, ranks, link):
        self.ranks, self.link = ranks, link
        self.how = "bridge"
        """What makes the delay: "bridge" (there is none), "netem" or "relay"."""
        self._name = "{}{}-".format(_PREFIX, os.getpid())
        self._relay = None
        self._processes = []

    def __enter__(self):
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        with _undisturbed():
            for process in self._processes + ([self._relay] if self._relay else []):
                if process.poll() is None:
                    process.kill()
                process.wait()
            self._processes, self._relay = [], None
            for name in _namespaces():
                if name.startswith(self._name):
                    _ip("netns", "del", name)

    def address(self, rank):
        """Return the IPv4 address of a rank."""
        return "10.77.0.{}".format(rank + 1)

    def start(self, rank, command, **options):
        """Return the `subprocess.Popen` of a command in a rank's namespace; it ends with the network at the latest."""
        process = subprocess.Popen(["ip", "netns", "exec", self._of(rank)] + command, preexec_fn=_die_with_the_parent, **options)
        self._processes.append(process)
        return process

    def _of(self, rank):
        return self._name + str(rank)

    def _make(self):
        for rank in range(self.ranks):
            _ip("netns", "add", self._of(rank))
            _ip("-n", self._of(rank), "link", "set", "lo", "up")
        self.how = "bridge" if not self.link.delay else "netem" if has_netem() else "relay"
        mtu = self._cables() if self.how == "relay" else self._bridge()
        for rank in range(self.ranks):
            _ip("-n", self._of(rank), "addr", "add", self.address(rank) + "/24", "dev", DEVICE)
            _ip("-n", self._of(rank), "link", "set", DEVICE, "mtu", str(mtu), "up")
            for words in shaping(self.link, mtu, netem=self.how == "netem"):
                _run("tc", "-n", self._of(rank), "qdisc", "add", "dev", DEVICE, *words)

    def _bridge(self):
        switch = self._name + _SWITCH
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge0", "mtu", str(_BRIDGE_MTU), "up")
        for rank in range(self.ranks):
            port = "port{}".format(rank)
            _ip("-n", switch, "link", "add", port, "mtu", str(_BRIDGE_MTU), "type", "veth", "peer", "name", DEVICE, "netns", self._of(rank))
            _ip("-n", switch, "link", "set", port, "master", "bridge0", "up")
        return _BRIDGE_MTU

    def _cables(self):
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scaling_relay.py")
        command = [sys.executable, "-S", "-E", program, "--delay", repr(self.link.delay), "--device", DEVICE]
        self._relay = subprocess.Popen(
            command + [self._of(rank) for rank in range(self.ranks)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_own_group
        )
        if self._relay.stdout.readline() != b"ready\n":
            raise UserError("no TUN device can be made: {}".format(self._relay.stderr.read().decode("utf-8", "replace").strip()[-300:]))
        return packet_size(self.link.rate)


def shaping(link, mtu, netem):
    """Return the words of `tc qdisc add dev X` for a sending device, one list a call. netem: it makes the delay."""
    rate = []
    if link.rate:
        burst = max(2 * mtu, int(link.rate / 8 * 2e-4))
        rate = ["tbf", "rate", "{:d}bit".format(int(link.rate)), "burst", str(burst), "latency", "200ms"]
    if not (netem and link.delay):
        return [["root"] + rate] if rate else []
    delay = [["root", "handle", "1:", "netem", "delay", "{:d}us".format(int(round(link.delay * 1e6))), "limit", "200000"]]
    return delay + ([["parent", "1:1", "handle", "10:"] + rate] if rate else [])


def packet_size(rate):
    """Return the bytes of a relay's packets, so that there are no more of them than it can take."""
    return int(min(65000, max(1500, (rate or 1e12) / 8 / _PACKETS_A_SECOND)))


def check():
    """Refuse what cannot be done here, in a sentence. Errors: UserError."""
    if not sys.platform.startswith("linux"):
        raise UserError("networks are made of Linux's network namespaces, and this is {}".format(sys.platform))
    for program in ("ip", "tc"):
        if not shutil.which(program):
            raise UserError("there is no command '{}': install iproute2 (Debian: apt-get install iproute2)".format(program))
    if os.geteuid() != 0:
        raise UserError("network namespaces take root's rights: start it as root (sudo)")
    _remove_stale()
    name = "{}{}-check".format(_PREFIX, os.getpid())
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", DEVICE, "type", "veth", "peer", "name", "other")
        _run("tc", "-n", name, "qdisc", "add", "dev", DEVICE, "root", *shaping(Link("", 1e9, 0.0), 1500, netem=False)[0][1:])
    except UserError as error:
        raise UserError("network namespaces do not work on this machine: {}".format(error)) from None
    finally:
        subprocess.run(["ip", "netns", "del", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if not has_netem() and not os.path.exists("/dev/net/tun"):
        raise UserError("this kernel can delay no packets: it has no netem (module sch_netem), and there is no /dev/net/tun to do without")


_netem = None


def has_netem():
    """Whether this kernel delays packets by `tc netem`; asked once."""
    global _netem
    if _netem is None:
        name = "{}{}-netem".format(_PREFIX, os.getpid())
        _ip("netns", "add", name)
        try:
            command = ["tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
            _netem = not subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
        finally:
            _ip("netns", "del", name)
    return _netem


def _remove_stale():
    """Remove namespaces whose process is gone."""
    for name in _namespaces():
        found = re.match(re.escape(_PREFIX) + r"(\d+)-", name)
        if found and not os.path.exists("/proc/" + found.group(1)):
            _ip("netns", "del", name)


def _namespaces():
    listed = subprocess.run(["ip", "netns", "list"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    return [line.split()[0] for line in listed.decode("utf-8", "replace").splitlines() if line.split()]


def _ip(*words):
    _run("ip", *words)


def _run(*words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise UserError("'{}': {}".format(" ".join(words), " ".join(done.stdout.decode("utf-8", "replace").split())))


@contextlib.contextmanager
def _undisturbed():
    """Hold off Ctrl-C and SIGTERM: nothing is to be left behind."""
    numbers = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _own_group():
    """Take the terminal's Ctrl-C from the parent alone."""
    os.setpgid(0, 0)


def _die_with_the_parent():
    import ctypes

    _own_group()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
