"""recrl: post-train large language models into generative recommenders."""

__version__ = "0.1.0"
