"""What a training costs, by counting: parameters, FLOPs, memory, seconds on a named GPU. A model, not a measurement.

config.json -> `architecture` -> `flops`, `memory` (with `activations`) -> beside what `gpus` have to offer

Pure: no torch, no weights, no device.
"""
