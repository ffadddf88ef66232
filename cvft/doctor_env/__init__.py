"""What there is to know of a machine and an installation when something does not work: `cvft doctor-env`. Imports no torch.

find_environment   every section by itself: one that fails says why, and the others are there
packages           what is installed beside what cvft was tested with; what an extra would add
probe              imports in a process of their own, which a broken package may end
refused            settings that this machine would refuse, asked of the code that refuses them
describe           the same for a terminal
"""
