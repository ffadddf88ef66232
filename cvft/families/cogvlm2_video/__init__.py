"""CogVLM2-Video: `family` and what it needs, without torch; `runtime` and `network/`, with it."""
