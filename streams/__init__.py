"""What can be taught: lessons in order, and the exams."""

if __name__ != "clbench.streams":
    raise ImportError("Import clbench.streams, not streams; install the project first: pip install -e .")

CATALOGUE: dict[str, object] = {
    "api_evolution": "clbench.streams.api_evolution:DOMAIN_STREAM",
    "api_releases": "clbench.streams.api_releases:RELEASE_STREAM",
    "avalanche": "clbench.avalanche:Classic",
    "blurry_cifar10": "clbench.streams.standard:BLURRY_CIFAR10",
    "blurry_cifar100": "clbench.streams.standard:BLURRY_CIFAR100",
    "blurry_mnist": "clbench.streams.standard:BLURRY_MNIST",
    "cifar10": "clbench.streams.standard:CIFAR10",
    "cifar100": "clbench.streams.standard:CIFAR100",
    "cifar100_17": "clbench.streams.standard:CIFAR100_17",
    "cifar100_20": "clbench.streams.standard:CIFAR100_20",
    "cir_cifar100": "clbench.streams.standard:CIR_CIFAR100",
    "cir_cifar100_slots": "clbench.streams.standard:CIR_CIFAR100_SLOTS",
    "digits": "clbench.streams.standard:DIGITS",
    "domains": "clbench.streams.standard:DOMAINS",
    "fashion_mnist": "clbench.streams.standard:FASHION_MNIST",
    "fewshot_cifar100": "clbench.streams.standard:FEWSHOT_CIFAR100",
    "fewtune_cifar100": "clbench.streams.standard:FEWTUNE_CIFAR100",
    "folder": "clbench.streams.standard:FOLDER",
    "forget_cifar100": "clbench.streams.standard:FORGET_CIFAR100",
    "forget_digits": "clbench.streams.standard:FORGET_DIGITS",
    "forget_orl": "clbench.streams.standard:FORGET_ORL",
    "mnist": "clbench.streams.standard:MNIST",
    "mnist_360": "clbench.streams.standard:MNIST_360",
    "pacs": "clbench.streams.standard:PACS",
    "permuted_mnist": "clbench.streams.standard:PERMUTED_MNIST",
    "permuted_mnist_long": "clbench.streams.standard:PERMUTED_MNIST_LONG",
    "rotated_mnist": "clbench.streams.standard:ROTATED_MNIST",
    "scole_cifar10": "clbench.streams.standard:SCOLE_CIFAR10",
    "scole_cifar100": "clbench.streams.standard:SCOLE_CIFAR100",
    "scole_fashion": "clbench.streams.standard:SCOLE_FASHION",
    "scole_mnist": "clbench.streams.standard:SCOLE_MNIST",
    "toy": "clbench.streams.toy:Toy",
}
