"""A market takes no new job under rules 2; one it took before runs to its end under them, and stays readable."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.integration.market import world as worlds
from tests.integration.market.fake_buyer import before, command_spec, taken_before
from tests.integration.market.test_market_jobs import check

from stannary.errors import SpecError
from stannary.formats import receipt


def test_a_job_of_rules_2_ends_as_it_began(tmp_path: Path) -> None:
    """Sent again it is the same job; another one is neither priced nor taken, and the refusal says what to do."""

    async def scenario() -> None:
        async with worlds.inside(tmp_path, witness=False) as world:
            for operator in ("north", "south", "east"):
                await world.node(operator)
            ada = await world.buyer()
            spec = before(command_spec())
            envelope = await ada.order(spec)
            with taken_before():
                job = (await ada.submit(spec, "first", envelope)).id
            assert (await ada.submit(spec, "first", envelope)).id == job
            for ask in (ada.submit, ada.quote):
                with pytest.raises(SpecError, match="no new job is taken under rules 2") as refused:
                    await ask(spec)
                assert "stannary run JOB.yaml" in refused.value.hint
            world.start(ada.broker(job))
            view = await ada.finished(job)
            assert (view.status, view.verdict) == ("succeeded", "verified")
            data = await ada.receipt(job)
            assert json.loads(data)["format"] == receipt.FORMATS[0]
            report = check(world, data)
            assert (report.verdict, {item.severity for item in report.findings}) == ("verified", {"notice"})

    asyncio.run(scenario())
