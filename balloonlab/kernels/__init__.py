"""Every compiled function of balloonlab: arrays in, arrays out.

Kernels release the GIL, raise nothing, print nothing and know no strings; the
parts above check arguments and allocate outputs. Page numbers are ``uint64`` in
arrays and ``int64`` in arithmetic (a PFN has 52 bits), bitmap words stay
``uint64`` in every operand: mixing the two is an integer under the JIT and a
float without it. What they compute is tested against plain twins in ``tests/naive.py``.

All of them live in this folder, because the cache of compiled code is keyed by
the text of the whole folder (`balloonlab.kernels.compile`).
"""
