"""Compile small functions of the tests as kernels are compiled, without a cache."""

from numba import njit

compiled = njit(nogil=True, _nrt=False)
