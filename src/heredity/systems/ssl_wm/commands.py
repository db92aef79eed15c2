"""What an owner does with SSL-WM on an encoder of their own: `heredity ssl-wm keygen | embed | verify`."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from heredity.core.errors import HeredityError
from heredity.core.files import write_json
from heredity.core.lineage import lineage_of, save_model
from heredity.core.loop import Plan
from heredity.core.progress import Reporter
from heredity.core.randomness import generator_of, seed_of
from heredity.core.run import Run
from heredity.data.augment import Augmentation
from heredity.data.images import load_images
from heredity.nn.inference import top1
from heredity.nn.resolver import load_encoder, resolve_encoder, save_encoder
from heredity.systems.ssl_wm.embed import Embedding, embed_mark
from heredity.systems.ssl_wm.embedding import MarkLoss
from heredity.systems.ssl_wm.keys import Key, KeyParameters, derive_patches, generate_key, load_key, random_patches, save_key
from heredity.systems.ssl_wm.verification import ask, decide, permutation_test
