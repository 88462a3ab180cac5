"""Code that makes the built-in text-to-video model: data, recipe, training and a check that measures the result."""
