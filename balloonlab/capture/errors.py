"""What can go wrong with a captured guest."""


class CaptureError(RuntimeError):
    """Something is missing, or QEMU or the guest failed; the message names what."""
