"""A virtual processor: calls, memory, ports, its clock, and what happens when a call strays."""

import ctypes
import gc
import mmap
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numba import config

from balloonlab.kernels import contents
from balloonlab.kernels.clock import PACK, Log, record
from balloonlab.kernels.intrinsics import load_acquire, store_release
from balloonlab.kernels.syscalls import now_ns
from balloonlab.kernels.vcpu import write_often, write_port
from balloonlab.vcpu import KvmError, Vcpu, describe, kvm
from balloonlab.vcpu.memory import Range, mapped_ranges

from .compiled import compiled
from .kvm import needs_kvm

PAGE = 4096


@compiled
def add_up(array):
    total = np.int64(0)
    for i in range(array.size):
        total += array[i]
    return total


@compiled
def digits(a, b, c, d, e, f, g, flag, h):
    """More arguments than go into registers, a flag among them."""
    words = a * 10**7 + b * 10**6 + c * 10**5 + d * 10**4 + e * 10**3 + f * 100 + g * 10 + h
    return words if flag else -words


@compiled
def set_first(array, value):
    array[0] = value


@compiled
def load(array):
    return np.int64(array[0])


@compiled
def divide(a, b):
    return a // b


@compiled
def write_ports(first, second, n):
    for _ in range(n):
        write_port(first)
        write_port(second)


@compiled
def fill(array):
    array[:] = 7


@compiled
def half(number):
    return number / 2


@compiled
def take_turns(turn, mine, n):
    """Hand the turn to the other `n` times, and wait for it each time."""
    for _ in range(n):
        while load_acquire(turn, 0) != mine:
            pass
        turn[1] += 1
        store_release(turn, 0, 1 - mine)


@compiled
def count_until(flag, count):
    while load_acquire(flag, 0) == 0:
        count[0] += 1


@pytest.fixture(scope="module")
def vcpu():
    with Vcpu() as one:
        yield one


@pytest.fixture
def eventfd():
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def view(address, n_bytes):
    return np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(address))


@needs_kvm
def test_a_call_returns_what_it_returns_outside(vcpu, rng):
    numbers = rng.integers(-1000, 1000, 100_000)
    assert vcpu.call(add_up, numbers) == add_up(numbers) == numbers.sum()
    for flag in (True, False):
        assert vcpu.call(digits, 1, 2, 3, 4, 5, 6, 7, flag, 8) == (12345678 if flag else -12345678)
    assert vcpu.call(set_first, numbers, -5) is None
    assert numbers[0] == -5
    assert vcpu.call(add_up, numbers[::-3]) == numbers[::-3].sum()


