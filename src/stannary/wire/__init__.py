"""HTTP messages shared by market, agent, broker and sdk: pydantic models, routes, error bodies."""
