"""A virtual processor of this process's own, in KVM; it knows nothing of balloons."""

from .kvm import KvmError, describe
from .processor import Vcpu

__all__ = ["KvmError", "Vcpu", "describe"]
