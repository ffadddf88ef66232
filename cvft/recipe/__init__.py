"""Recipes: YAML -> one frozen, typed `Recipe`, with every problem reported at once. Imports no torch and reads no data."""

from cvft.recipe.data_section import Data
from cvft.recipe.explain import show_value
from cvft.recipe.fingerprint import differing_settings, dump_recipe, fingerprint, schema_json, weights_fingerprint
from cvft.recipe.load import LoadedRecipe, default_name, load_recipe, recipe_from_dict
from cvft.recipe.place import with_absolute_output
from cvft.recipe.schema import Eval, Export, Lora, Model, Optim, Output, Parallel, Recipe, Train, Video

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
    "show_value",
    "weights_fingerprint",
    "with_absolute_output",
]
