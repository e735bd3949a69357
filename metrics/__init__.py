"""What can be measured: probes that look at a live run, and summaries of rows."""

if __name__ != "clbench.metrics":
    raise ImportError("Import clbench.metrics, not metrics; install the project first: pip install -e .")

from clbench.metrics.summary import SUMMARIES

CATALOGUE: dict[str, object] = {
    "cost": "clbench.metrics.cost:Cost",
    "drift": "clbench.metrics.drift:Drift",
    "exams": "clbench.metrics.exams:Exams",
    "loss": "clbench.metrics.cost:Loss",
    "restoration": "clbench.metrics.restoration:Restoration",
    "timing": "clbench.metrics.cost:Timing",
    **SUMMARIES,
}
