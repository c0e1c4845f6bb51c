"""Tasks that depend on tasks."""

from sk_mtl.cascades._recipes import Cascade, Funnel, OutputCascade

__all__ = ["Cascade", "Funnel", "OutputCascade"]
