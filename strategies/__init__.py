"""How it can be learned: one file a family, each opening with its paper."""

if __name__ != "clbench.strategies":
    raise ImportError("Import clbench.strategies, not strategies; install the project first: pip install -e .")

CATALOGUE: dict[str, object] = {
    "agem": "clbench.strategies.agem:AGEM",
    "agem_r": "clbench.strategies.agem:AGEMR",
    "avalanche": "clbench.avalanche:Avalanche",
    "bic": "clbench.strategies.bic:BiC",
    "coact": "clbench.strategies.coact:CoACT",
    "continual_backprop": "clbench.strategies.plasticity:ContinualBackprop",
    "cumulative": "clbench.strategies.baselines:Cumulative",
    "der": "clbench.strategies.distillation:DER",
    "derpp": "clbench.strategies.distillation:DERPP",
    "er": "clbench.strategies.replay:ER",
    "er_ace": "clbench.strategies.er_ace:ERACE",
    "ewc": "clbench.strategies.consolidation:EWC",
    "fot": "clbench.strategies.subspace:FOT",
    "fpf": "clbench.strategies.fpf:FPF",
    "frequency_replay": "clbench.strategies.frequency:FrequencyReplay",
    "gdumb": "clbench.strategies.replay:GDumb",
    "gpm": "clbench.strategies.subspace:GPM",
    "hft": "clbench.strategies.hft:HFT",
    "icarl": "clbench.strategies.icarl:ICaRL",
    "joint": "clbench.strategies.baselines:Joint",
    "kfpf": "clbench.strategies.fpf:KFPF",
    "l2_init": "clbench.strategies.plasticity:L2Init",
    "lwf": "clbench.strategies.lwf:LwF",
    "mos": "clbench.strategies.mos:MOS",
    "naive": "clbench.strategies.baselines:Naive",
    "ncm": "clbench.strategies.prototypes:NCM",
    "rwalk": "clbench.strategies.paths:RWalk",
    "si": "clbench.strategies.paths:SI",
    "slda": "clbench.strategies.prototypes:SLDA",
    "wa": "clbench.strategies.alignment:WA",
}
