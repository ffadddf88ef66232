"""One thread for every test and its subprocesses: the models are tiny, and more threads only wait for each other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
