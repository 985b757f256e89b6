"""What torch's agent says under vpdist's own launcher, and what of it is left out."""

from __future__ import annotations

import inspect
import logging
import signal

import pytest
from torch.distributed.elastic.agent.server import api as agent
from torch.distributed.elastic.multiprocessing import api as processes

from vpdist.distributed.launch import AGENT_LOGGERS, RANK_FAILED, SIGNAL_PASSED_ON, is_news


def record(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord(AGENT_LOGGERS[1], logging.ERROR, __file__, 1, text, arguments, None)


@pytest.mark.parametrize(
    ("code", "news"), [(5, False), (2, False), (3, False), (4, False), (6, False), (1, True), (-signal.SIGKILL, True)]
)
def test_the_agent_tells_of_a_rank_that_has_told_nothing_itself(code: int, news: bool) -> None:
    assert is_news(record(f"{RANK_FAILED} local_rank: %s", code, 0)) is news


def test_the_agent_tells_nothing_of_signals_that_it_passes_on() -> None:
    assert not is_news(record(f"{SIGNAL_PASSED_ON[0]} %s", 77, "SIGINT"))
    assert not is_news(record(f"{SIGNAL_PASSED_ON[1]}, shutting down workers", 2))
    assert is_news(record("Unable to shutdown process %s via %s", 77, "SIGTERM"))


def test_the_texts_and_loggers_are_those_of_this_torch() -> None:
    assert tuple(module.logger.name for module in (agent, processes)) == AGENT_LOGGERS
    sources = inspect.getsource(agent) + inspect.getsource(processes)
    for text in (RANK_FAILED, *SIGNAL_PASSED_ON):
        assert f'"{text}' in sources
