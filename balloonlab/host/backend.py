"""The balloon device as a vhost-user back-end: for a driver in another process."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from threading import Condition
from typing import Self

import numpy as np

from .. import wire
from ..queue import Worker
from ..queue.vhost_user import (
    CONFIG_HEAD,
    PAIR,
    U64,
    Message,
    ProtocolFeature,
    Request,
    VhostUserError,
    announce_config,
    answer,
    receive,
)
from ..wire import Feature
from ..wire.blocks import BLOCKS
from .device import BalloonDevice, no_balloon, no_guard
from .policy import Policy
from .shared import SharedRam
from .vring import Addresses, Vring

CONFIG = np.dtype(
    [("num_pages", "<u4"), ("actual", "<u4"), ("command", "<u4"), ("poison_val", "<u4")]
)
"""The device's configuration (virtio 1.x section 5.5.4): the target, what the driver has, the
command id of free page hinting."""

STOP, DONE, FIRST_COMMAND = 0, 1, 2
"""Command ids of free page hinting (virtio 1.x section 5.5.6.6)."""

HINTING, REPORTING = "hinting", "reporting"

_ALWAYS = Feature.VERSION_1 | Feature.VHOST_USER | Feature.MUST_TELL_HOST
_SPOKEN = ProtocolFeature.BACKEND_REQ | ProtocolFeature.CONFIG
"""Not REPLY_ACK: Linux's driver writes what it has after every 256 pages, and would wait for an
answer of ours, which is Python, each time (10 % of an inflation without discards)."""

_POLL_S = 0.05


class Backend:
    """A balloon device that waits for a front-end at the socket `path`; ends with its context.

    `policy` is how it discards; `extra` are the features offered besides:
    free page hinting and reporting, with a queue each. That of reporting, to which the driver turns
    by itself, is served from `start_reporting` on. Each queue's device logs as many as
    `log_rows` intervals and keeps the first `room` ranges. `ram` and `devices` (by the queue's
    name) are there once the driver is.

    Whatever a front-end sends that breaks a rule ends the session, and `check` says why. Methods
    that wait raise a `VhostUserError` then, and a TimeoutError where nothing comes.
    """

    def __init__(
        self, path: Path, policy: Policy, log_rows: int, room: int, extra: Feature
    ) -> None:
        self.offered = _ALWAYS | extra
        names = ["inflate", "deflate"]
        names += [HINTING] if Feature.FREE_PAGE_HINT in extra else []
        names += [REPORTING] if Feature.REPORTING in extra else []
        self._vrings = [Vring(name) for name in names]
        self._settings = policy, log_rows, room
        self._config = np.zeros(1, CONFIG)
        self.ram: SharedRam | None = None
        self.devices: dict[str, BalloonDevice] = {}
        self._channel: socket.socket | None = None  # for requests of ours
        self._connection: socket.socket | None = None
        self._trouble: str | None = None
        self._closing = False
        self._changed, self._updated_ns = Condition(), 0
        self._path, self._listener = path, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._worker = Worker(self._serve, "vhost-user")
        self._worker.start()

    @property
    def actual(self) -> int:
        """Pages in the balloon, as the driver says."""
        return int(self._config["actual"][0])

    def check(self) -> None:
        """Raise a `VhostUserError` where front-end or driver broke a rule, or are gone."""
        for vring in self._vrings:
            if vring.broken:
                raise VhostUserError(f"the {vring.name} queue is broken: {vring.broken}")
        if self._trouble:
            raise VhostUserError(self._trouble)

    def wait_for_driver(self, patience_s: float) -> None:
        """Wait until the driver has set up all queues."""
        self._wait(lambda: len(self.devices) == len(self._vrings), patience_s, lambda: 0)

    def set_target(self, n_pages: int) -> int:
        """Ask the driver for a balloon of so many pages; return when, in ns."""
        return self._announce("num_pages", n_pages)

    def hint(self, command: int) -> int:
        """Ask the driver for hints under a command id, or set `STOP` or `DONE`; return when."""
        return self._announce("command", command)

    def wait_for_actual(
        self, n_pages: int, patience_s: float, report: Callable[[int], object] = lambda n: None
    ) -> int:
        """Wait until the driver says that it has so many pages; return when it did, in ns.

        `report` is called with the ranges that it has sent. A TimeoutError when none came for
        `patience_s`.
        """
        self._wait(lambda: self.actual == n_pages, patience_s, self._n_sent, report)
        return self._updated_ns

    def wait_for_hints(self, patience_s: float) -> None:
        """Wait until the driver has hinted all that it has and said `STOP`."""
        device = self.devices[HINTING]
        self._wait(lambda: device.command == STOP, patience_s, self._n_sent)

    def wait_for_silence(self, quiet_s: float) -> None:
        """Wait until no range has come for so long."""
        try:
            self._wait(lambda: False, quiet_s, self._n_sent)
        except TimeoutError:
            return

    def close(self) -> None:
        """End the session, stop the devices, and give back all descriptors."""
        self._closing = True  # before the connection is looked at: one of them sees the other
        for end in (self._listener, self._connection):
            if end is not None:
                _shut(end)
        self._worker.join()
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for vring in self._vrings:
            vring.close()
        if self.ram is not None:
            self.ram.close()
        self._worker.result()

    def start_reporting(self) -> int:
        """Serve the reporting queue, on which the driver waits by now; return when, in ns."""
        now = time.monotonic_ns()
        self.devices[REPORTING].start()
        return now

    def _n_sent(self) -> int:
        return sum(device.n_sent for device in self.devices.values())

    def _wait(
        self,
        there: Callable[[], bool],
        patience_s: float,
        progress: Callable[[], int],
        report: Callable[[int], object] = lambda n: None,
    ) -> None:
        """Wait until `there`, as long as `progress` goes on within `patience_s`."""
        seen, since = progress(), time.monotonic()
        with self._changed:
            while not there():
                self.check()
                self._changed.wait(_POLL_S)
                now = progress()
                if now != seen:
                    seen, since = now, time.monotonic()
                    report(now)
                if time.monotonic() - since > patience_s:
                    raise TimeoutError(f"the driver did nothing for {patience_s:g} s")

    def _announce(self, name: str, value: int) -> int:
        """Change the configuration and tell the driver; return when it was told."""
        if self._channel is None:
            raise VhostUserError("no driver has set up a channel for changes of the configuration")
        self.check()
        self._config[name] = value
        now = time.monotonic_ns()
        try:
            announce_config(self._channel)
        except OSError as error:
            self.check()
            raise VhostUserError(f"the front-end takes no change of its target: {error}") from None
        return now

    def _serve(self) -> None:
        """Carry out the front-end's messages until it ends or breaks a rule."""
        try:
            self._connection, _ = self._listener.accept()
            self._path.unlink(missing_ok=True)
        except OSError:  # nobody came until the end
            return
        try:
            while not self._closing and (message := receive(self._connection)):
                try:
                    self._carry_out(message)
                finally:
                    message.close()
            self._trouble = "the front-end has ended"
        except VhostUserError as error:
            self._trouble = str(error)
        finally:
            self._trouble = self._trouble or "the back-end failed"
            self._connection.close()
            if self._channel is not None:
                self._channel.close()
            for vring in self._vrings:
                vring.stop()
            with self._changed:
                self._changed.notify_all()

    def _carry_out(self, message: Message) -> None:
        """Do what a message asks for, and answer it where it has an answer."""
        assert self._connection is not None
        try:
            reply = _HANDLERS[message.request](self, message)
        except (ValueError, MemoryError, OSError) as error:
            raise VhostUserError(str(error)) from None
        if reply is not None:
            answer(self._connection, message.request, reply)

    def _set_features(self, message: Message) -> None:
        accepted = Feature(message.word())
        if accepted & ~self.offered or Feature.VERSION_1 not in accepted:
            raise VhostUserError(
                f"features must be of those offered, with VERSION_1, got {int(accepted):#x} of "
                f"{int(self.offered):#x}"
            )
        try:
            self._settings[0].check_features(accepted)
        except ValueError as error:
            raise VhostUserError(str(error)) from None

    def _set_protocol_features(self, message: Message) -> None:
        spoken = ProtocolFeature(message.word())
        if spoken & ~_SPOKEN:
            raise VhostUserError(f"protocol features must be of those offered, got {spoken!r}")

    def _set_memory(self, message: Message) -> None:
        if any(vring.device for vring in self._vrings):
            raise VhostUserError("the memory table must not change while a vring is in use")
        ram = SharedRam(message.regions(), message.fds)
        if self.ram is not None:
            self.ram.close()
        self.ram, self._balloon = ram, no_balloon(ram.memory.ram.size)
        self._guard = no_guard()
        for vring in self._vrings:
            self._start_if_set(vring)

    def _set_channel(self, message: Message) -> None:
        if len(message.fds) != 1:
            raise VhostUserError(f"SET_BACKEND_REQ_FD needs a descriptor, got {len(message.fds)}")
        try:
            channel = socket.socket(fileno=message.fds[0])
        except OSError as error:
            raise VhostUserError(f"the channel for requests must be a socket: {error}") from None
        message.fds.clear()
        channel.settimeout(1.0)  # a front-end that never reads must not hold us
        if self._channel is not None:
            self._channel.close()
        self._channel = channel

    def _get_config(self, message: Message) -> bytes:
        offset, n_bytes, _ = message.config()
        self._check_config(offset, n_bytes)
        data = self._config.tobytes()[offset : offset + n_bytes]
        return CONFIG_HEAD.pack(offset, n_bytes, 0) + data

    def _set_config(self, message: Message) -> None:
        offset, n_bytes, data = message.config()
        self._check_config(offset, n_bytes)
        now = time.monotonic_ns()
        theirs = self._config.view(np.uint8).copy()
        theirs[offset : offset + n_bytes] = np.frombuffer(data, np.uint8)
        with self._changed:  # the rest is ours
            self._config["actual"] = theirs.view(CONFIG)["actual"]
            self._updated_ns = now
            self._changed.notify_all()

    def _check_config(self, offset: int, n_bytes: int) -> None:
        if offset + n_bytes > CONFIG.itemsize:
            raise VhostUserError(
                f"the configuration has {CONFIG.itemsize} bytes, asked for {n_bytes} at {offset}"
            )

    def _vring_of(self, number: int) -> Vring:
        if number >= len(self._vrings):
            raise VhostUserError(f"vrings are 0 to {len(self._vrings) - 1}, got {number}")
        return self._vrings[number]

    def _set_vring(self, message: Message) -> None:
        """Set what one message says of a vring, and start its device when all is said."""
        if message.request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL):
            number, fd = message.vring_fd()
            self._vring_of(number).set_fd(message.request, fd)
            message.fds.clear()
        elif message.request == Request.SET_VRING_ADDR:
            number, *areas = message.addresses()
            self._vring_of(number).set_addresses(Addresses(*areas))
        else:
            number, value = message.pair()
            self._vring_of(number).set_number(message.request, value)
        self._start_if_set(self._vring_of(number))

    def _start_if_set(self, vring: Vring) -> None:
        """Start the device of a queue once everything is known."""
        if self.ram is None or not vring.is_set():
            return
        policy, log_rows, room = self._settings
        plain = vring.name in ("inflate", "deflate")
        device = BalloonDevice(
            self.ram,
            vring.build(self.ram),
            wire.get("pfn") if plain else BLOCKS,
            policy,
            log_rows,
            self._balloon if plain else np.zeros_like(self._balloon),
            "deflate" if vring.name == "deflate" else "inflate",
            room,
            self._guard if plain else None,
        )
        vring.device = device
        with self._changed:  # known before it answers anything
            self.devices[vring.name] = device
            self._changed.notify_all()
        if vring.name != REPORTING:
            device.start()

    def _get_base(self, message: Message) -> bytes:
        number, _ = message.pair()
        used = self._vring_of(number).reset()
        return PAIR.pack(number, used)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _shut(end: socket.socket) -> None:
    """Have whoever waits on a socket leave."""
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:  # not connected, or closed: nobody waits
        return


_HANDLERS: dict[Request, Callable[[Backend, Message], bytes | None]] = {
    Request.GET_FEATURES: lambda self, _: U64.pack(self.offered),
    Request.SET_FEATURES: Backend._set_features,
    Request.GET_PROTOCOL_FEATURES: lambda self, _: U64.pack(_SPOKEN),
    Request.SET_PROTOCOL_FEATURES: Backend._set_protocol_features,
    Request.SET_OWNER: lambda self, _: None,
    Request.RESET_OWNER: lambda self, _: None,
    Request.SET_MEM_TABLE: Backend._set_memory,
    Request.SET_BACKEND_REQ_FD: Backend._set_channel,
    Request.GET_CONFIG: Backend._get_config,
    Request.SET_CONFIG: Backend._set_config,
    Request.SET_VRING_ERR: lambda self, _: None,
    Request.GET_VRING_BASE: Backend._get_base,
    **dict.fromkeys(
        (
            Request.SET_VRING_NUM,
            Request.SET_VRING_ADDR,
            Request.SET_VRING_BASE,
            Request.SET_VRING_KICK,
            Request.SET_VRING_CALL,
            Request.SET_VRING_ENABLE,
        ),
        Backend._set_vring,
    ),
}
