"""What the tests that need KVM share."""

import pytest

from balloonlab.vcpu import KvmError, describe


def why_not():
    try:
        describe()
    except KvmError as error:
        return str(error)
    return ""


def needs_kvm(test):
    reason = why_not()
    return pytest.mark.once(pytest.mark.skipif(bool(reason), reason=reason)(test))
