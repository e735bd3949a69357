"""What can be measured: probes that look at a live run, and summaries of rows."""

if __name__ != "clbench.metrics":
    raise ImportError("Import clbench.metrics, not metrics; install the project first: pip install -e .")

from clbench.metrics.calls import CALLS
from clbench.metrics.detected import DETECTED
from clbench.metrics.elsewhere import ELSEWHERE
from clbench.metrics.summary import SUMMARIES

CATALOGUE: dict[str, object] = {
    "anytime": "clbench.metrics.anytime:Anytime",
    "anytime100": "clbench.metrics.anytime:Anytime100",
    "calibration": "clbench.metrics.calibration:Calibration",
    "cka": "clbench.metrics.cka:CKA",
    "confusion": "clbench.metrics.calibration:Confusion",
    "cost": "clbench.metrics.cost:Cost",
    "detection": "clbench.metrics.detection:Detection",
    "drift": "clbench.metrics.drift:Drift",
    "exams": "clbench.metrics.exams:Exams",
    "localisation": "clbench.metrics.localisation:Localisation",
    "loss": "clbench.metrics.cost:Loss",
    "online": "clbench.metrics.online:Online",
    "plasticity": "clbench.metrics.plasticity:Plasticity",
    "ranks": "clbench.metrics.ranks:Ranks",
    "recovery": "clbench.metrics.recovery:Recovery",
    "restoration": "clbench.metrics.restoration:Restoration",
    "retrieval": "clbench.metrics.retrieval:Retrieval",
    "sparsity": "clbench.metrics.sparsity:Sparsity",
    "timing": "clbench.metrics.cost:Timing",
    "usage": "clbench.metrics.usage:Usage",
    **SUMMARIES,
    **CALLS,
    **DETECTED,
    **ELSEWHERE,
}
