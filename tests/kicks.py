"""What the tests that play a driver share."""

from balloonlab.kernels import doorbell, vring


def kick_and_wait(queue, cell):
    """Kick a queue's device and wait until it has used a message; return what came of it."""
    outcome = doorbell.kick(queue.doorbell, queue.ring, cell)
    if outcome == doorbell.USED:
        outcome = doorbell.wait(queue.doorbell, queue.ring, cell)
    if outcome == doorbell.USED:
        vring.take_used(queue.ring)
    return outcome
