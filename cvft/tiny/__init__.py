"""The program that pre-trained the tiny models in `weights/`; nothing of cvft imports it."""
