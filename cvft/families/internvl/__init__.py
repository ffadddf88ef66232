"""InternVL3 and 3.5 in the form that transformers' own classes open: 256 tokens per frame, no time but the frames' order."""
