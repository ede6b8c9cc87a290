"""The same numbers, computed faster or in less memory. Other rooms import from here, never from the modules.

layout.py     where the real tokens of a batch stand in the packed row
attention.py  attention over the packed row, and a model that runs with it
probing.py    what a model can do, tested once
running.py    hidden states and logits of a padded batch
dropout.py    dropout with cheap masks on a CPU
memory.py     recomputation: batches in parts, layers
"""

from diffcse.method.fast.attention import layers as layers
from diffcse.method.fast.dropout import make_cheap as make_cheap
from diffcse.method.fast.layout import Layout as Layout
from diffcse.method.fast.memory import checkpoint_layers as checkpoint_layers
from diffcse.method.fast.memory import in_chunks as in_chunks
from diffcse.method.fast.memory import kept as kept
from diffcse.method.fast.probing import ability as ability
from diffcse.method.fast.probing import copy_ability as copy_ability
from diffcse.method.fast.running import before_vocabulary as before_vocabulary
from diffcse.method.fast.running import hidden_states as hidden_states
from diffcse.method.fast.running import logits_at as logits_at
from diffcse.method.fast.running import vectors_at as vectors_at
