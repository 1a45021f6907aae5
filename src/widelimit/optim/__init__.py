"""Optax gradient transforms that apply a rule tree: learning rate, epsilon and weight decay per parameter."""

from widelimit.optim.alias import adam, adam_atan2, adamw, lion, sgd
from widelimit.optim.clip import clip_by_global_norm, global_norm
from widelimit.optim.decay import DecayState, add_decayed_weights, descend
from widelimit.optim.factored import scale_by_factored_rms
from widelimit.optim.moments import scale_by_adam, scale_by_adam_atan2
from widelimit.optim.muon import muon, scale_by_muon
from widelimit.optim.relative import adafactor, parameter_scale, scale_by_parameter_rms
from widelimit.optim.transforms import scale_by_layer, scale_gradients

__all__ = [
    "DecayState",
    "adafactor",
    "adam",
    "adam_atan2",
    "adamw",
    "add_decayed_weights",
    "clip_by_global_norm",
    "descend",
    "global_norm",
    "lion",
    "muon",
    "parameter_scale",
    "scale_by_adam",
    "scale_by_adam_atan2",
    "scale_by_factored_rms",
    "scale_by_layer",
    "scale_by_muon",
    "scale_by_parameter_rms",
    "scale_gradients",
    "sgd",
]
