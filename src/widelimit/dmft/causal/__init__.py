"""Causal Monte Carlo for deep nonlinear networks: one pass through time, no fixed-point iteration."""

from widelimit.dmft.causal.planner import Plan, plan
from widelimit.dmft.causal.solve import mlp

__all__ = ["Plan", "mlp", "plan"]
