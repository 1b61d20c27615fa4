"""Every compiled function of balloonlab: arrays in, arrays out.

The way of a page number, step by step, each a module here::

    guest                                         host
    buddy.take_blocks   from the allocator        device.serve       wakes up
    driver.send_pages   in the driver             vring.fetch        copies the message
    encode              into a message            formats.decode     into ranges of pages
      encode_batch (PFNs, blocks), next_message (records)
      bitmap, windows, then bitmap_v4, pfn ...      bitmap_v4, pfn, blocks ...
    sending             onto the queue            translate          into extents of memory
    doorbell            kick, and wait     --->   crew, discard      madvise, process_madvise
    driver.deflate      and back to buddy  <---   vring.push_used, doorbell.call

A format's two sides stand in one module: `pfn`, `bitmap_v4` (`posted`, `bitmap_wide`), `bitmap_v3`,
`run_records`, `adaptive` (planned by `adaptive_plan`); `own` is a user's. `streams` has whole sets
of pages without a queue, and `zero_answer` the bitmap in the other direction.
`discard` sorts extents and gives them to the kernel, one by one or many in a call; `crew` shares
them out among threads. `chunks` goes from the allocator to the message in one step, in the
largest blocks there are.
`clock` logs when each step ends, `counting` is a device without memory. `faults` counts what the
host refuses, `contents` and `fuzz` check it, `hostile` attacks it; `workload` ages the allocator,
`bystander` works beside it.
`compile`, `intrinsics` (`plain` without the JIT) and `syscalls` are what all stand on; `vcpu` and
`tsc` are what of them there is inside a virtual machine.

Kernels release the GIL, raise nothing, print nothing, know no strings, and neither allocate nor
return an array (`compile.kernel` has them compiled without counts of references). The parts above
check arguments and allocate outputs and scratch. Page numbers are ``uint64`` in arrays and
``int64`` in arithmetic (a PFN has 52 bits), bitmap words stay ``uint64`` in every operand: mixing
the two is an integer under the JIT and a float without it. State is a record with named fields.
What kernels compute is tested against plain twins in ``tests/naive.py``.

All of them live in this folder, because the cache of compiled code is keyed by the text of
the whole folder (`balloonlab.kernels.compile`).
"""
