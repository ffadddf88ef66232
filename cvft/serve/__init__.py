"""A model behind HTTP: an OpenAI-compatible server over `cvft.predict`, and a page to ask it from. No torch but through there."""