@needs_kvm
def test_the_balloons_kernels_run_inside_with_the_c_librarys_help(vcpu):
    """Filling an array is the C library's memset, in the processor's widest registers."""
    big = np.zeros(1 << 20, np.uint8)
    vcpu.call(fill, big)
    assert (big == 7).all()
    words = np.zeros(3 * PAGE // 8, np.uint64)
    vcpu.call(contents.fill, words, 0, 3)
    expected = words.copy()
    contents.fill(expected, 0, 3)
    assert (words == expected).all()


@needs_kvm
def test_memory_that_was_mapped_later_is_there(vcpu):
    for n_pages in (1, 600, 5000):
        mapping = mmap.mmap(-1, n_pages * PAGE)
        array = np.frombuffer(mapping, np.uint8)
        vcpu.call(set_first, array[-1:], n_pages % 256)
        assert array[-1] == n_pages % 256


@needs_kvm
def test_memory_that_was_mapped_anew_is_the_new_one(vcpu):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    mapping = mmap.mmap(-1, PAGE)
    array = np.frombuffer(mapping, np.uint8)
    vcpu.call(set_first, array, 3)
    fixed = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
    for protection, value in ((mmap.PROT_READ, 0), (mmap.PROT_READ | mmap.PROT_WRITE, 0)):
        libc.mmap(array.ctypes.data, PAGE, protection, fixed, -1, 0)
        assert vcpu.call(load, array) == value
    vcpu.call(set_first, array, 4)
    assert array[0] == 4


@needs_kvm
def test_memory_that_became_writable_is_written(vcpu):
    libc = ctypes.CDLL(None)
    mapping = mmap.mmap(
        -1, 4 * PAGE, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    start = np.frombuffer(mapping, np.uint8).ctypes.data
    assert vcpu.call(load, view(start, 1)) == 0
    second = start + PAGE
    libc.mprotect(ctypes.c_void_p(second), ctypes.c_size_t(PAGE), 3)
    vcpu.call(set_first, view(second, PAGE), 9)
    assert view(second, 1)[0] == 9
    assert vcpu.call(load, view(second + PAGE, 1)) == 0


HOLE = 8 * PAGE
"""An address at which nothing was ever mapped: below what the kernel gives to a process."""


def strays():
    mapping = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)
    read_only = np.frombuffer(mapping, np.uint8).ctypes.data
    return [
        (
            load,
            (view(HOLE, 1),),
            "load strayed .*shutdown: no memory .* at 0x[0-9a-f]+,.* rip 0x",
        ),
        (set_first, (view(read_only, 1), 1), "set_first strayed .*shutdown.* at rip 0x"),
        (load, (view(2**62, 1),), "load strayed .*shutdown.* at rip 0x"),
        (write_ports, (0x80, 0x80, 1), r"write_ports strayed .*port I/O at port 0x80\) at rip 0x"),
        (now_ns_outside, (np.zeros(2, np.int64),), "now_ns_outside strayed "),
    ]


@compiled
def now_ns_outside(cell):
    return now_ns(cell)


@needs_kvm
@pytest.mark.parametrize("number", range(5))
def test_a_call_that_strays_is_an_error_and_the_next_one_works(vcpu, eventfd, number):
    function, arguments, words = strays()[number]
    port = vcpu.kick_port(eventfd)
    numbers = np.arange(1000)
    with pytest.raises(KvmError, match=words):
        vcpu.call(function, *arguments)
    assert vcpu.call(add_up, numbers) == numbers.sum()
    vcpu.call(write_ports, port, port, 2)
    assert os.eventfd_read(eventfd) == 4


@needs_kvm
def test_memory_that_went_away_is_an_error(vcpu):
    mapping = mmap.mmap(-1, 64 * PAGE)
    address = np.frombuffer(mapping, np.uint8).ctypes.data
    assert vcpu.call(load, view(address, 1)) == 0
    mapping.close()
    words = "load strayed inside the vCPU: (KVM_RUN failed, as where .* unmapped|.*shutdown)"
    with pytest.raises(KvmError, match=words):
        vcpu.call(load, view(address, 1))
    assert vcpu.call(add_up, np.arange(9)) == 36


@needs_kvm
def test_what_a_function_raises_is_an_error(vcpu):
    assert vcpu.call(divide, 7, 2) == 3
    with pytest.raises(KvmError, match="divide raised an exception inside the vCPU"):
        vcpu.call(divide, 7, 0)
    assert vcpu.call(divide, 9, 3) == 3


@needs_kvm
def test_refusals(vcpu):
    for function, arguments, words in (
        (len, (1,), "function must be a compiled kernel, got <built-in function len>"),
        (divide, (1.5, 2), "divide must return an integer .* returns float64|integers and arrays"),
        (half, (3,), "half must return an integer or nothing in a vCPU, it returns float64"),
    ):
        with pytest.raises(TypeError, match=words):
            vcpu.call(function, *arguments)


@needs_kvm
def test_every_kick_is_signalled_and_every_wait_leaves_the_machine(eventfd):
    with Vcpu() as vcpu:
        semaphore = os.eventfd(5, os.EFD_SEMAPHORE)
        kick, wait = vcpu.kick_port(eventfd), vcpu.wait_port(semaphore)
        os.close(semaphore)  # the vCPU has its own
        before = vcpu.exits()["port I/O"]
        vcpu.call(write_ports, kick, wait, 5)
        assert os.eventfd_read(eventfd) == 5
        assert vcpu.exits()["port I/O"] - before == 5 + 1, "five waits and the return"
        for _ in range(63):
            vcpu.kick_port(eventfd)
        with pytest.raises(ValueError, match="64 ports to kick, all are taken"):
            vcpu.kick_port(eventfd)


@needs_kvm
def test_a_wait_lasts_until_the_signal():
    with Vcpu() as vcpu:
        kicked, called = os.eventfd(0), os.eventfd(0)
        kick, wait = vcpu.kick_port(kicked), vcpu.wait_port(called)
        order = []

        def host():
            os.eventfd_read(kicked)
            order.append("kicked")
            os.eventfd_write(called, 1)

        thread = threading.Thread(target=host)
        thread.start()
        vcpu.call(write_ports, kick, wait, 1)
        order.append("returned")
        thread.join()
        os.close(kicked)
        os.close(called)
    assert order == ["kicked", "returned"]


@needs_kvm
def test_the_clock_inside_shows_what_the_one_outside_does(vcpu):
    vcpu.calibrate()
    log = Log.empty(10, vcpu.clock.tsc)
    before = time.monotonic_ns()
    inside = vcpu.call(record, log, PACK, before)
    after = time.monotonic_ns()
    off = vcpu.clock.error_ns + 1
    assert before - off <= inside <= after + off
    assert log.rows[0].tolist() == [PACK, before, inside]
    assert 0 < vcpu.clock.error_ppb < 10**6
    assert 0.05 < vcpu.clock.tsc.ns_per_tick[0] < 10


@needs_kvm
def test_the_time_of_kicks_is_taken_inside(vcpu, eventfd):
    times = np.zeros(50, np.int64)
    arguments = vcpu.kick_port(eventfd), 50, vcpu.clock.tsc, times
    vcpu.warm(write_often, *arguments)
    vcpu.call(write_often, *arguments)
    assert (times > 0).all()
    assert os.eventfd_read(eventfd) == 50


@needs_kvm
def test_arrays_are_warmed_without_a_change(vcpu, rng):
    words = rng.integers(0, 2**63, 3000)
    before = words.copy()
    vcpu.warm(add_up, words)
    assert (words == before).all()


@needs_kvm
def test_many_threads_may_call_in_turn(vcpu):
    found = []
    for n in range(4):
        thread = threading.Thread(target=lambda n=n: found.append(vcpu.call(add_up, np.arange(n))))
        thread.start()
        thread.join()
    assert found == [0, 0, 1, 3]


@needs_kvm
def test_a_closed_one_leaves_nothing_open():
    Vcpu().close()
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    machines = Path("/proc/self/maps").read_text().count("kvm-vcpu")
    with Vcpu() as vcpu:
        vcpu.call(add_up, np.arange(3))
        assert len(os.listdir("/proc/self/fd")) > len(before)
    assert set(os.listdir("/proc/self/fd")) == before
    assert Path("/proc/self/maps").read_text().count("kvm-vcpu") == machines


class Running:
    """A call in a thread, which is there and counts until it leaves this."""

    def __init__(self, vcpu):
        self.flag, self.count, self.errors = np.zeros(1, np.int64), np.zeros(1, np.int64), []
        vcpu.warm(count_until, self.flag, self.count)
        self._thread = threading.Thread(target=self._run, args=(vcpu,))

    def _run(self, vcpu):
        try:
            vcpu.call(count_until, self.flag, self.count)
        except KvmError as error:
            self.errors.append(error)

    def goes_on(self):
        before = self.count[0]
        while self.count[0] == before and self._thread.is_alive():
            time.sleep(0.001)
        return self._thread.is_alive()

    def __enter__(self):
        self._thread.start()
        assert self.goes_on()
        return self

    def __exit__(self, *error):
        self.flag[0] = 1
        self._thread.join()
        assert self.errors == []


@needs_kvm
def test_two_processors_of_a_machine_run_at_the_same_time(vcpu):
    turn = np.zeros(2, np.int64)
    with Vcpu(vcpu) as other:
        assert other._processor.machine is vcpu._processor.machine
        arguments = take_turns, turn, 1, 100
        thread = threading.Thread(target=other.call, args=arguments)
        thread.start()
        vcpu.call(take_turns, turn, 0, 100)
        thread.join()
    assert turn.tolist() == [0, 200]


@needs_kvm
def test_memory_that_one_processor_finds_mapped_the_other_has(vcpu):
    with Vcpu(vcpu) as other, Running(other) as running:
        for n_pages in (1, 600, 5000):
            array = np.frombuffer(mmap.mmap(-1, n_pages * PAGE), np.uint8)
            vcpu.call(set_first, array[-1:], 9)
            assert array[-1] == 9
            assert running.goes_on()
        n_slots = len(vcpu._processor.machine.memory._slots)
    with Vcpu(vcpu) as third:
        assert third.call(load, array[-1:]) == 9
        assert len(third._processor.machine.memory._slots) >= n_slots


@needs_kvm
@pytest.mark.parametrize("strayed", ["first", "other"])
def test_a_processor_goes_on_where_one_beside_it_strays(strayed):
    with Vcpu() as first, Vcpu(first) as other:
        bad, good = (first, other) if strayed == "first" else (other, first)
        with Running(good) as running:
            with pytest.raises(KvmError, match="load strayed"):
                bad.call(load, view(HOLE, 1))
            assert bad.call(add_up, np.arange(9)) == 36
            assert running.goes_on()
        assert good.call(add_up, np.arange(5)) == 10
        same = first._processor.machine is other._processor.machine
        assert same == (strayed == "other"), "the first one's next call has a machine of its own"


@needs_kvm
def test_a_machine_ends_with_the_last_of_its_processors():
    Vcpu().close()
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    first = Vcpu()
    with Vcpu(first) as other:
        first.close()
        array = np.frombuffer(mmap.mmap(-1, 700 * PAGE), np.uint8)
        other.call(set_first, array[-1:], 5)
        assert array[-1] == 5
    assert set(os.listdir("/proc/self/fd")) == before


@needs_kvm
def test_ports_to_kick_are_the_machines(eventfd):
    with Vcpu() as first, Vcpu(first) as other:
        port = other.kick_port(eventfd)
        for one in (first, other):
            one.call(write_ports, port, port, 2)
            assert os.eventfd_read(eventfd) == 4


MAPS = """\
1000-3000 r--p 00000000 fe:00 12 /usr/bin/some program
3000-4000 r-xp 00002000 fe:00 12 /usr/bin/some program
4000-5000 rw-p 00000000 00:00 0
5000-8000 rw-s 00000000 00:00 0 [heap]
9000-a000 rw-p 00000000 00:00 0
a000-b000 ---p 00000000 00:00 0
c000-d000 -w-p 00000000 00:00 0
7ffc1000-7ffc5000 r--p 00000000 00:00 0                                  [vvar]
7ffc5000-7ffc7000 r-xp 00000000 00:00 0                                  [vdso]
7ffd0000-7ffd3000 rw-s 00000000 00:0e 13 anon_inode:kvm-vcpu:0
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
"""


def test_readable_mappings_become_ranges():
    assert mapped_ranges(MAPS) == [
        Range(0x1000, 0x4000, False), Range(0x4000, 0x8000, True), Range(0x9000, 0xA000, True),
    ]  # fmt: skip


@pytest.mark.skipif(config.DISABLE_JIT, reason="refused for another reason")
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "not permitted: .*usermod -aG kvm"),
        (
            FileNotFoundError(2, "No such file"),
            r"cannot be opened \(No such file\): load the module",
        ),
    ],
)
def test_without_kvm_the_error_says_what_to_do(monkeypatch, error, words):
    def refuse(*arguments):
        raise error

    monkeypatch.setattr("os.open", refuse)
    for make in (Vcpu, describe):
        with pytest.raises(KvmError, match=words):
            make()


@needs_kvm
def test_a_kvm_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setitem(kvm.NEEDED, 9999, "what no kernel has")
    with pytest.raises(KvmError, match=r"too old .*it lacks what no kernel has"):
        describe()
    monkeypatch.setattr(kvm, "DEVICE", "/dev/null")
    with pytest.raises(KvmError, match="/dev/null is no KVM device"):
        describe()


@pytest.mark.skipif(not config.DISABLE_JIT, reason="of plain Python")
def test_plain_python_cannot_run_inside():
    with pytest.raises(KvmError, match="runs compiled code only: unset NUMBA_DISABLE_JIT"):
        Vcpu()
