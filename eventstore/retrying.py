"""Whether a failed node is tried again, and when: the rules are tenacity's, the clock and the counting the log's.

A failure is in the log with its attempt and the time of the next one, so budget and backoff survive a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from tenacity import BaseRetrying

Retry = Union[int, "BaseRetrying"]
"""How many more attempts, or a tenacity `Retrying` whose `stop`, `wait` and `retry` decide."""
FIRST_WAIT_S, MAX_WAIT_S = 0.5, 60.0


def check_retry(retry: Any) -> str | None:
    """What is wrong with a `retry` that a user gave; None when nothing is.

    >>> check_retry(3), check_retry(-1)
    (None, 'retry is a number of attempts or a tenacity object, not -1')
    """
    if retry is None or (type(retry) is int and retry >= 0):
        return None
    if all(callable(getattr(retry, name, None)) for name in ("stop", "wait", "retry")):
        return None
    return f"retry is a number of attempts or a tenacity object, not {retry!r}"


def next_wait_s(retry: Retry | None, attempt: int, error: Exception, elapsed_s: float) -> float | None:
    """How long to wait before the attempt after `attempt` (1-based); None to give up.

    A number of attempts waits 0.5 s, 1 s, 2 s, … up to a minute, each with up to 10 % on top. `elapsed_s`: since
    the first attempt began, for a tenacity `stop_after_delay`.

    >>> next_wait_s(None, 1, ValueError(), 0.0), next_wait_s(1, 2, ValueError(), 0.0)
    (None, None)
    >>> 0.5 <= next_wait_s(3, 1, ValueError(), 0.0) <= 0.55
    True
    """
    if not retry:
        return None
    import tenacity

    if isinstance(retry, int):
        wait = tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=MAX_WAIT_S)
        jitter = tenacity.wait_random(0, 0.1 * min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt - 1, 10)))
        retry = tenacity.Retrying(stop=tenacity.stop_after_attempt(retry + 1), wait=wait + jitter)
    state = tenacity.RetryCallState(retry, None, (), {})
    state.attempt_number = attempt
    state.set_exception((type(error), error, error.__traceback__))
    state.start_time = (state.outcome_timestamp or 0.0) - elapsed_s
    if not retry.retry(state) or retry.stop(state):
        return None
    return max(0.0, float(retry.wait(state)))
