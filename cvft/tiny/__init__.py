"""The program that pre-trained the tiny CogVLM2-Video in `weights/tiny`; nothing of cvft imports it."""
