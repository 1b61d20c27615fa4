"""What can go wrong with a captured guest."""


class CaptureError(RuntimeError):
    """Something is missing, or QEMU or the guest did not do what was asked; the message names it."""
