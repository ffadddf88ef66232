"""Hands a merged model over to a serving engine, and proves there that it answers the same."""
