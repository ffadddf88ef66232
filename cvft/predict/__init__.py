"""A trained model that answers: `open` loads it, `predictor` turns rows into answers, `infer` is the command."""
