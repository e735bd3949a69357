"""What can be taught: lessons in order, and the exams."""

if __name__ != "clbench.streams":
    raise ImportError("Import clbench.streams, not streams; install the project first: pip install -e .")

CATALOGUE: dict[str, object] = {
    "avalanche": "clbench.avalanche:Classic",
    "cifar10": "clbench.streams.standard:CIFAR10",
    "cifar100": "clbench.streams.standard:CIFAR100",
    "cifar100_20": "clbench.streams.standard:CIFAR100_20",
    "digits": "clbench.streams.standard:DIGITS",
    "domains": "clbench.streams.standard:DOMAINS",
    "fashion_mnist": "clbench.streams.standard:FASHION_MNIST",
    "folder": "clbench.streams.standard:FOLDER",
    "mnist": "clbench.streams.standard:MNIST",
    "pacs": "clbench.streams.standard:PACS",
    "permuted_mnist": "clbench.streams.standard:PERMUTED_MNIST",
    "rotated_mnist": "clbench.streams.standard:ROTATED_MNIST",
    "toy": "clbench.streams.toy:Toy",
}
