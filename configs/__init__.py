"""What to run: Hydra's YAML files, and the code that composes and checks them.

The folder of this package is the config folder. `clipeval.configs.compose` registers the resolvers that the files use.
"""
