"""cvft: fine-tuning for video language models, from a typed recipe to a verified, evaluated checkpoint.

After `import cvft`, plain transformers loads what cvft wrote: `AutoModelForCausalLM.from_pretrained("runs/x/merged")`.
"""

from cvft._autoload import register_with_transformers

__version__ = "0.1.0"

register_with_transformers()
