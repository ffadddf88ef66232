"""Recipes: YAML -> one frozen, typed `Recipe`, with every problem reported at once. Imports no torch and reads no data."""

from cvft.recipe.fingerprint import differing_settings, dump_recipe, fingerprint, schema_json, weights_fingerprint
from cvft.recipe.load import LoadedRecipe, default_name, load_recipe, recipe_from_dict
from cvft.recipe.schema import (
    Data,
    Eval,
    Export,
    Lora,
    Model,
    Optim,
    Output,
    Parallel,
    Recipe,
    Train,
    Video,
)

__all__ = [
    "Data",
    "Eval",
    "Export",
    "LoadedRecipe",
    "Lora",
    "Model",
    "Optim",
    "Output",
    "Parallel",
    "Recipe",
    "Train",
    "Video",
    "default_name",
    "differing_settings",
    "dump_recipe",
    "fingerprint",
    "load_recipe",
    "recipe_from_dict",
    "schema_json",
    "weights_fingerprint",
]
