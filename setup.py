"""What pyproject.toml cannot say: a wheel takes recipes and the demo's dataset along, which stand beside the package.

They land in `cvft/examples` under the names that they have here, so that the recipes' relative paths hold there as well.
`cvft.shipped.find_examples` finds them in either place.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("recipes", "datasets/tiny_shapes")
NOT_TAKEN = ("*.py", "__pycache__")
"""The program that made the dataset needs the checkout, and stays there."""


class BuildWithExamples(build_py):
    """Builds the package, and copies the folders into it. An editable installation finds them where they are."""

    def run(self) -> None:
        """Builds."""
        super().run()
        if self.editable_mode:
            return
        for name in FOLDERS:
            target = Path(self.build_lib, "cvft", "examples", name)
            shutil.rmtree(target, ignore_errors=True)  # what an earlier build left may have been removed since
            shutil.copytree(name, target, ignore=shutil.ignore_patterns(*NOT_TAKEN))


setup(cmdclass={"build_py": BuildWithExamples})
