"""What to run: Hydra's YAML files, and the code that composes and checks them.

The folder of this package is the config folder. Importing it registers the resolvers that the files use.
"""

from clipeval.configs.resolvers import register

register()
