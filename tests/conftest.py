"""Settings shared by every test: properties are judged by their promise, never by a busy machine's clock."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two spinning threads on a shared core are seven times slower

settings.register_profile("stannary", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stannary")
