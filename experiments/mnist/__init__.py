"""The auxiliary-logit experiment, and what carries the trait in it."""
