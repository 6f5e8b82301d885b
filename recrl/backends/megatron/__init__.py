"""Megatron-core's tensor parallelism for ``recrl.backends.megatron_backend``."""

import warnings

# Of Apex and TransformerEngine, which its local layers do without, once a rank and import.
warnings.filterwarnings("ignore", module=r"megatron\.core\.")
