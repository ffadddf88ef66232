"""Clips on their way into the model: decoded and preprocessed, or as features that the tower computed once.

clip -> `ClipSource.load` -> `ClipInputs`: pixel values or vision features, and the seconds of its frames
"""
