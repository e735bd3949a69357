"""How it can be learned: one file a family, each opening with its paper."""

if __name__ != "clbench.strategies":
    raise ImportError("Import clbench.strategies, not strategies; install the project first: pip install -e .")

CATALOGUE: dict[str, object] = {
    "avalanche": "clbench.avalanche:Avalanche",
    "cumulative": "clbench.strategies.baselines:Cumulative",
    "der": "clbench.strategies.distillation:DER",
    "derpp": "clbench.strategies.distillation:DERPP",
    "er": "clbench.strategies.replay:ER",
    "fpf": "clbench.strategies.fpf:FPF",
    "gdumb": "clbench.strategies.replay:GDumb",
    "joint": "clbench.strategies.baselines:Joint",
    "kfpf": "clbench.strategies.fpf:KFPF",
    "naive": "clbench.strategies.baselines:Naive",
    "ncm": "clbench.strategies.prototypes:NCM",
    "slda": "clbench.strategies.prototypes:SLDA",
    "wa": "clbench.strategies.alignment:WA",
}
