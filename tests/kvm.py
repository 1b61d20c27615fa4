"""What the tests that need KVM share."""

import pytest

from balloonlab.vcpu import KvmError, describe


def why_not():
    try:
        describe()
    except KvmError as error:
        return str(error)
    return ""


REASON = why_not()
MARKS = (pytest.mark.once, pytest.mark.skipif(bool(REASON), reason=REASON))


def needs_kvm(test):
    for mark in MARKS:
        test = mark(test)
    return test
