"""How it can be learned: one file a family, each opening with its paper."""

if __name__ != "clbench.strategies":
    raise ImportError("Import clbench.strategies, not strategies; install the project first: pip install -e .")

CATALOGUE: dict[str, object] = {
    "agem": "clbench.strategies.agem:AGEM",
    "agem_r": "clbench.strategies.agem:AGEMR",
    "bic": "clbench.strategies.bic:BiC",
    "cumulative": "clbench.strategies.baselines:Cumulative",
    "der": "clbench.strategies.distillation:DER",
    "derpp": "clbench.strategies.distillation:DERPP",
    "er": "clbench.strategies.replay:ER",
    "er_ace": "clbench.strategies.er_ace:ERACE",
    "fpf": "clbench.strategies.fpf:FPF",
    "frequency_replay": "clbench.strategies.frequency:FrequencyReplay",
    "gdumb": "clbench.strategies.replay:GDumb",
    "icarl": "clbench.strategies.icarl:ICaRL",
    "joint": "clbench.strategies.baselines:Joint",
    "kfpf": "clbench.strategies.fpf:KFPF",
    "naive": "clbench.strategies.baselines:Naive",
    "ncm": "clbench.strategies.prototypes:NCM",
    "slda": "clbench.strategies.prototypes:SLDA",
    "wa": "clbench.strategies.alignment:WA",
}
