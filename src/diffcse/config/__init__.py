"""Every choice of a run, in frozen dataclasses that read and write as TOML.

`fields` reads, checks and compares configurations. `method` has the choices of the method, `run` those of a run.
"""

from diffcse.config.fields import affects as affects
from diffcse.config.fields import changed_fields as changed_fields
from diffcse.config.fields import differences as differences
from diffcse.config.fields import identity as identity
from diffcse.config.fields import override as override
from diffcse.config.fields import previous_values as previous_values
from diffcse.config.fields import read_fields as read_fields
from diffcse.config.fields import read_toml as read_toml
from diffcse.config.fields import to_dict as to_dict
from diffcse.config.fields import to_toml as to_toml
from diffcse.config.method import ADAPT_FEWEST as ADAPT_FEWEST
from diffcse.config.method import ADAPT_MOST as ADAPT_MOST
from diffcse.config.method import EDITS as EDITS
from diffcse.config.method import PRESETS as PRESETS
from diffcse.config.method import REFERENCE as REFERENCE
from diffcse.config.method import EditFacts as EditFacts
from diffcse.config.method import EditScope as EditScope
from diffcse.config.method import EncoderPooling as EncoderPooling
from diffcse.config.method import GeneratorKind as GeneratorKind
from diffcse.config.method import Method as Method
from diffcse.config.method import Pooling as Pooling
from diffcse.config.method import Projector as Projector
from diffcse.config.method import Sampling as Sampling
from diffcse.config.run import Config as Config
from diffcse.config.run import PlainText as PlainText
from diffcse.config.run import Precision as Precision
from diffcse.config.run import Quoting as Quoting
from diffcse.config.run import Store as Store
from diffcse.config.run import Text as Text
from diffcse.config.run import Training as Training
from diffcse.config.run import apply_preset as apply_preset
from diffcse.config.run import check_tracker as check_tracker
from diffcse.config.run import load_recipe as load_recipe
from diffcse.config.run import method_config as method_config
from diffcse.config.run import method_identity as method_identity
from diffcse.config.run import parse_recipe as parse_recipe
from diffcse.config.run import recipe_file as recipe_file
from diffcse.config.run import recipe_names as recipe_names
